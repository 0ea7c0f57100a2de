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
from pipeline.run_record import Failure, State

# Argo's executor starts a task with 0, and every account could change the models pushed to a volume.
UMASK = 0o022
MEMORY_EVENTS = pathlib.Path("/sys/fs/cgroup/memory.events")
_OUT_OF_MEMORY = (
    "ran out of memory: the kernel killed {} of its container's processes, as memory.events says. Give it more with "
    "--memory TASK=REQUEST:LIMIT."
)
_ENDED_FROM_OUTSIDE = (
    "was ended from outside, by SIGTERM: the run was terminated, or its pod was deleted or evicted, or its node drained"
)


class RunningTask:
    """The record of the task of this process, while it runs; shared with the thread of `on_sigterm`."""

    def __init__(self) -> None:
        self._record: tuple[str, task_records.TaskRecord] | None = None

    def start(self, prefix: str, record: task_records.TaskRecord) -> None:
        """Takes the record of a task that starts; `prefix` is the run's folder in the storage."""
        self._record = (prefix, record)

    def end(self) -> None:
        """Drops the record: the task writes its end itself."""
        self._record = None

    def fail(self, sentence: str) -> None:
        """Records the failure of the task, if it still runs, and prints it."""
        if self._record is None:
            return
        prefix, record = self._record
        failure = Failure(1, f"{record.task} {sentence}")
        with contextlib.suppress(ProjectError):
            task_records.write_task_record(
                prefix, dataclasses.replace(record, state=State.FAILED, ended=time.time(), failure=failure)
            )
        print_error(ProjectError(failure.sentence))


