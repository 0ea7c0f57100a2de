# SPDX-License-Identifier: Apache-2.0
"""Runs in the container of every task: its executor, between two adaptations to the open-source launcher.

    python -m pipeline.kubeflow.entrypoint --executor_class_path CLASS --json_serialized_invocation_args JSON
        --json_serialized_inputs_spec_args JSON [option for Beam …] --task NODE --code_digest SHA256

On Vertex AI, where TFX's own entrypoint is at home, that one is called as it is. The exit code is 0, 3 where a gate
stopped, 2 for input that is refused, and 1 for anything else; but for the last there is one sentence on stderr and no
trace.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from typing import Any

from components import environment, lean_import, paths, stdio
from components.errors import ProjectError
from components.train import exchange
from pipeline import code_digest, outcome
from pipeline.kubeflow import adapt, notes, parameters


def main(arguments: Sequence[str]) -> int:
    """Runs one task and returns the exit code."""
    parser = argparse.ArgumentParser(prog="pipeline.kubeflow.entrypoint", description=__doc__, allow_abbrev=False)
    for name in ("executor_class_path", "json_serialized_invocation_args", "task", "code_digest"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--json_serialized_inputs_spec_args", default="{}")
    told, beam_args = parser.parse_known_args(arguments)
    try:
        with lean_import.lean():
            lean_import.import_tensorflow()
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
    if found != expected:
        raise ProjectError(
            f"The image must hold the code that the package was compiled from, SHA-256 {expected[:12]}…; it holds "
            f"{found[:12]}…. Build the image again, or compile the package with the image's code."
        )


def call_tfx(told: argparse.Namespace, beam_args: Sequence[str]) -> None:
    """Calls TFX's entrypoint."""
    with lean_import.lean():
        from absl import logging
        from tfx.orchestration.kubeflow.v2 import compiler_utils
        from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

        from pipeline.kubeflow import execute

    logging.use_absl_handler()
    # It imports a type by its title; for those of this project that is not the name of the class.
    for title, kind in execute.types().items():
        compiler_utils.TITLE_TO_CLASS_PATH[title] = f"{kind.__module__}.{kind.__qualname__}"
    kubeflow_v2_run_executor.main((told, list(beam_args)))


def run_adapted(told: argparse.Namespace, beam_args: Sequence[str]) -> dict[str, Any]:
    """Runs the executor with what the launcher gives, and gives the launcher what it answers.

    Returns:
        The ExecutorOutput, as the launcher gets it.
    """
    with lean_import.lean():
        from pipeline.kubeflow import execute

    executor_input = json.loads(told.json_serialized_invocation_args)
    inputs_spec = json.loads(told.json_serialized_inputs_spec_args)
    uri_of = adapt.uris(executor_input)
    adapt.drop_launchers_outputs(executor_input)
    adapt.restore_input_types(executor_input, inputs_spec)
    adapt.unwrap_metadata(executor_input)
    adapt.drop_servers_metadata(executor_input)
    adapt.localize(executor_input)
    adapt.make_output_folders(executor_input)
    answer = execute.execute(told.executor_class_path, executor_input, inputs_spec, beam_args)
    adapt.restore_uris(answer, uri_of)
    adapt.restore_uris_in_metadata(answer, uri_of)
    output_file = pathlib.Path(executor_input["outputs"]["outputFile"])
    output_file.parent.mkdir(parents=True, exist_ok=True)
    output_file.write_text(json.dumps(answer), encoding="utf-8")
    return answer


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
        else notes.prefix(executor_input, task).rpartition("/")[2]
    )
    run = json.loads(values["run"])
    told = {
        name.removeprefix(parameters.OF_THE_RUN): values.pop(name)
        for name in list(values)
        if name.startswith(parameters.OF_THE_RUN)
    }
    config = parameters.effective(run["config"], told)
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
    urls = {path: notes.address(uri) for path, uri in adapt.uris(executor_input).items()}
    config[exchange.TASK] = {"name": task, "run": notes.address(notes.prefix(executor_input, task)), "urls": urls}
    values["custom_config"] = json.dumps(config)
    return json.dumps(executor_input)


def _run_noted(told: argparse.Namespace, beam_args: Sequence[str]) -> None:
    """Runs the task, and notes for the report how it went before the launcher learns of it."""
    executor_input = json.loads(told.json_serialized_invocation_args)
    for path in adapt.uris(executor_input):
        paths.refuse_patterns(pathlib.Path(path), "the pipeline root")
    paths.refuse_patterns(pathlib.Path(tempfile.gettempdir()), "TMPDIR")
    prefix = notes.prefix(executor_input, told.task)
    adapt.unwrap_metadata(executor_input)
    adapt.drop_servers_metadata(executor_input)
    inputs = _artifacts(executor_input.get("inputs", {}))
    started = time.time()
    notes.write(prefix, notes.Note(told.task, outcome.RUNNING, started, None, inputs, {}))
    try:
        check_code(told.code_digest)
        answer = run_adapted(told, beam_args)
    except Exception as error:
        failure = outcome.Failure.of(outcome.cause(error))
        note = notes.Note(told.task, outcome.FAILED, started, time.time(), inputs, {}, failure)
        try:
            notes.write(prefix, note)
        except ProjectError as second:  # what the task failed of matters more
            say(second)
        raise
    notes.write(prefix, notes.Note(told.task, outcome.DONE, started, time.time(), inputs, _artifacts(answer)))


def _artifacts(holder: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        key: {"uri": artifact["uri"], "metadata": artifact.get("metadata", {})}
        for key, entry in holder.get("artifacts", {}).items()
        for artifact in entry["artifacts"][:1]
    }


def exit_code(error: Exception) -> int:
    """Says why the process fails, in one sentence where it was written for a person; returns the code to end with."""
    cause = outcome.cause(error)
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
    stdio.run(lambda: main(sys.argv[1:]))
