# SPDX-License-Identifier: Apache-2.0
"""One run on this machine, from configuration to record."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from components import import_speedup, paths
from components.errors import BadInput
from components.ingest.source import DatasetChoice
from components.push import versions
from components.push.serving_dir import open_destination
from components.train import devices
from pipeline import beam, code_digest, database, run_record
from pipeline.local import housekeeping, lock, supervisor
from pipeline.local.console import Console, redirected
from pipeline.run_record import DatasetRecord, Fingerprint, RunRecord, StageRecord, State, Verdict
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.local.nodes import NodeRun

LOG_FILE = "log.txt"
# Node id -> the module that its code starts from.
_MODULES = {
    "ingest": "components.ingest.component",
    "baseline": "components.push.component",
    "statistics": "components.validate.component",
    "image-check": "components.validate.component",
    "data-check": "components.validate.component",
    "data-gate": "components.gate",
    "transform": "components.transform.component",
    "tune": "components.train.component",
    "train": "components.train.component",
    "infra-check": "components.evaluate.component",
    "evaluate": "components.evaluate.component",
    "push": "components.push.component",
}


class _RecordFile:
    """The record of a run in progress, which each step of the run replaces, and its file."""

    def __init__(self, record: RunRecord, folder: pathlib.Path):
        self.record, self.folder, self.error = record, folder, ""
        self.save(record)

    def save(self, record: RunRecord) -> None:
        """Replaces the record and the file; where that cannot be written, as on a full disk, `error` has the reason."""
        self.record = record
        try:
            run_record.write_record(record, self.folder)
        except OSError as error:
            self.error = str(error)
        else:
            self.error = ""


def run_pipeline(config: Settings, choice: DatasetChoice, console: Console) -> RunRecord:
    """Runs the pipeline, or repeats the former verdict where nothing has changed.

    Args:
        config: the effective configuration.
        choice: the verified data set.
        console: shows the progress.

    Returns:
        The record; it also lies in `output/runs/RUN_ID/record.json`.

    Raises:
        BadInput: the output or the serving folder is not writable, another run uses the former, or its metadata are
            damaged.
    """
    with lock.exclusive(config.output):
        console.say(choice.sentence)
        inputs = _inputs_digest(config, choice)
        if not config.fresh and (former := _repeatable_run(config, inputs)):
            console.say(f"Nothing has changed since run {former.run_id}: its verdict stands (--fresh runs all again).")
            return former
        open_destination(config.model_dir).probe()
        database.check(config.output / "metadata.db")
        with redirected(pathlib.Path(os.devnull)):
            devices.prepare(config.compute)
        _drop_orphans(config.output, console)
        housekeeping.drop_old(config.output)
        file = _create_record(config, choice)
        supervisor.report_folder(file.folder)
        try:
            with _temporary_folder(config.output):
                _run_stages(config, choice, console, file)
        except KeyboardInterrupt:
            reason = supervisor.interruption_reason() or supervisor.signal_reason(signal.SIGINT)
            file.record = file.record.end(Verdict.FAILED, reason)
            raise
        except Exception as error:
            _log_traceback(file.folder)
            reason = f"{run_record.Failure.of(error).sentence}; the log has the cause: {file.record.log}"
            file.record = file.record.end(Verdict.FAILED, reason)
        finally:
            supervisor.ignore_interruptions()
            fingerprint = dataclasses.replace(
                file.record.fingerprint or Fingerprint(), inputs=inputs, serving=_serving_state(config)
            )
            file.save(write_report(dataclasses.replace(file.record, fingerprint=fingerprint), file.folder, console))
            if file.error:
                console.say(f"The record could not be written: {file.error}")
        return file.record


def _create_record(config: Settings, choice: DatasetChoice) -> _RecordFile:
    """Makes the folder of a new run, with a record that says until the run ends that it did not."""
    now = datetime.datetime.now(datetime.UTC)
    run_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    folder = run_record.run_folder(config.output, run_id)
    folder.mkdir(parents=True)
    source, provenance = choice.source, code_digest.provenance()
    record = RunRecord(
        run_id=run_id,
        sequence=run_record.next_sequence(config.output),
        created_at=now.isoformat(timespec="seconds"),
        forced=config.force_push,
        dataset=DatasetRecord(name=source.name, images=source.images, sha256=source.sha256, choice=choice.sentence),
        config=config.to_config(),
        log=str(folder / LOG_FILE),
        fingerprint=Fingerprint(
            files=code_digest.project_files() | _code(config)["statistics"],
            checkpoints=housekeeping.checkpoint_times(config.output),
            code_digest=provenance["code_digest"],
            lock_digest=provenance["lock_digest"],
            git_commit=provenance["git_commit"],
        ),
    )
    return _RecordFile(record, folder)


def explain_run(config: Settings, choice: DatasetChoice, console: Console) -> list[dict[str, Any]]:
    """Shows for each stage whether a run would run it now, and the reason; changes nothing.

    Returns:
        A row for each stage, in their order: `stage`, `runs`, `reason`.
    """
    with lock.shared(config.output):
        former = None if config.fresh else _repeatable_run(config, _inputs_digest(config, choice))
        if former is not None:
            reason = f"nothing has changed since run {former.run_id}, whose verdict would be repeated"
            rows = [{"stage": name, "runs": False, "reason": reason} for name in _modules(config)]
        else:
            database.check(config.output / "metadata.db", write=False)
            with redirected(pathlib.Path(os.devnull)), import_speedup.faster_imports():
                import_speedup.import_tensorflow()
                from pipeline.local import explain

                code = _code(config)
                digests = {name: code_digest.join(files) for name, files in code.items()}
                ir = _compile(config, choice, run_id="")
                plans = explain.explain(ir, config.output, code, digests, config.fresh)
                rows = [plan._asdict() for plan in plans]
    for row in rows:
        console.say(f"{row['stage']:<12} {'runs  ' if row['runs'] else 'reused'}  {row['reason']}")
    return rows


def _serving_state(config: Settings) -> str | None:
    """Returns the state of the serving folder; None where it cannot be read, so that no later run relies on it."""
    try:
        return versions.serving_state(config.model_dir)
    except BadInput:
        return None


def write_report(record: RunRecord, folder: pathlib.Path, console: Console) -> RunRecord:
    """Writes the report and returns the record with its path; the verdict stands even where that fails."""
    record = dataclasses.replace(record, report=str(folder / run_record.REPORT_FILE))
    try:
        with redirected(folder / LOG_FILE):
            from pipeline.report import page

            page.write(record, folder)
    except Exception as error:
        _log_traceback(folder)
        console.say(f"The report could not be written, the log has the cause: {type(error).__name__}: {error}")
        return dataclasses.replace(record, report=None)
    return record


def _log_traceback(folder: pathlib.Path) -> None:
    """Appends the traceback of the error that is being handled to the run's log."""
    with contextlib.suppress(OSError), (folder / LOG_FILE).open("a", encoding="utf-8") as log:
        traceback.print_exc(file=log)


