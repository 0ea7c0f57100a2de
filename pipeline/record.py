# SPDX-License-Identifier: Apache-2.0
"""The record of a run: the one place that everything a person reads comes from."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from components.report import runs as report_runs

SCHEMA_VERSION = 1
RECORD_FILE = "record.json"
PUSHED, UNCHANGED, NOT_BLESSED, STOPPED, FAILED = "pushed", "unchanged", "not_blessed", "stopped", "failed"
DID_NOT_END = "the run did not end"
EXIT_CODES = {PUSHED: 0, UNCHANGED: 0, NOT_BLESSED: 3, STOPPED: 3, FAILED: 1}


def new(run_id: str, **known: Any) -> dict[str, Any]:
    """A record in which what is not known is null.

    Args:
        run_id: the run's name.
        **known: fields that are.
    """
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "sequence": None,
        "created_at": None,
        "verdict": FAILED,
        "exit_code": EXIT_CODES[FAILED],
        "reason": DID_NOT_END,
        "sentence": None,
        "forced": None,
        "dataset": None,
        "config": None,
        "model": None,
        "tuning": None,
        "candidate": None,
        "metrics": None,
        "baseline": None,
        "findings": [],
        "gates": [],
        "devices": None,
        "stages": [],
        "artifacts": {},
        "report": None,
        "log": None,
        "fingerprint": None,
    }
    unknown = set(known) - set(fields)
    if unknown:
        raise KeyError(f"a record has no field {sorted(unknown)[0]!r}")
    return fields | known


def write(record: Mapping[str, Any], path: pathlib.Path) -> None:
    """Writes a record so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The record of the run that a folder belongs to, with paths in the output folder as that is named now."""
    row = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    return dict(report_runs.rebase(row, folder.parent.parent))


def newest(output: pathlib.Path) -> dict[str, Any] | None:
    """The record of the last run that has a complete one, None without any.

    The last in the order of `sequence`: neither the zone of a run's clock nor one that was set back has a say in it.
    """
    fields = new("").keys() - {"sequence", "created_at"}  # which former records do not have
    return next((row for row in reversed(report_runs.all_runs(output)) if row.keys() >= fields), None)


def next_sequence(output: pathlib.Path) -> int:
    """The number of the run that begins now in an output folder, 1 or more: one more than the highest there."""
    return max((report_runs.order(row)[0] for row in report_runs.all_runs(output)), default=0) + 1


def ids(output: pathlib.Path) -> list[str]:
    """The name of each folder of a run, in the order in which they began; first those without a record."""
    known = [str(row["run_id"]) for row in report_runs.all_runs(output)]
    return [*sorted({path.name for path in (output / "runs").glob("*") if path.is_dir()} - {*known}), *known]


def sentence(record: Mapping[str, Any]) -> str:
    """The verdict in one line."""
    metrics, model, baseline = record["metrics"], record["model"], record["baseline"]
    words = {
        PUSHED: "PUSHED", UNCHANGED: "UNCHANGED", NOT_BLESSED: "NOT BLESSED", STOPPED: "STOPPED", FAILED: "FAILED"
    }  # fmt: skip
    parts = []
    if record["verdict"] not in (PUSHED, UNCHANGED):
        parts.append(record["reason"])
    elif metrics:
        parts.append(f"accuracy {metrics['accuracy']:.2%}")
        if baseline:
            parts.append(f"baseline {baseline['metrics']['accuracy']:.2%} (version {baseline['version']})")
        else:
            parts.append("no baseline yet")
        if model and model.get("path"):
            parts.append(f"version {model['version']} in {model['path']}")
        if record["forced"]:
            parts.append(f"FORCED past the model gate: {record['forced']}")
    return f"{words[record['verdict']]}: {', '.join(parts)}"