def main(arguments: Sequence[str], task: RunningTask | None = None) -> int:
    """Runs one task and returns the exit code; `task` holds its record while it runs."""
    parser = argparse.ArgumentParser(prog="pipeline.kubeflow.entrypoint", description=__doc__, allow_abbrev=False)
    # By short names, as the server keeps the arguments in many copies; behind them are those of TFX's entrypoint.
    parser.add_argument("--executor", dest="executor_class_path", required=True)
    parser.add_argument("--input", dest="json_serialized_invocation_args", required=True)
    for name in ("task", "code_digest"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--inputs", default="")
    parser.add_argument("--retries", type=int, default=0)
    args, beam_options = parser.parse_known_args(arguments)
    beam_args = beam.arguments(beam_options)
    args.json_serialized_inputs_spec_args = json.dumps(_inputs_spec(args.inputs))
    try:
        with import_speedup.faster_imports():
            import_speedup.import_tensorflow()
        args.json_serialized_invocation_args = _add_run(args.json_serialized_invocation_args, args.task)
        if on_vertex():
            check_code(args.code_digest)
            call_tfx(args, beam_args)
        else:
            args.json_serialized_invocation_args = _add_urls(args.json_serialized_invocation_args, args.task)
            _run_recorded(args, beam_args, task or RunningTask())
    except Exception as error:
        return exit_code(error)
    return 0


def on_vertex() -> bool:
    """Returns whether this is Vertex AI; the open-source launcher sets the pod's name."""
    return "KFP_POD_NAME" not in os.environ


def check_code(expected: str) -> None:
    """Refuses an image that holds other code than the package was compiled from.

    Raises:
        ProjectError: it does.
    """
    digest = code_digest.of_project()
    if not expected or not digest.startswith(expected):
        raise ProjectError(
            f"The image must hold the code that the package was compiled from, SHA-256 {expected[:12]}…; it holds "
            f"{digest[:12]}…. Build the image again, or compile the package with the image's code."
        )


def call_tfx(args: argparse.Namespace, beam_args: Sequence[str]) -> None:
    """Calls TFX's entrypoint, which imports every component that TFX has, and with them the client of Kubernetes."""
    from absl import logging
    from tfx.orchestration.kubeflow.v2 import compiler_utils
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    from pipeline.kubeflow import task_executor

    logging.use_absl_handler()
    # It imports a type by its title; for those of this project that is not the name of the class.
    for title, kind in task_executor.types().items():
        compiler_utils.TITLE_TO_CLASS_PATH[title] = f"{kind.__module__}.{kind.__qualname__}"
    kubeflow_v2_run_executor.main((args, list(beam_args)))


def run_adapted(args: argparse.Namespace, beam_args: Sequence[str]) -> dict[str, Any]:
    """Runs the executor between the two adaptations.

    Returns:
        The ExecutorOutput, as the launcher gets it.
    """
    with import_speedup.faster_imports():
        from pipeline.kubeflow import task_executor

    executor_input = json.loads(args.json_serialized_invocation_args)
    inputs_spec = json.loads(args.json_serialized_inputs_spec_args)
    uri_of = launcher_adapter.uris(executor_input)
    launcher_adapter.drop_launchers_outputs(executor_input)
    launcher_adapter.restore_input_types(executor_input, inputs_spec)
    launcher_adapter.unwrap_metadata(executor_input)
    launcher_adapter.drop_servers_metadata(executor_input)
    launcher_adapter.localize(executor_input)
    launcher_adapter.make_output_folders(executor_input)
    executor_output = task_executor.run_executor(args.executor_class_path, executor_input, inputs_spec, beam_args)
    launcher_adapter.restore_uris(executor_output, uri_of)
    launcher_adapter.restore_uris_in_metadata(executor_output, uri_of)
    launcher_adapter.blank_session(executor_output)
    output_file = pathlib.Path(executor_input["outputs"]["outputFile"])
    output_file.parent.mkdir(parents=True, exist_ok=True)
    output_file.write_text(json.dumps(executor_output), encoding="utf-8")
    return executor_output


def _inputs_spec(inputs: str) -> dict[str, Any]:
    """Returns the ComponentInputsSpec of `KEY=TYPE,…`: titles of artifact types, and parameters that are integers."""
    spec: dict[str, Any] = {"artifacts": {}, "parameters": {}}
    for key, _, kind in (part.partition("=") for part in inputs.split(",") if part):
        if kind == parameters.INTEGER:
            spec["parameters"][key] = {"parameterType": kind}
        else:
            spec["artifacts"][key] = {"artifactType": {"instanceSchema": f"title: {kind}"}}
    return spec


def _add_run(invocation: str, task: str) -> str:
    """Adds the run's id and its parameters, unknown to the compiler, to the input of push, for the provenance."""
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
    run_values = {
        name.removeprefix(parameters.RUN_PREFIX): values.pop(name)
        for name in list(values)
        if name.startswith(parameters.RUN_PREFIX)
    }
    run_values["serving_dir"] = values["serving_dir"]
    config = parameters.apply(parameters.complete(run["config"]), run_values)
    values["run"] = json.dumps(
        {**run, "run_id": run_id, "config": config, "forced": config["force_push"]}, sort_keys=True
    )
    return json.dumps(executor_input)


def _add_urls(invocation: str, task: str) -> str:
    """Adds to the input of a task that launches a training job the URLs of its artifacts, for the workers."""
    executor_input = json.loads(invocation)
    values = executor_input.get("inputs", {}).get("parameterValues", {})
    config = json.loads(values.get("custom_config") or "null")  # null for other tasks
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


def _run_recorded(args: argparse.Namespace, beam_args: Sequence[str], task: RunningTask) -> None:
    """Runs the task, and writes its record for the report before the launcher learns how it ended."""
    executor_input = json.loads(args.json_serialized_invocation_args)
    for path in launcher_adapter.uris(executor_input):
        paths.refuse_patterns(pathlib.Path(path), "the pipeline root")
    paths.refuse_patterns(pathlib.Path(tempfile.gettempdir()), "TMPDIR")
    prefix = task_records.prefix(executor_input, args.task)
    launcher_adapter.unwrap_metadata(executor_input)
    launcher_adapter.drop_servers_metadata(executor_input)
    inputs = _artifacts(executor_input.get("inputs", {}))
    started, kills = time.time(), _memory_kills()
    attempts = retries.retrying(args.retries, lambda error: isinstance(run_record.failure_cause(error), Unavailable))
    record = task_records.TaskRecord(args.task, State.RUNNING, started, None, inputs, {})
    attempts(task_records.write_task_record, prefix, record)
    task.start(prefix, record)
    try:
        check_code(args.code_digest)
        executor_output = attempts(run_adapted, args, beam_args)
    except Exception as error:
        task.end()
        failure = Failure.of(run_record.failure_cause(error))
        if (killed := _memory_kills() - kills) > 0:
            failure = Failure(1, f"{args.task} {_OUT_OF_MEMORY.format(killed)} Then: {failure.sentence}")
        record = dataclasses.replace(record, state=State.FAILED, ended=time.time(), failure=failure)
        try:
            attempts(task_records.write_task_record, prefix, record)
        except ProjectError as second:  # the task's own error matters more
            print_error(second)
        raise
    task.end()
    outputs = _artifacts(executor_output)
    record = dataclasses.replace(record, state=State.DONE, ended=time.time(), outputs=outputs)
    attempts(task_records.write_task_record, prefix, record)


def _memory_kills() -> int:
    """Counts the processes of this container that the kernel killed as it reached its limit of memory."""
    try:
        counts = dict(line.split() for line in MEMORY_EVENTS.read_text(encoding="utf-8").splitlines())
        return int(counts["oom_kill"])
    except (OSError, ValueError, KeyError):
        return 0


def on_sigterm(task: RunningTask) -> None:
    """Makes SIGTERM record that the task was ended from outside, and end the process.

    A thread does it: a handler in Python would wait for TensorFlow, and the container is killed a moment later.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def pass_over(number: int, frame: object) -> None:
        """Leaves the signal to the thread."""

    def end() -> None:
        while os.read(reader, 1) != bytes([signal.SIGTERM]):
            pass
        task.fail(_ENDED_FROM_OUTSIDE)
        if signal.getsignal(signal.SIGTERM) is pass_over:  # else a training job is removed first
            os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, pass_over)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(
        after_in_child=lambda: (signal.set_wakeup_fd(-1), signal.signal(signal.SIGTERM, signal.SIG_DFL))
    )
    threading.Thread(target=end, daemon=True).start()


def _artifacts(holder: dict[str, Any]) -> dict[str, task_records.TaskArtifact]:
    return {
        key: task_records.TaskArtifact(artifact["uri"], artifact.get("metadata", {}))
        for key, entry in holder.get("artifacts", {}).items()
        for artifact in entry["artifacts"][:1]
    }


def exit_code(error: Exception) -> int:
    """Prints an error, in one line where it is meant for a person; returns the exit code of the process."""
    cause = run_record.failure_cause(error)
    if isinstance(cause, ProjectError):
        print_error(cause)
        return cause.exit_code
    traceback.print_exception(error)
    return 1


def print_error(error: Exception) -> None:
    """Prints an error on one line, the last of a task's log."""
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")


if __name__ == "__main__":
    environment.prepare()
    os.umask(UMASK)
    running_task = RunningTask()
    on_sigterm(running_task)
    stdio.run(lambda: main(sys.argv[1:], running_task))