def _drop_orphans(output: pathlib.Path, console: Console) -> None:
    """Removes artifacts whose metadata are lost: new artifacts would get the same folders and mix with their files."""
    root = output / "pipeline_root"
    if root.exists() and not (output / "metadata.db").exists():
        console.say(
            f"The metadata {output / 'metadata.db'} are missing, so every stage runs again; the artifacts are removed."
        )
        for folder in root.iterdir():  # the root itself may be a link to another disk
            shutil.rmtree(folder)


@contextlib.contextmanager
def _temporary_folder(output: pathlib.Path) -> Iterator[None]:
    """Puts the temporary files of this process and its children below the output folder, and removes them.

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
        # A job server that Beam started ends with this process, and wants to remove its folder itself.
        if not any(folder.glob("beam-temp*")):
            shutil.rmtree(folder, ignore_errors=True)


def _run_stages(config: Settings, choice: DatasetChoice, console: Console, file: _RecordFile) -> None:
    """Runs the graph and puts its results and the verdict into the record, also where a stage fails."""
    node_runs: list[NodeRun] = []
    failure: run_record.Failure | None = None
    started = time.monotonic()
    with redirected(file.folder / LOG_FILE), console.stages():
        console.stage("start", State.RUNNING, 0)
        try:
            with import_speedup.faster_imports():
                import_speedup.import_tensorflow()
                from pipeline.local import nodes

                ir = _compile(config, choice, file.record.run_id)
            digests = {name: code_digest.join(files) for name, files in _code(config).items()}
            console.stage("start", State.DONE, time.monotonic() - started)
            stages: dict[str, StageRecord] = {}

            def save_stage(stage: NodeRun) -> None:
                console.stage(stage.name, stage.state, stage.seconds)
                # On the disk, so that the record of a run that is killed has its stages.
                stages[stage.name] = StageRecord.of(stage)
                file.save(dataclasses.replace(file.record, stages=tuple(stages.values())))

            concurrent = beam.has_no_job_server(config.beam_args)
            node_runs = nodes.run_nodes(ir, file.record.run_id, digests, config.fresh, save_stage, concurrent)
        except Exception as error:
            traceback.print_exc()
            if supervisor.interruption_reason():  # a library made another error of it
                raise KeyboardInterrupt from error
            node_runs = getattr(error, "stages", [])
            failure = run_record.Failure.of(run_record.failure_cause(error))
        artifacts = {str(node.uri(key)): node.content_digest(key) for node in node_runs for key in node.outputs}
        fingerprint = dataclasses.replace(file.record.fingerprint or Fingerprint(), artifacts=artifacts)
        record = dataclasses.replace(file.record, fingerprint=fingerprint)
        file.record = run_record.judge(record, node_runs, failure)


def _compile(config: Settings, choice: DatasetChoice, run_id: str) -> Any:
    """Compiles the graph for this machine."""
    from pipeline import graph
    from pipeline.local import nodes

    source = choice.source
    inputs = graph.RunInputs(
        data_dir=str(source.data_dir),
        dataset=source.name,
        data_sha256=source.sha256,
        span=source.span,
        schema=str(config.schema_file),
        hyperparameters=config.training.to_config(),
        allow=",".join(config.allow),
        model_dir=str(config.model_dir),
        serving_state=versions.serving_state(config.model_dir),
        checkpoints=str(config.output / "checkpoints"),
        run={
            "run_id": run_id,
            # Without the output folder, which may be moved: the inputs alone identify a model.
            "config": {key: value for key, value in config.to_config().items() if key != "output"},
            "forced": config.force_push,
            **code_digest.provenance(),
            "dataset_choice": choice.sentence,
        },
    )
    return nodes.compile_graph(graph.build(config, inputs), config.output, config.beam_args)


def _code(config: Settings) -> dict[str, dict[str, str]]:
    """Returns node id -> path -> SHA-256, of the files that the node's result depends on."""
    extra = {"statistics": (config.schema_file,)}
    return {name: code_digest.files_of(module, *extra.get(name, ())) for name, module in _modules(config).items()}


