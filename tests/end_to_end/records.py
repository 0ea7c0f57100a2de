# SPDX-License-Identifier: Apache-2.0
"""Records of runs that are going on, and their processes."""

from __future__ import annotations

import json
import pathlib
import subprocess
import time
from typing import Any


def newest_record(output: pathlib.Path) -> dict[str, Any]:
    """Returns the record that was written last; one without stages if there is none."""
    records = sorted(output.glob("runs/*/record.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(records[-1].read_text(encoding="utf-8")) if records else {"run_id": None, "stages": []}


def states(record: dict[str, Any]) -> dict[str, str]:
    """Returns the state of each stage by name."""
    return {stage["name"]: stage["state"] for stage in record["stages"]}


def is_started(output: pathlib.Path, stage: str, former: str | None = None) -> bool:
    """Says whether a run other than `former` has started a stage."""
    record = newest_record(output)
    return record["run_id"] != former and stage in states(record)


def wait_for(output: pathlib.Path, stage: str, process: subprocess.Popen[str], former: str | None = None) -> None:
    """Waits until the process's run has started a stage.

    Args:
        output: its output folder.
        stage: to wait for.
        process: of the run.
        former: identifier of the newest run before it.

    Raises:
        AssertionError: the process ended before.
    """
    while process.poll() is None:
        if is_started(output, stage, former):
            return
        time.sleep(0.001)
    raise AssertionError(process.communicate())
