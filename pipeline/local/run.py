# SPDX-License-Identifier: Apache-2.0
"""One run on this machine, from configuration to record."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from components.errors import BadInput
from components.ingest.source import Choice
from components.push import versions
from pipeline import code_digest, outcome, record
from pipeline.config import Config
from pipeline.local import supervise
from pipeline.local.console import Console, redirected

if TYPE_CHECKING:
    from pipeline.local.stages import Stage

# What a run writes below its output folder.
_WRITTEN = ("runs", "pipeline_root", "pipeline_root/*", "checkpoints", "metadata.db", "serving", "serving/*")
_CHECKPOINT_SECONDS = 7 * 24 * 3600
# Which module each node's code starts from.
_CODE = {
    "ingest": "components.ingest.component",
    "baseline": "components.push.component",
    "schema": "components.validate.component",
    "statistics": "components.validate.component",
    "anomalies": "components.validate.component",
    "data-check": "components.validate.component",
    "data-gate": "components.gate",
    "transform": "components.transform.component",
    "train": "components.train.component",
    "infra-check": "components.evaluate.component",
    "infra-gate": "components.gate",
    "evaluate": "components.evaluate.component",
    "model-gate": "components.gate",
    "push": "components.push.component",
}


def run(config: Config, choice: Choice, console: Console) -> dict[str, Any]:
    """Runs the pipeline, or repeats the former verdict where nothing has changed.

    Args:
        config: the effective configuration.
        choice: the data, found and verified.
        console: shows what happens.

    Returns:
        The record; it also lies in `output/runs/RUN_ID/record.json`.

    Raises:
        BadInput: the output folder is not writable, or another run uses it.
    """
    with _locked(config.output):
        console.say(choice.sentence)
        fingerprint = _fingerprint(config, choice)
        former = None if config.fresh else _former(config, fingerprint)
        if former is not None:
            console.say(
                f"Nothing has changed since run {former['run_id']}: its verdict stands (--fresh runs all again)."
            )
            return former
        _drop_orphans(config.output, console)
        _drop_old_checkpoints(config.output)
        run_id = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        folder = config.output / "runs" / run_id
        folder.mkdir(parents=True)
        source = choice.source
        row = record.new(
            run_id,
            forced=config.force_push,
            dataset={
                "name": source.name, "images": source.images, "sha256": source.sha256, "choice": choice.sentence
            },
            config=config.to_record(),
            log=str(folder / "log.txt"),
            fingerprint={},
        )  # fmt: skip
        # Until it ends, a run's record says that it did not.
        _save(row)
        supervise.tell(folder)
        try:
            with _temporary_folder(config.output):
                _run_stages(config, choice, console, row)
        except KeyboardInterrupt:
            row["reason"] = "it was interrupted"
            raise
        finally:
            row["fingerprint"] |= {"inputs": fingerprint, "serving": versions.state(config.serving_dir)}
            row["sentence"] = record.sentence(row)
            _report(row, folder, console)
            if fault := _save(row):
                console.say(f"The record could not be written: {fault}")
        return row


def _save(row: dict[str, Any]) -> str:
    """Writes the record into the run's folder; says what is wrong where that fails, as on a disk that is full."""
    try:
        record.write(row, pathlib.Path(row["log"]).with_name(record.RECORD_FILE))
    except OSError as error:
        return str(error)
    return ""


def _report(row: dict[str, Any], folder: pathlib.Path, console: Console) -> None:
    """Writes the report; the verdict stands even where that fails."""
    from components.report import page

    row["report"] = str(folder / "report.html")
    try:
        page.write(row, folder)
    except Exception as error:
        row["report"] = None
        with contextlib.suppress(OSError), pathlib.Path(row["log"]).open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        console.say(f"The report could not be written, the log has the cause: {type(error).__name__}: {error}")


def _drop_orphans(output: pathlib.Path, console: Console) -> None:
    """Removes artifacts that no metadata know: new ones would get the same names and be mixed with what lies there."""
    root = output / "pipeline_root"
    if root.exists() and not (output / "metadata.db").exists():
        console.say(
            f"The metadata {output / 'metadata.db'} are gone, so every stage runs again; the artifacts are removed."
        )
        shutil.rmtree(root)


def _drop_old_checkpoints(output: pathlib.Path) -> None:
    """Removes the checkpoints of trainings that no run has gone on with for a week."""
    for folder in (output / "checkpoints").glob("*"):
        if time.time() - folder.stat().st_mtime > _CHECKPOINT_SECONDS:
            shutil.rmtree(folder)