def _modules(config: Settings) -> dict[str, str]:
    """Returns the entries of `_MODULES` whose nodes are in the graph."""
    return {name: module for name, module in _MODULES.items() if name != "tune" or config.tune}


def _inputs_digest(config: Settings, choice: DatasetChoice) -> str:
    """Returns the SHA-256 of all that decides a run's result but the serving folder's state."""
    # Data and schema count by their content, and paths in the output folder by their place in it: it may be moved.
    locations = ("output", "data_dir", "schema", "serving_dir", "fresh")
    settings = {key: value for key, value in config.to_config().items() if key not in locations}
    serving = _relative_location(config.model_dir, config.output)
    schema = hashlib.sha256(config.schema_file.read_bytes()).hexdigest()
    parts = [settings, serving, choice.source.name, choice.source.sha256, schema, code_digest.of_project()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _relative_location(location: pathlib.Path | str, output: pathlib.Path) -> str:
    """Returns a path relative to the output folder where it is in it; any other path or URL as it is."""
    if isinstance(location, pathlib.Path) and location.is_relative_to(output):
        return str(location.relative_to(output))
    return str(location)


def _repeatable_run(config: Settings, inputs: str) -> RunRecord | None:
    """Returns the last run where another would end as it did: same inputs, and its files are as it left them."""
    former = run_record.newest_record(config.output)
    if former is None or former.verdict == Verdict.FAILED or former.fingerprint is None:
        return None
    fingerprint = former.fingerprint
    if fingerprint.inputs != inputs or fingerprint.serving != versions.serving_state(config.model_dir):
        return None
    if not all(path and pathlib.Path(path).is_file() for path in (former.report, former.log)):
        return None
    for folder, digest in fingerprint.artifacts.items():
        if not pathlib.Path(folder).is_dir() or paths.tree_digest(pathlib.Path(folder)) != digest:
            return None
    if former.verdict == Verdict.PUSHED:
        return former.end(Verdict.UNCHANGED, f"nothing has changed since run {former.run_id} pushed it")
    return former
