# SPDX-License-Identifier: Apache-2.0
"""The answers of `python -m pipeline.lineage` for a person at a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from pipeline import tables

_UNKNOWN = "not known"


class _Table(NamedTuple):
    """A section with more columns than a name and a value."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def show(answer: Mapping[str, Any], terminal: Console) -> None:
    """Prints all that is known of a version."""
    state = (
        "in production" if answer["production"] else "removed" if answer["location"] is None else "not in production"
    )
    labels = "".join(f", {label}" for label in answer["labels"])
    tables.line(terminal, f"{answer['name'] or 'model'}, version {answer['version']} ({state}{labels})", "bold")
    tables.line(terminal, answer["note"] or f"From {answer['source']}.", "yellow" if answer["note"] else "dim")
    for title, section in _sections(answer):
        terminal.print()
        tables.line(terminal, title, "bold")
        _show(section, terminal)


def show_differences(
    one: Mapping[str, Any], other: Mapping[str, Any], found: Mapping[str, Any], terminal: Console
) -> None:
    """Prints in what two versions differ."""
    for answer in (one, other):
        if answer["note"]:
            tables.line(terminal, f"Version {answer['version']}: {answer['note']}", "yellow")
    tables.line(terminal, f"The same: {', '.join(found['same']) or 'nothing'}.", "green")
    tables.line(terminal, f"Different: {', '.join(found['different']) or 'nothing'}.", "bold")
    if found["differences"]:
        header = ("", f"version {one['version']}", f"version {other['version']}")
        rows = [(row["name"], _short(row["one"]), _short(row["other"])) for row in found["differences"]]
        tables.show(terminal, rows, header, gap=4, indent=2)


def _sections(answer: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, Any]] | _Table]]:
    data, metrics, intervals = answer["data"], answer["metrics"] or {}, answer["intervals"] or {}
    if back := answer["rollback"]:
        yield (
            "Rollback",
            [
                ("the model of version", back["of"]),
                ("in place of version", (back.get("replaced") or {}).get("version")),
                ("by", back["by"]),
                ("at", back["at"]),
                ("why", back["reason"]),
            ],
        )
    yield (
        "Origin",
        [
            ("pushed at", answer["pushed_at"]),
            ("pushed to", answer["location"] or "removed since"),
            ("run", answer["run_id"]),
            ("forced", answer["forced"] or "no"),
            ("git commit", answer["code"]["git_commit"]),
            ("code, SHA-256", answer["code"]["sha256"]),
            ("locked dependencies, SHA-256", answer["dependencies"]["lock_sha256"]),
            ("schema, SHA-256", (answer["schema"] or {}).get("sha256")),
            ("model, SHA-256", answer["model"]["sha256"]),
        ],
    )
    splits = ", ".join(f"{count:,} {name}" for name, count in (data["splits"] or {}).items())
    yield (
        "Data",
        [
            ("name", data["name"]),
            ("chosen", data["choice"]),
            ("images", f"{data['images'] or 0:,}: {splits or _UNKNOWN}"),
            ("span", data["span"]),
            ("licence", data["licence"]),
            ("SHA-256", data["sha256"]),
            *((f"SHA-256 of {name}", digest) for name, digest in (data["files"] or {}).items()),
        ],
    )
    low, high = intervals.get("accuracy") or (None, None)
    interval = f" (95 % interval {low:.2%} to {high:.2%})" if low is not None else ""
    recall = metrics.get("recall") or {}
    yield (
        "Figures on the test images",
        [
            ("accuracy", f"{metrics['accuracy']:.2%}{interval}" if metrics else None),
            ("loss", metrics.get("loss")),
            (
                "lowest recall",
                min(((value, f"{value:.2%}, class {name}") for name, value in recall.items()), default=(0, None))[1],
            ),
            ("baseline", _compared(answer["baseline"])),
            ("best ever pushed", _compared(answer["best"])),
        ],
    )
    gates = answer["gates"] or []
    if gates:
        rows = [(gate["name"], "passed" if gate["passed"] else "CLOSED", gate["reason"]) for gate in gates]
        yield "Gates", _Table(("gate", "", "why"), rows)
    findings = answer["findings"] or []
    if findings:
        rows = [
            (finding["name"], "allowed" if finding.get("allowed") else "", finding["sentence"]) for finding in findings
        ]
        yield "Findings in the data", _Table(("finding", "", "what was found"), rows)
    yield "Configuration", [(name, _shown(value)) for name, value in _flat(answer["config"])]
    if answer["steps"]:
        steps = [(step["stage"], step["began"], f"{step['seconds']:.1f} s", step["run_id"]) for step in answer["steps"]]
        yield "Stages that led to it", _Table(("stage", "began", "took", "run"), steps)


def _compared(other: Mapping[str, Any] | None) -> str:
    if not other:
        return "none at that time"
    return f"version {other['version']}, accuracy {other['metrics']['accuracy']:.2%}"


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def _short(value: Any) -> str:
    """The same, of a digest only the beginning: enough to see that it is another."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = _shown(value)
    return f"{text[:12]}…" if re.fullmatch(r"[0-9a-f]{40,}", text) else text


def _show(section: list[tuple[str, Any]] | _Table, terminal: Console) -> None:
    if isinstance(section, _Table):
        tables.show(terminal, section.rows, section.header, gap=4, indent=2)
    else:
        rows = [(Text(name, "dim"), _UNKNOWN if value is None else str(value)) for name, value in section]
        tables.show(terminal, rows, gap=2, indent=2)