@contextlib.contextmanager
def _temporary_folder(output: pathlib.Path) -> Iterator[None]:
    """Keeps temporary files, this process's and those of the processes that it starts, where they can be cleared away.

    Beam and TensorFlow Transform write theirs to the system's folder, and a run that is killed leaves them there.
    """
    folder = output / "tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = None
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _run_stages(config: Config, choice: Choice, console: Console, row: dict[str, Any]) -> None:
    """Runs the graph and fills in the record, whatever happens."""
    stages: list[Stage] = []
    error: Exception | None = None
    started = time.monotonic()
    with redirected(pathlib.Path(row["log"])), console.stages():
        console.stage("start", "running", 0)
        try:
            from pipeline import graph
            from pipeline.local import stages as local_stages

            ir = local_stages.compile_graph(
                graph.build(config, _place(graph, config, choice, row)), config.output, config.beam_args
            )
            digests = {name: code_digest.of_module(module) for name, module in _CODE.items()}
            digests["schema"] = code_digest.of_module(_CODE["schema"], config.schema)
            console.stage("start", "done", time.monotonic() - started)

            def changed(stage: Stage) -> None:
                console.stage(stage.name, stage.state, stage.seconds)
                # What a run has come to is known even if it is killed.
                row["stages"] = [outcome.stage_row(one) for one in (*ended, stage)]
                _save(row)
                if stage.state != local_stages.RUNNING:
                    ended.append(stage)

            ended: list[Stage] = []
            stages = local_stages.run(ir, row["run_id"], digests, config.fresh, changed)
        except Exception as failure:
            traceback.print_exc()
            stages, error = getattr(failure, "stages", []), outcome.cause(failure)
        outcome.fill(row, stages)
        row["fingerprint"] = {
            "artifacts": {str(stage.uri(key)): stage.content_digest(key) for stage in stages for key in stage.outputs}
        }
        outcome.judge(row, stages, outcome.Failure.of(error) if error else None)


def _place(graph: ModuleType, config: Config, choice: Choice, row: Mapping[str, Any]) -> Any:
    source = choice.source
    return graph.Place(
        data_dir=str(source.data_dir),
        dataset=source.name,
        data_sha256=source.sha256,
        span=source.span,
        serving_dir=str(config.serving_dir),
        serving_state=versions.state(config.serving_dir),
        checkpoints=str(config.output / "checkpoints"),
        run={
            "run_id": row["run_id"],
            "config": row["config"],
            "forced": config.force_push,
            "code_digest": code_digest.of_project(),
            "lock_digest": hashlib.sha256(code_digest.LOCK.read_bytes()).hexdigest(),
            "git_commit": _git_commit(),
            "dataset_choice": choice.sentence,
        },
    )


def _fingerprint(config: Config, choice: Choice) -> str:
    """SHA-256 over all that decides a run's result but the serving folder."""
    told = {key: value for key, value in config.to_record().items() if key not in ("output", "fresh")}
    schema = hashlib.sha256(config.schema.read_bytes()).hexdigest()
    parts = [told, choice.source.name, choice.source.sha256, schema, code_digest.of_project()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _former(config: Config, fingerprint: str) -> dict[str, Any] | None:
    """The last record, if a run would come to the same: the same inputs, and what it left behind is still there."""
    former = record.newest(config.output / "runs")
    if former is None or former["verdict"] == record.FAILED:
        return None
    print_ = former["fingerprint"] or {}
    if print_.get("inputs") != fingerprint or print_.get("serving") != versions.state(config.serving_dir):
        return None
    if not all(pathlib.Path(former[key] or "").is_file() for key in ("report", "log")):
        return None
    for folder, digest in print_["artifacts"].items():
        if not pathlib.Path(folder).is_dir() or versions.tree_digest(pathlib.Path(folder)) != digest:
            return None
    if former["verdict"] == record.PUSHED:
        former |= {"verdict": record.UNCHANGED, "reason": f"nothing has changed since run {former['run_id']} pushed it"}
    return former


@contextlib.contextmanager
def _locked(output: pathlib.Path) -> Iterator[None]:
    """Makes the output folder and keeps it for this run alone."""
    place = output
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = os.open(output / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        for place in (path for name in _WRITTEN for path in output.glob(name)):
            if not os.access(place, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(
            f"the output folder must be writable, but {place}: {reason}; name another with --output"
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(lock, 100, 0).decode(errors="replace").strip() or "unknown"
            raise BadInput(
                f"one run at a time may use an output folder, and process {owner} is using {output}; wait for it, or "
                "name another with --output"
            ) from None
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)


def _git_commit() -> str | None:
    """The commit that is checked out, None outside a checkout or without git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(code_digest.ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
