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

from components import import_speedup
from components.errors import BadInput
from components.ingest.source import DatasetChoice
from components.push import destination, versions
from components.train import devices
from pipeline import beam, code_digest, database, run_record
from pipeline.local import housekeeping, lock, supervisor
from pipeline.local.console import Console, redirected
from pipeline.settings import Config

if TYPE_CHECKING:
    from pipeline.local.nodes import NodeRun

# Which module each node's code starts from.
_CODE = {
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


def run_pipeline(config: Config, choice: DatasetChoice, console: Console) -> dict[str, Any]:
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
        destination.open_destination(config.serving_dir).probe()
        database.check(config.output / "metadata.db")
        with redirected(pathlib.Path(os.devnull)):
            devices.settle(config.compute)
        _drop_orphans(config.output, console)
        housekeeping.drop_old(config.output)
        now = datetime.datetime.now(datetime.UTC)
        run_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        folder = config.output / "runs" / run_id
        folder.mkdir(parents=True)
        source = choice.source
        row = run_record.new_record(
            run_id,
            sequence=run_record.next_sequence(config.output),
            created_at=now.isoformat(timespec="seconds"),
            forced=config.force_push,
            dataset={
                "name": source.name, "images": source.images, "sha256": source.sha256, "choice": choice.sentence
            },
            config=config.to_record(),
            log=str(folder / "log.txt"),
            fingerprint={
                "files": code_digest.project_files() | _code(config)["statistics"],
                "checkpoints": housekeeping.present(config.output),
                **code_digest.provenance(),
            },
        )  # fmt: skip
        # Until it ends, a run's record says that it did not.
        _save(row)
        supervisor.tell(folder)
        try:
            with _temporary_folder(config.output):
                _run_stages(config, choice, console, row)
        except KeyboardInterrupt:
            row["reason"] = supervisor.interruption() or supervisor.reason(signal.SIGINT)
            raise
        except Exception as error:
            _log(row)
            row["reason"] = f"{run_record.Failure.of(error).sentence}; the log has the cause: {row['log']}"
            row["verdict"], row["exit_code"] = run_record.FAILED, run_record.EXIT_CODES[run_record.FAILED]
        finally:
            supervisor.ignore_interruptions()
            row["fingerprint"] |= {"inputs": fingerprint, "serving": _state_after(config)}
            row["sentence"] = run_record.verdict_sentence(row)
            _report(row, folder, console)
            if fault := _save(row):
                console.say(f"The record could not be written: {fault}")
        return row


def explain_run(config: Config, choice: DatasetChoice, console: Console) -> list[dict[str, Any]]:
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
            with redirected(pathlib.Path(os.devnull)), import_speedup.faster_imports():
                import_speedup.import_tensorflow()
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
        return versions.serving_state(config.serving_dir)
    except BadInput:
        return None


def _save(row: dict[str, Any]) -> str:
    """Writes the record into the run's folder; says what is wrong where that fails, as on a disk that is full."""
    try:
        run_record.write_record(row, pathlib.Path(row["log"]).with_name(run_record.RECORD_FILE))
    except OSError as error:
        return str(error)
    return ""


def _report(row: dict[str, Any], folder: pathlib.Path, console: Console) -> None:
    """Writes the report; the verdict stands even where that fails."""
    row["report"] = str(folder / "report.html")
    try:
        with redirected(pathlib.Path(row["log"])):
            from pipeline.report import page

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


def _run_stages(config: Config, choice: DatasetChoice, console: Console, row: dict[str, Any]) -> None:
    """Runs the graph and fills in the record, whatever happens."""
    node_runs: list[NodeRun] = []
    error: Exception | None = None
    started = time.monotonic()
    with redirected(pathlib.Path(row["log"])), console.stages():
        console.stage("start", "running", 0)
        try:
            with import_speedup.faster_imports():
                import_speedup.import_tensorflow()
                from pipeline.local import nodes

                ir = _compile(config, choice, row)
            digests = {name: code_digest.joined(files) for name, files in _code(config).items()}
            console.stage("start", "done", time.monotonic() - started)

            def changed(stage: NodeRun) -> None:
                console.stage(stage.name, stage.state, stage.seconds)
                # What a run has come to is known even if it is killed.
                begun[stage.name] = run_record.stage_row(stage)
                row["stages"] = list(begun.values())
                _save(row)

            begun: dict[str, dict[str, Any]] = {}
            side_by_side = beam.has_no_job_server(config.beam_args)
            node_runs = nodes.run_nodes(ir, row["run_id"], digests, config.fresh, changed, side_by_side)
        except Exception as failure:
            traceback.print_exc()
            if supervisor.interruption():  # and a library made another error of it
                raise KeyboardInterrupt from failure
            node_runs, error = getattr(failure, "stages", []), run_record.failure_cause(failure)
        run_record.fill_record(row, node_runs)
        row["fingerprint"] |= {
            "artifacts": {str(node.uri(key)): node.content_digest(key) for node in node_runs for key in node.outputs}
        }
        run_record.judge(row, node_runs, run_record.Failure.of(error) if error else None)


def _compile(config: Config, choice: DatasetChoice, row: Mapping[str, Any]) -> Any:
    """The graph, compiled for this machine."""
    from pipeline import graph
    from pipeline.local import nodes

    source = choice.source
    place = graph.RunInputs(
        data_dir=str(source.data_dir),
        dataset=source.name,
        data_sha256=source.sha256,
        span=source.span,
        schema=str(config.schema),
        hyperparameters=config.hyperparameters.to_config(),
        allow=",".join(config.allow),
        serving_dir=str(config.serving_dir),
        serving_state=versions.serving_state(config.serving_dir),
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
    return nodes.compile_graph(graph.build(config, place), config.output, config.beam_args)


def _code(config: Config) -> dict[str, dict[str, str]]:
    """Node id -> the files that its result depends on, and their digests."""
    extra = {"statistics": (config.schema,)}
    return {name: code_digest.files_of(module, *extra.get(name, ())) for name, module in _nodes(config).items()}


def _nodes(config: Config) -> dict[str, str]:
    """The entries of `_CODE` whose nodes are in the graph."""
    return {name: module for name, module in _CODE.items() if name != "tune" or config.tune}


def _fingerprint(config: Config, choice: DatasetChoice) -> str:
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
    former = run_record.newest_record(config.output)
    if former is None or former["verdict"] == run_record.FAILED:
        return None
    print_ = former["fingerprint"] or {}
    if print_.get("inputs") != fingerprint or print_.get("serving") != versions.serving_state(config.serving_dir):
        return None
    if not all(pathlib.Path(former[key] or "").is_file() for key in ("report", "log")):
        return None
    for folder, digest in print_.get("artifacts", {}).items():
        if not pathlib.Path(folder).is_dir() or versions.tree_digest(pathlib.Path(folder)) != digest:
            return None
    if former["verdict"] == run_record.PUSHED:
        former |= {
            "verdict": run_record.UNCHANGED,
            "reason": f"nothing has changed since run {former['run_id']} pushed it",
        }
    return former
