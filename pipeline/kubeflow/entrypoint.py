# SPDX-License-Identifier: Apache-2.0
"""Runs in the container of every task: its executor, between two adaptations to the open-source launcher.

    python -m pipeline.kubeflow.entrypoint --executor CLASS --input JSON
        [--inputs KEY=TYPE,…] [option for Beam …] --task NODE --code_digest DIGITS [--retries N]

On Vertex AI, where TFX's own entrypoint is at home, that one is called as it is. The exit code is 0, 3 where a gate
stopped, 2 for input that is refused, and 1 for anything else; but for the last there is one sentence on stderr and no
trace.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

from components import environment, import_speedup, paths, retries, stdio
from components.errors import ProjectError, Unavailable
from pipeline import beam, code_digest, run_record
from pipeline.kubeflow import launcher_adapter, parameters, task_records
from pipeline.kubeflow.training_job import exchange

# Argo's executor starts a task with 0, so that everybody on a volume could change what it pushes there.
UMASK = 0o022
MEMORY_EVENTS = pathlib.Path("/sys/fs/cgroup/memory.events")
_OUT_OF_MEMORY = (
    "ran out of memory: the kernel killed {} of its container's processes, as memory.events says. Give it more with "
    "--memory TASK=REQUEST:LIMIT."
)
_ENDED_FROM_OUTSIDE = (
    "was ended from outside, by SIGTERM: the run was terminated, or its pod was deleted or evicted, or its node drained"
)
# The note of the task that runs, with the run's prefix.
_unfinished: list[tuple[str, task_records.TaskRecord]] = []


def main(arguments: Sequence[str]) -> int:
    """Runs one task and returns the exit code."""
    parser = argparse.ArgumentParser(prog="pipeline.kubeflow.entrypoint", description=__doc__, allow_abbrev=False)
    # By short names, as the server keeps the arguments in many copies; behind them are those of TFX's entrypoint.
    parser.add_argument("--executor", dest="executor_class_path", required=True)
    parser.add_argument("--input", dest="json_serialized_invocation_args", required=True)
    for name in ("task", "code_digest"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--inputs", default="")
    parser.add_argument("--retries", type=int, default=0)
    told, given = parser.parse_known_args(arguments)
    beam_args = beam.arguments(given)
    told.json_serialized_inputs_spec_args = json.dumps(_inputs_spec(told.inputs))
    try:
        with import_speedup.faster_imports():
            import_speedup.import_tensorflow()
        told.json_serialized_invocation_args = _with_facts(told.json_serialized_invocation_args, told.task)
        if not on_vertex():
            told.json_serialized_invocation_args = _with_addresses(told.json_serialized_invocation_args, told.task)
        if on_vertex():
            check_code(told.code_digest)
            call_tfx(told, beam_args)
        else:
            _run_noted(told, beam_args)
    except Exception as error:
        return exit_code(error)
    return 0


def on_vertex() -> bool:
    """Whether this is not the open-source launcher, which says the pod's name."""
    return "KFP_POD_NAME" not in os.environ


def check_code(expected: str) -> None:
    """Refuses an image that holds other code than the package was compiled from.

    Raises:
        ProjectError: it does.
    """
    found = code_digest.of_project()
    if not expected or not found.startswith(expected):
        raise ProjectError(
            f"The image must hold the code that the package was compiled from, SHA-256 {expected[:12]}…; it holds "
            f"{found[:12]}…. Build the image again, or compile the package with the image's code."
        )


def call_tfx(told: argparse.Namespace, beam_args: Sequence[str]) -> None:
    """Calls TFX's entrypoint, which imports every component that TFX has, and with them the client of Kubernetes."""
    from absl import logging
    from tfx.orchestration.kubeflow.v2 import compiler_utils
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    from pipeline.kubeflow import task_executor

    logging.use_absl_handler()
    # It imports a type by its title; for those of this project that is not the name of the class.
    for title, kind in task_executor.types().items():
        compiler_utils.TITLE_TO_CLASS_PATH[title] = f"{kind.__module__}.{kind.__qualname__}"
    kubeflow_v2_run_executor.main((told, list(beam_args)))


