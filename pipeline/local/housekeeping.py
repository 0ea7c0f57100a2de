# SPDX-License-Identifier: Apache-2.0
"""Removes what runs leave behind, and puts older versions back in production.

A training that did not end leaves its state in `checkpoints/IDENTITY` in the output folder. Each run records the time
at which each of these folders was last changed. If a folder's time is the same now, no later run has used it; times are
compared for equality only, as clocks are set back and forth.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import time
from collections.abc import Iterable
from typing import Any

from components.errors import BadInput
from components.push import destination, history, rollback, versions
from components.push.versions import Version
from pipeline import database, run_record
from pipeline.local import lock
from pipeline.run_record import RunRecord
from pipeline.settings import ModelLocation

_CHECKPOINT_SECONDS = 7 * 24 * 3600


def checkpoint_times(output: pathlib.Path) -> dict[str, int]:
    """Returns the name of each folder of checkpoints and the time of its last change, in nanoseconds since 1970."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "checkpoints").glob("*")}


def unused_checkpoints(output: pathlib.Path, record: RunRecord) -> list[pathlib.Path]:
    """Returns the folders that were there when a run began, and that neither it nor a later run has changed."""
    before = record.fingerprint.checkpoints if record.fingerprint else {}
    times = checkpoint_times(output)
    return [output / "checkpoints" / name for name, time_ns in times.items() if before.get(name) == time_ns]


def drop_old(output: pathlib.Path) -> None:
    """Removes checkpoints that no run has changed for a week, the last run included."""
    record = run_record.newest_record(output)
    for folder in unused_checkpoints(output, record) if record else ():
        if time.time() - folder.stat().st_mtime > _CHECKPOINT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


def prune(location: ModelLocation, count: int) -> dict[str, Any]:
    """Removes all but the newest `keep` runs and versions and what must stay.

    Args:
        location: output folder and model.
        keep: number of runs and versions, 1 or more.

    Returns:
        `kept`: `versions` (number -> reason) and `runs` (ids); `removed`: `versions` (numbers), `runs` (ids),
        `artifacts` and `checkpoints` (counts); `freed`: bytes on this machine by the same keys, and `total`; `note`:
        a sentence where the metadata could not be read, or None.

    Raises:
        BadInput: there is no such output folder, it is not writable, or a run or another program is using it.
    """
    if count < 1:
        raise BadInput(f"--keep takes the number of runs and versions that stay, 1 or more, not {count}")
    if not location.output.is_dir():
        raise BadInput(f"--output names the folder that runs have written; {location.output} is none")
    with lock.exclusive(location.output, room=False):  # this is the command that empties a full disk
        _refuse_unavailable(location.database)
        with history.lock(location.model):
            present = versions.all_versions(location.model)
            reasons = _protected_versions(location.model, present, count)
            freed = {"versions": 0, "runs": 0, "artifacts": 0, "checkpoints": 0}
            removed = [version for version in present if version.number not in reasons]
            for version in removed:
                freed["versions"] += _size(pathlib.Path(version.location))
                location.model.remove(version.number)
            if removed:
                history.append(location.model, "prune", versions=[version.number for version in removed], keep=count)
        runs = [name for name in run_record.run_ids(location.output) if _RUN_ID.fullmatch(name)]
        origins = {str(version.provenance.get("run_id")) for version in present if version.number in reasons}
        recent_runs = [run for run in runs if run in runs[-count:] or run in origins]
        old_runs = [run for run in runs if run not in recent_runs]
        artifacts, note = _unused_artifacts(location, recent_runs)
        states = _stale_checkpoints(location.output, recent_runs)
        folder = location.output / "runs"
        pages = [page for page in folder.glob("compare-*.html") if any(run in page.name for run in old_runs)]
        for key, paths in (
            ("artifacts", artifacts),
            ("checkpoints", states),
            ("runs", [*(folder / run for run in old_runs), *pages]),
        ):
            freed[key] = _remove(paths)
    return {
        "kept": {"versions": reasons, "runs": recent_runs},
        "removed": {
            "versions": [version.number for version in removed],
            "runs": old_runs,
            "artifacts": len(artifacts),
            "checkpoints": len(states),
        },
        "freed": {**freed, "total": sum(freed.values())},
        "note": note,
    }


