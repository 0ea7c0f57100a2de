# SPDX-License-Identifier: Apache-2.0
"""The state of trainings that did not end, `checkpoints/IDENTITY` in the output folder, and when nobody needs it.

Each run notes which of them are there when it begins, and when each was last written. One with the same time now was
left alone since: that it is the same says so, not which is later, for clocks are set back and forth.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from typing import Any

from components.errors import BadInput
from components.push import destination, history, rollback, versions
from components.push.versions import Version
from pipeline import database, metadata, run_record
from pipeline.local import lock
from pipeline.settings import ModelLocation

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
    row = run_record.newest_record(output)
    for folder in untouched(output, row) if row else ():
        if time.time() - folder.stat().st_mtime > _SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


def prune(place: ModelLocation, keep: int) -> dict[str, Any]:
    """Removes all but the newest `keep` runs and versions and what must stay.

    Args:
        place: output folder and model.
        keep: how many, 1 or more.

    Returns:
        `kept`: `versions` (number -> why) and `runs` (ids); `removed`: `versions` (numbers), `runs` (ids), `artifacts`
        and `checkpoints` (counts); `freed`: bytes on this machine by the same keys, and `total`; `note`: what could not
        be looked up, or None.

    Raises:
        BadInput: there is no such output folder, it is not writable, or a run or another program is using it.
    """
    if keep < 1:
        raise BadInput(f"--keep takes how many runs and versions stay, 1 or more, not {keep}")
    if not place.output.is_dir():
        raise BadInput(f"--output names the folder that runs have written; {place.output} is none")
    with lock.held(place.output, room=False):  # this is what empties a full disk
        _refuse_unavailable(place.database)
        with history.one_at_a_time(place.model):
            present = versions.all_versions(place.model)
            why = _kept_versions(place.model, present, keep)
            freed = {"versions": 0, "runs": 0, "artifacts": 0, "checkpoints": 0}
            gone = [version for version in present if version.number not in why]
            for version in gone:
                freed["versions"] += _size(pathlib.Path(version.location))
                place.model.remove(version.number)
            if gone:
                history.append(place.model, "prune", versions=[version.number for version in gone], keep=keep)
        runs = [name for name in run_record.run_ids(place.output) if _RUN_ID.fullmatch(name)]
        makers = {str(version.provenance.get("run_id")) for version in present if version.number in why}
        kept_runs = [run for run in runs if run in runs[-keep:] or run in makers]
        old_runs = [run for run in runs if run not in kept_runs]
        artifacts, note = _forget(place, kept_runs)
        states = _stale_checkpoints(place.output, kept_runs)
        pages = [
            page for page in (place.output / "runs").glob("compare-*.html") if any(run in page.name for run in old_runs)
        ]
        for key, paths in (
            ("artifacts", artifacts),
            ("checkpoints", states),
            ("runs", [*(place.output / "runs" / run for run in old_runs), *pages]),
        ):
            freed[key] = _remove(paths)
    return {
        "kept": {"versions": why, "runs": kept_runs},
        "removed": {
            "versions": [version.number for version in gone],
            "runs": old_runs,
            "artifacts": len(artifacts),
            "checkpoints": len(states),
        },
        "freed": {**freed, "total": sum(freed.values())},
        "note": note,
    }


def _refuse_unavailable(file: pathlib.Path) -> None:
    """Refuses to go on while the metadata cannot be told what goes; where they are damaged, records say what stays."""
    try:
        database.check(file)
    except database.Unavailable:
        raise
    except BadInput:
        pass


def _kept_versions(model: destination.Destination, present: list[Version], keep: int) -> dict[int, str]:
    """Number -> why it stays."""
    why = {version.number: "among the newest" for version in present[-keep:]}
    production = versions.production_version(model)
    if production is not None:
        best = versions.best_version(model, production.dataset)
        if best is not None:
            why[best.number] = "the best ever pushed"
    for label, number in versions.read_labels(model).items():
        why[number] = label
    if production is not None:
        why[production.number] = "in production"
    return dict(sorted(why.items()))


def _forget(place: ModelLocation, kept_runs: Iterable[str]) -> tuple[list[pathlib.Path], str | None]:
    """Marks the artifacts that no kept run used or made as deleted; returns their folders, and what went wrong."""
    root = place.output / "pipeline_root"
    # NODE/KEY/EXECUTION holds an artifact, NODE/.system/WHAT/EXECUTION what lived only as long as its execution.
    folders = [path for path in root.glob("*/*/*") if path.parent.name != ".system"]
    try:
        kept, note = metadata.keep_only(metadata.connect(place.database, write=True), kept_runs), None
    except metadata.LostError as error:
        # The next run clears them away; until then the reports of the kept runs need theirs.
        kept = {metadata.place_of(uri) for run in kept_runs for uri in _artifacts_of(place.output / "runs" / run)}
        note = f"{error} Only artifacts that the records of the kept runs name are kept."
    return [
        *(path for path in folders if path.relative_to(root).as_posix() not in kept),
        *root.glob("*/.system/*/*"),
    ], note


def _artifacts_of(run: pathlib.Path) -> list[str]:
    try:
        return list(run_record.read_record(run)["artifacts"].values())
    except (OSError, ValueError, KeyError):  # a run that was killed before its record was written
        return []


def _stale_checkpoints(output: pathlib.Path, kept_runs: list[str]) -> list[pathlib.Path]:
    """Those that the oldest kept run found and all left alone since: no kept run's training goes on from them."""
    try:
        return untouched(output, run_record.read_record(output / "runs" / kept_runs[0]))
    except (IndexError, OSError, ValueError):  # no run, or one that was killed before its record was written
        return []


def _remove(paths: Iterable[pathlib.Path]) -> int:
    freed = 0
    for path in paths:
        freed += _size(path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return freed


def _size(path: pathlib.Path) -> int:
    """Bytes of a file or of all below a folder; 0 for what is not on this machine."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())


def roll_back(place: ModelLocation, number: int | None, reason: str | None) -> tuple[Version, list[str]]:
    """Puts an older version back in production.

    Args:
        place: output folder and model.
        number: the version; None: the one that was in production before.
        reason: why; None: not told.

    Returns:
        The new version, and sentences about what could not be noted.

    Raises:
        BadInput: there is no such version.
        GateStopped: something was pushed in the meantime.
    """
    chosen = rollback.choose(place.model, number)
    new = rollback.roll_back(place.model, chosen, reason)
    try:
        store = metadata.connect(place.database, write=True)
        origin = metadata.matching(metadata.pushed(store), chosen.number, chosen.location, chosen.provenance)
        metadata.record_rollback(store, origin, new.number, new.location, new.provenance)
    except metadata.LostError as error:
        return new, [f"{error} The provenance beside the model has all of it."]
    return new, []