def run_adapted(told: argparse.Namespace, beam_args: Sequence[str]) -> dict[str, Any]:
    """Runs the executor with what the launcher gives, and gives the launcher what it answers.

    Returns:
        The ExecutorOutput, as the launcher gets it.
    """
    with import_speedup.faster_imports():
        from pipeline.kubeflow import task_executor

    executor_input = json.loads(told.json_serialized_invocation_args)
    inputs_spec = json.loads(told.json_serialized_inputs_spec_args)
    uri_of = launcher_adapter.uris(executor_input)
    launcher_adapter.drop_launchers_outputs(executor_input)
    launcher_adapter.restore_input_types(executor_input, inputs_spec)
    launcher_adapter.unwrap_metadata(executor_input)
    launcher_adapter.drop_servers_metadata(executor_input)
    launcher_adapter.localize(executor_input)
    launcher_adapter.make_output_folders(executor_input)
    answer = task_executor.run_executor(told.executor_class_path, executor_input, inputs_spec, beam_args)
    launcher_adapter.restore_uris(answer, uri_of)
    launcher_adapter.restore_uris_in_metadata(answer, uri_of)
    launcher_adapter.without_session(answer)
    output_file = pathlib.Path(executor_input["outputs"]["outputFile"])
    output_file.parent.mkdir(parents=True, exist_ok=True)
    output_file.write_text(json.dumps(answer), encoding="utf-8")
    return answer


def _inputs_spec(inputs: str) -> dict[str, Any]:
    """The ComponentInputsSpec of `KEY=TYPE,…`: titles of artifact types, and parameters that are whole numbers."""
    spec: dict[str, Any] = {"artifacts": {}, "parameters": {}}
    for key, _, kind in (one.partition("=") for one in inputs.split(",") if one):
        if kind == parameters.WHOLE:
            spec["parameters"][key] = {"parameterType": kind}
        else:
            spec["artifacts"][key] = {"artifactType": {"instanceSchema": f"title: {kind}"}}
    return spec


def _with_facts(invocation: str, task: str) -> str:
    """Completes what push writes into the provenance by what is only known now: the run's id and its parameters."""
    executor_input = json.loads(invocation)
    values = executor_input.get("inputs", {}).get("parameterValues", {})
    if "run" not in values:
        return invocation
    # On Vertex AI the output file is …/RUN/TASK_ID/executor_output.json.
    run_id = (
        executor_input["outputs"]["outputFile"].split("/")[-3]
        if on_vertex()
        else task_records.prefix(executor_input, task).rpartition("/")[2]
    )
    run = code_digest.provenance() | json.loads(values["run"])
    told = {
        name.removeprefix(parameters.OF_THE_RUN): values.pop(name)
        for name in list(values)
        if name.startswith(parameters.OF_THE_RUN)
    }
    config = parameters.effective(parameters.complete(run["config"]), told | {"serving_dir": values["serving_dir"]})
    values["run"] = json.dumps(
        {**run, "run_id": run_id, "config": config, "forced": config["force_push"]}, sort_keys=True
    )
    return json.dumps(executor_input)


def _with_addresses(invocation: str, task: str) -> str:
    """Tells a task that launches a training job where in the store its inputs and outputs lie: the workers go there."""
    executor_input = json.loads(invocation)
    values = executor_input.get("inputs", {}).get("parameterValues", {})
    config = json.loads(values.get("custom_config") or "null")  # of other tasks TFX makes a null
    if not config or exchange.MANIFEST not in config:
        return invocation
    urls = {path: task_records.address(uri) for path, uri in launcher_adapter.uris(executor_input).items()}
    config[exchange.TASK] = {
        "name": task,
        "run": task_records.address(task_records.prefix(executor_input, task)),
        "urls": urls,
    }
    values["custom_config"] = json.dumps(config)
    return json.dumps(executor_input)