def _refuse_unavailable(file: pathlib.Path) -> None:
    """Refuses to go on while another program has the metadata open; damaged ones are replaced by the runs' records."""
    try:
        database.check(file)
    except database.DatabaseUnavailable:
        raise
    except BadInput:
        pass


def _protected_versions(model: destination.Destination, present: list[Version], count: int) -> dict[int, str]:
    """Returns the number of each version that stays, and the reason."""
    reasons = {version.number: "among the newest" for version in present[-count:]}
    production = versions.production_version(model)
    if production is not None:
        best = versions.best_version(model, production.dataset)
        if best is not None:
            reasons[best.number] = "the best ever pushed"
    for label, number in versions.read_labels(model).items():
        reasons[number] = label
    if production is not None:
        reasons[production.number] = "in production"
    return dict(sorted(reasons.items()))


def _unused_artifacts(location: ModelLocation, runs: Iterable[str]) -> tuple[list[pathlib.Path], str | None]:
    """Marks the artifacts that none of the runs used or made as deleted; returns their folders, and any error."""
    from pipeline import metadata  # with ML Metadata, which a run with nothing changed does without

    root = location.output / "pipeline_root"
    # NODE/KEY/EXECUTION holds an artifact, NODE/.system/KIND/EXECUTION the working files of an execution.
    folders = [path for path in root.glob("*/*/*") if path.parent.name != ".system"]
    try:
        used, note = metadata.delete_unused(metadata.connect(location.database, write=True), runs), None
    except metadata.MetadataError as error:
        # The next run removes these artifacts; until then the reports of the runs need them.
        used = {metadata.artifact_path(uri) for run in runs for uri in _artifacts_of(location.output / "runs" / run)}
        note = f"{error} Only artifacts that the records of the kept runs name are kept."
    return [
        *(path for path in folders if path.relative_to(root).as_posix() not in used),
        *root.glob("*/.system/*/*"),
    ], note


def _artifacts_of(run: pathlib.Path) -> list[str]:
    try:
        return list(run_record.read_record(run).artifacts.values())
    except (OSError, ValueError):  # the run was killed before it wrote its record
        return []


def _stale_checkpoints(output: pathlib.Path, runs: list[str]) -> list[pathlib.Path]:
    """Returns the checkpoints that neither the first of the runs nor a later one has used."""
    try:
        return unused_checkpoints(output, run_record.read_record(output / "runs" / runs[0]))
    except (IndexError, OSError, ValueError):  # no run, or it was killed before it wrote its record
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
    """Returns the bytes of a file or of all files below a folder; 0 for a path that is not on this machine."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())


def roll_back(location: ModelLocation, number: int | None, reason: str | None) -> tuple[Version, list[str]]:
    """Puts an older version back in production.

    Args:
        location: output folder and model.
        number: the version; None: the one that was in production before.
        reason: for the record; None: none is given.

    Returns:
        The new version, and sentences about what could not be recorded.

    Raises:
        BadInput: there is no such version.
        GateStopped: something was pushed in the meantime.
    """
    from pipeline import metadata

    chosen = rollback.choose(location.model, number)
    new = rollback.roll_back(location.model, chosen, reason)
    try:
        store = metadata.connect(location.database, write=True)
        origin = metadata.find_push(metadata.read_pushes(store), chosen.number, chosen.location, chosen.provenance)
        metadata.record_rollback(store, origin, new.number, new.location, new.provenance)
    except metadata.MetadataError as error:
        return new, [f"{error} The provenance beside the model has all of it."]
    return new, []
