# SPDX-License-Identifier: Apache-2.0
"""Where a pushed model came from, and in what two of them differ: the answers of `python -m pipeline.lineage`.

Facts come from ML Metadata. Where those are lost, or know nothing of a version, the provenance that lies beside the
model answers in their place, and the answer says so.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from components import environment, stdio
from components.errors import BadInput, exit_code
from components.push import model_card, versions
from components.push.serving_dir import ServingDir, open_destination
from pipeline import cli, metadata, run_record, settings, tables
from pipeline.cli import Parser

METADATA, BESIDE = "ML Metadata", "the files beside the model"
# What is not compared: it differs always, or follows from what is.
_NOT_COMPARED = frozenset({"name", "version", "location", "production", "labels", "source", "note", "steps", "run_id",
                           "pushed_at", "intended_use", "limits", "intervals", "schema_version"})  # fmt: skip
_NOT_COMPARED_IN = {
    "config": {"output", "schema", "data_dir"},  # paths; what lies there is compared by its content
    "metrics": {"confusion", "slices", "intervals", "calibration"},
    "baseline": {"metrics"},
    "best": {"metrics"},
}


def model_lineage(where: ServingDir, database: pathlib.Path, number: int | None) -> dict[str, Any]:
    """All that is known of one version: its model card, and the stages that led to it.

    Args:
        where: the model's folder.
        database: the metadata of the output folder.
        number: the version; None: the one in production.

    Returns:
        The fields of the model card (`model_card.build_card`), and `location` (None once it was removed),
        `production`, `labels`, `source` (where the facts are from), `note` (why not from ML Metadata, or None), and
        `steps`: for each stage `stage`, `run_id`, `state`, `began`, `seconds`, `code_sha256` and `outputs`.

    Raises:
        BadInput: there is no such version.
    """
    folder = open_destination(where)
    there = {version.number: version for version in versions.all_versions(folder)}
    production = versions.production_version(folder)
    note, pushes, store = None, [], None
    try:
        store = metadata.connect(database)
        with metadata.reading(database):
            pushes = metadata.pushed(store)
    except metadata.LostError as error:
        note = str(error)
    if number is None:
        if production is None:
            raise BadInput(f"without a VERSION, the one in production is meant; there is none in {folder.url}")
        number = production.number
    beside = there.get(number)
    found = metadata.matching(pushes, number, folder.location(number), beside.provenance if beside else {})
    provenance, steps = (found.provenance if found else {}), []
    try:
        if store and found:
            with metadata.reading(database):
                steps = metadata.steps(store, found.artifact_id, database.parent)
    except metadata.LostError as error:
        note = str(error)
    if found is None and beside is None:
        removed = {n for n in {push.version for push in pushes} if metadata.matching(pushes, n, folder.location(n), {})}
        known = sorted({*there, *removed})
        listed = ", ".join(map(str, known)) or "none"
        raise BadInput(f"a version of {folder.url} is one that was pushed; {number} was not. Known are: {listed}")
    if not provenance and beside is not None:
        note = note or f"The metadata in {database} know nothing of this version."
        provenance = beside.provenance
    provenance = run_record.rebase(provenance, database.parent)
    return {
        **model_card.build_card({**provenance, "version": number}),
        "location": beside and beside.location,
        "production": production is not None and production.number == number,
        "labels": sorted(label for label, bearer in versions.read_labels(folder).items() if bearer == number),
        "source": BESIDE if note else METADATA,
        "note": note and f"{note} What lies beside the model answers instead.",
        "steps": [step._asdict() for step in steps],
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """In what two answers differ.

    Returns:
        `same`, `different`: the parts (`data`, `code`, `config`, …) in which they agree and in which they do not; and
        `differences`, rows of `name`, `one` and `other`, such as `config.training.seed`.
    """
    here, there = _flat(one), _flat(other)
    names = [name for name in dict.fromkeys([*here, *there]) if (here.get(name), there.get(name)) != (None, None)]
    rows: list[dict[str, Any]] = [
        {"name": name, "one": here.get(name), "other": there.get(name)}
        for name in names
        if here.get(name) != there.get(name)
    ]
    parts = list(dict.fromkeys(name.partition(".")[0] for name in names))
    different = {row["name"].partition(".")[0] for row in rows}
    return {
        "same": [part for part in parts if part not in different],
        "different": [part for part in parts if part in different],
        "differences": rows,
    }


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"config": {"training": {"seed": 1}}} -> {"config.training.seed": 1}; gates and findings by their names."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if not prefix and key in _NOT_COMPARED:
            continue
        part = f"{prefix}{key}"
        if prefix and key in _NOT_COMPARED_IN.get(prefix[:-1], ()):
            continue
        if part == "gates":
            flat |= {
                f"gates.{gate['name']}.{what}": gate[what]
                for gate in value or ()
                for what in ("measured", "limit", "passed")
            }
        elif part == "findings":
            for finding in value or ():
                flat[f"findings.{finding['name']}"] = flat.get(f"findings.{finding['name']}", 0) + 1
        elif isinstance(value, Mapping):
            flat |= _flat(value, f"{part}.")
        else:
            flat[part] = value
    return flat


_UNKNOWN = "not known"


class _Table(NamedTuple):
    """A section with more columns than a name and a value."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def print_lineage(answer: Mapping[str, Any], terminal: Console) -> None:
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


def print_differences(
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
    yield "Configuration", [(name, _shown(value)) for name, value in _config_items(answer["config"])]
    if answer["steps"]:
        steps = [(step["stage"], step["began"], f"{step['seconds']:.1f} s", step["run_id"]) for step in answer["steps"]]
        yield "Stages that led to it", _Table(("stage", "began", "took", "run"), steps)


def _compared(other: Mapping[str, Any] | None) -> str:
    if not other:
        return "none at that time"
    return f"version {other['version']}, accuracy {other['metrics']['accuracy']:.2%}"


def _config_items(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _config_items(value, f"{prefix}{key}.")
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


_DESCRIPTION = "Tells where a pushed model came from, or in what two of them differ."
# Columns where there is no terminal: no digest is broken.
_FILE_WIDTH = 160


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 done, 2 wrong usage or no such version, 1 anything else."""

    def work() -> None:
        args = _parse(arguments)
        cli.write_json(_do(args), args.json)

    return exit_code(work)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m pipeline.lineage", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("version", nargs="?", type=int, metavar="VERSION", help="default: the one in production")
    parser.add_argument("--compare", nargs=2, type=int, metavar=("A", "B"), help="two versions")
    settings.add_location_arguments(parser)
    args = parser.parse_args(arguments)
    if args.version is not None and args.compare:
        parser.error("either VERSION or --compare A B, not both")
    return args


def _do(args: argparse.Namespace) -> Any:
    """Prints what was asked for, unless as JSON to stdout; returns it as JSON values."""
    where = settings.open_location(args)

    from rich.console import Console

    terminal = Console(highlight=False, quiet=args.json == "-")
    if not terminal.is_terminal:
        terminal.width = _FILE_WIDTH
    if not args.compare:
        lineage = model_lineage(where.model, where.database, args.version)
        print_lineage(lineage, terminal)
        return lineage
    one, other = (model_lineage(where.model, where.database, number) for number in args.compare)
    found = differences(one, other)
    print_differences(one, other, found, terminal)
    return {"compared": list(args.compare), **found}


if __name__ == "__main__":
    environment.prepare()
    stdio.run(lambda: main(sys.argv[1:]))
