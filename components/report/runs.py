# SPDX-License-Identifier: Apache-2.0
"""The runs of an output folder, by their records."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from components.errors import BadInput

RECORD_FILE, REPORT_FILE = "record.json", "report.html"
SCHEMA_VERSION = 1


def all_runs(output: pathlib.Path) -> list[dict[str, Any]]:
    """The record of every run that has one, in the order in which they began; one that cannot be read is left out."""
    found = []
    for path in (output / "runs").glob(f"*/{RECORD_FILE}"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and record.get("schema_version") == SCHEMA_VERSION:
            found.append(rebase(record, output))
    return sorted(found, key=order)


def order(record: Mapping[str, Any]) -> tuple[int, str]:
    """A key to sort records by the order of their runs, whatever clocks said; former records have their id alone."""
    return int(record.get("sequence") or 0), str(record.get("run_id"))


def rebase(record: Any, output: pathlib.Path | str) -> Any:
    """A record, or a provenance, whose paths are where its output folder is now; that may have been copied or moved.

    Args:
        record: JSON values; `config.output` is where the folder was.
        output: where it is now.
    """
    former = (record.get("config") or {}).get("output")
    if not former or former == str(output):
        return record
    # As a whole path or the beginning of one, also amid a sentence.
    mention = re.compile(rf"""(?<![\w./~-]){re.escape(former)}(?=[/\s,;:'")\]]|$)""")

    def rebased(value: Any) -> Any:
        if isinstance(value, str):
            return mention.sub(lambda _: str(output), value)
        if isinstance(value, Mapping):
            return {rebased(key): rebased(item) for key, item in value.items()}
        return [rebased(item) for item in value] if isinstance(value, list) else value

    return rebased(record)


def find(output: pathlib.Path, name: str) -> dict[str, Any]:
    """The record of one run.

    Args:
        output: the output folder.
        name: the run's id, or a part of it that no other run's has.

    Raises:
        BadInput: there is no such run, or more than one.
    """
    known = all_runs(output)
    exact = [record for record in known if record["run_id"] == name]
    matching = exact or [record for record in known if name and name in record["run_id"]]
    if len(matching) != 1:
        what = f"{len(matching)} of them match" if matching else "none of them matches"
        names = ", ".join(record["run_id"] for record in known[-5:]) or "none"
        raise BadInput(f"a run is named by its id or a part of it, but {what} {name!r}; the last in {output}: {names}")
    return matching[0]


def folder(output: pathlib.Path, record: dict[str, Any]) -> pathlib.Path:
    """Where the record and the report of a run lie."""
    return output / "runs" / str(record["run_id"])
