# SPDX-License-Identifier: Apache-2.0
"""The state of trainings that did not end, `checkpoints/IDENTITY` in the output folder, and when nobody needs it.

Each run notes which of them are there when it begins, and when each was last written. One with the same time now was
left alone since: that it is the same says so, not which is later, for clocks are set back and forth.
"""

from __future__ import annotations

import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

from pipeline import record

_SECONDS = 7 * 24 * 3600


def present(output: pathlib.Path) -> dict[str, int]:
    """Name -> when it was last written or gone on from, in nanoseconds, of each that is there."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "checkpoints").glob("*")}


def untouched(output: pathlib.Path, row: Mapping[str, Any]) -> list[pathlib.Path]:
    """Those that were there when a run began, and which neither it nor a later one went on from."""
    before = (row.get("fingerprint") or {}).get("checkpoints", {})
    return [output / "checkpoints" / name for name, time_ns in present(output).items() if before.get(name) == time_ns]


def drop_old(output: pathlib.Path) -> None:
    """Removes those that no run has gone on from for a week, and the last one did not either."""
    row = record.newest(output)
    for folder in untouched(output, row) if row else ():
        if time.time() - folder.stat().st_mtime > _SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
