# SPDX-License-Identifier: Apache-2.0
"""One run on this machine, from configuration to record."""

from __future__ import annotations

import contextlib
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
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from components import lean_import
from components.errors import BadInput
from components.ingest.source import Choice
from components.push import destination, versions
from components.train import devices
from pipeline import beam, code_digest, database, outcome, record
from pipeline.config import Config
from pipeline.local import checkpoints, lock, supervise
from pipeline.local.console import Console, redirected

if TYPE_CHECKING:
    from pipeline.local.stages import Stage

# Which module each node's code starts from.
_CODE = {
    "ingest": "components.ingest.component",
    "baseline": "components.push.component",
    "statistics": "components.validate.component",
    "image-check": "components.validate.component",
    "data-check": "components.validate.component",
    "data-gate": "components.gate",
    "transform": "components.transform.component",
    "tune": "components.train.tuner_component",
    "train": "components.train.component",
    "infra-check": "components.evaluate.component",
    "evaluate": "components.evaluate.component",
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
        BadInput: the output or the serving folder is not writable, another run uses the former, or its metadata are
            damaged.
    """
    with lock.held(config.output):
        console.say(choice.sentence)
        fingerprint = _fingerprint(config, choice)
        former = None if config.fresh else _former(config, fingerprint)
        if former is not None:
            console.say(
                f"Nothing has changed since run {former['run_id']}: its verdict stands (--fresh runs all again)."
            )
            return former
        destination.at(config.serving_dir).probe()
        database.check(config.output / "metadata.db")
        with redirected(pathlib.Path(os.devnull)):
            devices.settle(config.compute)
        _drop_orphans(config.output, console)
        checkpoints.drop_old(config.output)
        now = datetime.datetime.now(datetime.UTC)
        run_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        folder = config.output / "runs" / run_id
        folder.mkdir(parents=True)
        source = choice.source
        row = record.new(
            run_id,
            sequence=record.next_sequence(config.output),
            created_at=now.isoformat(timespec="seconds"),
            forced=config.force_push,
            dataset={
                "name": source.name, "images": source.images, "sha256": source.sha256, "choice": choice.sentence
            },
            config=config.to_record(),
            log=str(folder / "log.txt"),
            fingerprint={
                "files": code_digest.project_files() | _code(config)["statistics"],
                "checkpoints": checkpoints.present(config.output),
                **code_digest.provenance(),
            },
        )  # fmt: skip
        # Until it ends, a run's record says that it did not.
        _save(row)
        supervise.tell(folder)
        try:
            with _temporary_folder(config.output):
                _run_stages(config, choice, console, row)
        except KeyboardInterrupt:
            row["reason"] = supervise.interruption() or supervise.reason(signal.SIGINT)
            raise
        except Exception as error:
            _log(row)
            row["reason"] = f"{outcome.Failure.of(error).sentence}; the log has the cause: {row['log']}"
            row["verdict"], row["exit_code"] = record.FAILED, record.EXIT_CODES[record.FAILED]
        finally:
            supervise.ignore_interruptions()
            row["fingerprint"] |= {"inputs": fingerprint, "serving": _state_after(config)}
            row["sentence"] = record.sentence(row)
            _report(row, folder, console)
            if fault := _save(row):
                console.say(f"The record could not be written: {fault}")
        return row


def explain(config: Config, choice: Choice, console: Console) -> list[dict[str, Any]]:
    """Says for each stage whether `run` would run it now, and why; nothing is changed.

    Returns:
        A row for each stage, in their order: `stage`, `runs`, `reason`.
    """
    with lock.shared(config.output):
        former = None if config.fresh else _former(config, _fingerprint(config, choice))
        if former is not None:
            same = f"nothing has changed since run {former['run_id']}, whose verdict would be repeated"
            rows = [{"stage": name, "runs": False, "reason": same} for name in _nodes(config)]
        else:
            database.check(config.output / "metadata.db", write=False)
            with redirected(pathlib.Path(os.devnull)), lean_import.lean():
                lean_import.import_tensorflow()
                from pipeline.local import explain

                code = _code(config)
                digests = {name: code_digest.joined(files) for name, files in code.items()}
                ir = _compile(config, choice, {"run_id": "", "config": config.to_record()})
                rows = [answer._asdict() for answer in explain.explain(ir, config.output, code, digests, config.fresh)]
    for row in rows:
        console.say(f"{row['stage']:<12} {'runs  ' if row['runs'] else 'reused'}  {row['reason']}")
    return rows


def _state_after(config: Config) -> str | None:
    """What is in production; None where that cannot be found out any more, so that the next run does not rely on it."""
    try:
        return versions.state(config.serving_dir)
    except BadInput:
        return None


def _save(row: dict[str, Any]) -> str:
    """Writes the record into the run's folder; says what is wrong where that fails, as on a disk that is full."""
    try:
        record.write(row, pathlib.Path(row["log"]).with_name(record.RECORD_FILE))
    except OSError as error:
        return str(error)
    return ""


def _report(row: dict[str, Any], folder: pathlib.Path, console: Console) -> None:
    """Writes the report; the verdict stands even where that fails."""
    row["report"] = str(folder / "report.html")
    try:
        with redirected(pathlib.Path(row["log"])):
            from components.report import page

            page.write(row, folder)
    except Exception as error:
        row["report"] = None
        _log(row)
        console.say(f"The report could not be written, the log has the cause: {type(error).__name__}: {error}")


def _log(row: dict[str, Any]) -> None:
    """Appends the trace of the error that is being handled to the run's log."""
    with contextlib.suppress(OSError), pathlib.Path(row["log"]).open("a", encoding="utf-8") as log:
        traceback.print_exc(file=log)


def _drop_orphans(output: pathlib.Path, console: Console) -> None:
    """Removes artifacts that no metadata know: new ones would get the same names and be mixed with what lies there."""
    root = output / "pipeline_root"
    if root.exists() and not (output / "metadata.db").exists():
        console.say(
            f"The metadata {output / 'metadata.db'} are gone, so every stage runs again; the artifacts are removed."
        )
        for folder in root.iterdir():  # the root itself may be a link to another disk
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
        # A job server that Beam started ends with this process, and wants to remove its folder itself.
        if not any(folder.glob("beam-temp*")):
            shutil.rmtree(folder, ignore_errors=True)


def _run_stages(config: Config, choice: Choice, console: Console, row: dict[str, Any]) -> None:
    """Runs the graph and fills in the record, whatever happens."""
    stages: list[Stage] = []
    error: Exception | None = None
    started = time.monotonic()
    with redirected(pathlib.Path(row["log"])), console.stages():
        console.stage("start", "running", 0)
        try:
            with lean_import.lean():
                lean_import.import_tensorflow()
                from pipeline.local import stages as local_stages

                ir = _compile(config, choice, row)
            digests = {name: code_digest.joined(files) for name, files in _code(config).items()}
            console.stage("start", "done", time.monotonic() - started)

            def changed(stage: Stage) -> None:
                console.stage(stage.name, stage.state, stage.seconds)
                # What a run has come to is known even if it is killed.
                begun[stage.name] = outcome.stage_row(stage)
                row["stages"] = list(begun.values())
                _save(row)

            begun: dict[str, dict[str, Any]] = {}
            side_by_side = beam.has_no_job_server(config.beam_args)
            stages = local_stages.run(ir, row["run_id"], digests, config.fresh, changed, side_by_side)
        except Exception as failure:
            traceback.print_exc()
            if supervise.interruption():  # and a library made another error of it
                raise KeyboardInterrupt from failure
            stages, error = getattr(failure, "stages", []), outcome.cause(failure)
        outcome.fill(row, stages)
        row["fingerprint"] |= {
            "artifacts": {str(stage.uri(key)): stage.content_digest(key) for stage in stages for key in stage.outputs}
        }
        outcome.judge(row, stages, outcome.Failure.of(error) if error else None)


def _compile(config: Config, choice: Choice, row: Mapping[str, Any]) -> Any:
    """The graph, compiled for this machine."""
    from pipeline import graph
    from pipeline.local import stages

    source = choice.source
    place = graph.Place(
        data_dir=str(source.data_dir),
        dataset=source.name,
        data_sha256=source.sha256,
        span=source.span,
        schema=str(config.schema),
        hyperparameters=config.hyperparameters.to_config(),
        allow=",".join(config.allow),
        serving_dir=str(config.serving_dir),
        serving_state=versions.state(config.serving_dir),
        checkpoints=str(config.output / "checkpoints"),
        run={
            "run_id": row["run_id"],
            # A model is known by what it was made of: the output folder may be moved.
            "config": {key: value for key, value in row["config"].items() if key != "output"},
            "forced": config.force_push,
            **code_digest.provenance(),
            "dataset_choice": choice.sentence,
        },
    )
    return stages.compile_graph(graph.build(config, place), config.output, config.beam_args)


def _code(config: Config) -> dict[str, dict[str, str]]:
    """Node id -> the files that its result depends on, and their digests."""
    extra = {"statistics": (config.schema,)}
    return {name: code_digest.files_of(module, *extra.get(name, ())) for name, module in _nodes(config).items()}


def _nodes(config: Config) -> dict[str, str]:
    """The entries of `_CODE` whose nodes are in the graph."""
    return {name: module for name, module in _CODE.items() if name != "tune" or config.tune}


def _fingerprint(config: Config, choice: Choice) -> str:
    """SHA-256 over all that decides a run's result but the serving folder."""
    # Data and schema are known by their content, and so is what was pushed: the output folder may be moved.
    locations = ("output", "data_dir", "schema", "serving_root", "fresh")
    settings = {key: value for key, value in config.to_record().items() if key not in locations}
    serving = _below(config.serving_dir, config.output)
    schema = hashlib.sha256(config.schema.read_bytes()).hexdigest()
    parts = [settings, serving, choice.source.name, choice.source.sha256, schema, code_digest.of_project()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _below(location: pathlib.Path | str, output: pathlib.Path) -> str:
    """A path or URL as it is to be compared: below the output folder by its place in there."""
    inside = isinstance(location, pathlib.Path) and location.is_relative_to(output)
    return str(location.relative_to(output) if inside else location)  # type: ignore[union-attr]


def _former(config: Config, fingerprint: str) -> dict[str, Any] | None:
    """The last record, if a run would come to the same: the same inputs, and what it left behind is still there."""
    former = record.newest(config.output)
    if former is None or former["verdict"] == record.FAILED:
        return None
    print_ = former["fingerprint"] or {}
    if print_.get("inputs") != fingerprint or print_.get("serving") != versions.state(config.serving_dir):
        return None
    if not all(pathlib.Path(former[key] or "").is_file() for key in ("report", "log")):
        return None
    for folder, digest in print_.get("artifacts", {}).items():
        if not pathlib.Path(folder).is_dir() or versions.tree_digest(pathlib.Path(folder)) != digest:
            return None
    if former["verdict"] == record.PUSHED:
        former |= {"verdict": record.UNCHANGED, "reason": f"nothing has changed since run {former['run_id']} pushed it"}
    return former