def _run_noted(told: argparse.Namespace, beam_args: Sequence[str]) -> None:
    """Runs the task, and notes for the report how it went before the launcher learns of it."""
    executor_input = json.loads(told.json_serialized_invocation_args)
    for path in launcher_adapter.uris(executor_input):
        paths.refuse_patterns(pathlib.Path(path), "the pipeline root")
    paths.refuse_patterns(pathlib.Path(tempfile.gettempdir()), "TMPDIR")
    prefix = task_records.prefix(executor_input, told.task)
    launcher_adapter.unwrap_metadata(executor_input)
    launcher_adapter.drop_servers_metadata(executor_input)
    inputs = _artifacts(executor_input.get("inputs", {}))
    started, kills = time.time(), _memory_kills()
    attempts = retries.retrying(told.retries, lambda error: isinstance(run_record.failure_cause(error), Unavailable))
    note = task_records.TaskRecord(told.task, run_record.RUNNING, started, None, inputs, {})
    attempts(task_records.write_task_record, prefix, note)
    _unfinished[:] = [(prefix, note)]
    try:
        check_code(told.code_digest)
        answer = attempts(run_adapted, told, beam_args)
    except Exception as error:
        _unfinished.clear()
        failure = run_record.Failure.of(run_record.failure_cause(error))
        if (killed := _memory_kills() - kills) > 0:
            failure = run_record.Failure(1, f"{told.task} {_OUT_OF_MEMORY.format(killed)} Then: {failure.sentence}")
        note = task_records.TaskRecord(told.task, run_record.FAILED, started, time.time(), inputs, {}, failure)
        try:
            attempts(task_records.write_task_record, prefix, note)
        except ProjectError as second:  # what the task failed of matters more
            say(second)
        raise
    _unfinished.clear()
    attempts(
        task_records.write_task_record,
        prefix,
        task_records.TaskRecord(told.task, run_record.DONE, started, time.time(), inputs, _artifacts(answer)),
    )


def _memory_kills() -> int:
    """Counts the processes of this container that the kernel killed as it reached its limit of memory."""
    try:
        counts = dict(line.split() for line in MEMORY_EVENTS.read_text(encoding="utf-8").splitlines())
        return int(counts["oom_kill"])
    except (OSError, ValueError, KeyError):
        return 0


def note_sigterm() -> None:
    """Makes SIGTERM note that the task was ended from outside, and end the process.

    A thread does it: a handler in Python would have to wait for TensorFlow, and the container may be gone in a moment.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def pass_over(number: int, frame: object) -> None:
        """The thread does the work."""

    def end() -> None:
        while os.read(reader, 1) != bytes([signal.SIGTERM]):
            pass
        for prefix, note in _unfinished:
            failure = run_record.Failure(1, f"{note.task} {_ENDED_FROM_OUTSIDE}")
            with contextlib.suppress(ProjectError):
                task_records.write_task_record(
                    prefix, dataclasses.replace(note, state=run_record.FAILED, ended=time.time(), failure=failure)
                )
            say(ProjectError(failure.sentence))
        if signal.getsignal(signal.SIGTERM) is pass_over:  # else a training job is removed first
            os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, pass_over)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(
        after_in_child=lambda: (signal.set_wakeup_fd(-1), signal.signal(signal.SIGTERM, signal.SIG_DFL))
    )
    threading.Thread(target=end, daemon=True).start()


def _artifacts(holder: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        key: {"uri": artifact["uri"], "metadata": artifact.get("metadata", {})}
        for key, entry in holder.get("artifacts", {}).items()
        for artifact in entry["artifacts"][:1]
    }


def exit_code(error: Exception) -> int:
    """Says why the process fails, in one sentence where it was written for a person; returns the code to end with."""
    cause = run_record.failure_cause(error)
    if isinstance(cause, ProjectError):
        say(cause)
        return cause.exit_code
    traceback.print_exception(error)
    return 1


def say(error: Exception) -> None:
    """Writes what an error says on one line, as the last line of a task's log."""
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")


if __name__ == "__main__":
    environment.prepare()
    os.umask(UMASK)
    note_sigterm()
    stdio.run(lambda: main(sys.argv[1:]))
