# SPDX-License-Identifier: Apache-2.0
"""Records of a run's tasks in the run's storage: state, times, and the URIs of inputs and outputs.

A failed task publishes nothing, its dependents never start, and the exit handler is not informed. So every task writes
its record itself, when it starts and before it ends, to ROOT/PIPELINE/RUN/notes/TASK.json. The server builds the URI of
an output from ROOT, the pipeline's name, the run's id, the task's name, in newer versions a random part, and the
output's key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from components import storage
from components.errors import BadInput, ProjectError, Unavailable
from pipeline.run_record import Failure, State

SERVICES = (
    "the store that Kubeflow Pipelines installs is the Service seaweedfs, port 8333, in 2.15 to 2.17, and "
    "minio-service, port 9000, in 2.14: compile with --env AWS_ENDPOINT_URL=http://SERVICE.NAMESPACE:PORT"
)
FOLDER = "notes"


@dataclass(frozen=True)
class TaskArtifact:
    """An input or an output of a task."""

    uri: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class TaskRecord:
    """The state of a task.

    Attributes:
        task: name of the node.
        state: RUNNING, DONE or FAILED.
        started: seconds since 1970.
        ended: the same; None while it runs.
        inputs: by key.
        outputs: by key, once it is done.
        failure: the reason if it failed.
    """

    task: str
    state: State
    started: float
    ended: float | None
    inputs: dict[str, TaskArtifact]
    outputs: dict[str, TaskArtifact]
    failure: Failure | None = None


_ADAPTER = TypeAdapter(TaskRecord)


def split_uri(uri: str, tasks: frozenset[str]) -> tuple[str, str, str] | None:
    """Returns the run's prefix, the task and the key in the URI of an output; None if it has another form."""
    parts = uri.split("/")
    for index in (-2, -3):
        if len(parts) + index > 2 and parts[index] in tasks:
            return "/".join(parts[:index]), parts[index], parts[-1]
    return None


def prefix(executor_input: dict[str, Any], task: str) -> str:
    """Returns the run's folder in the storage, ROOT/PIPELINE/RUN, from the URIs of a task's outputs.

    Raises:
        ProjectError: none of the URIs has the expected form.
    """
    outputs = executor_input.get("outputs", {}).get("artifacts", {})
    uris = [artifact["uri"] for entry in outputs.values() for artifact in entry["artifacts"]]
    for uri in uris:
        if parts := split_uri(uri, frozenset({task})):
            return parts[0]
    raise ProjectError(
        f"the URI of an output must be ROOT/PIPELINE/RUN/{task}/…/KEY, which gives the run's folder in the storage; "
        f"received {', '.join(uris) or 'none'}. Compile the package with this version of runner_kfp.py."
    )


def write_task_record(prefix: str, record: TaskRecord) -> None:
    """Writes the record of a task, over its previous one.

    Raises:
        BadInput: the storage cannot be written to.
    """
    try:
        put(f"{prefix}/{FOLDER}/{record.task}.json", _ADAPTER.dump_json(record, indent=1))
    except BadInput as error:
        raise type(error)(
            f"Every task must write its record to the run's storage, for the report, and this one cannot. {error}"
        ) from None


def read_task_records(prefix: str) -> dict[str, TaskRecord]:
    """Reads the records of a run's tasks, by task.

    Raises:
        BadInput: the storage cannot be read.
    """
    url = address(f"{prefix}/{FOLDER}")
    files, path = storage.connect(url)
    with _refusals(url):
        contents = [files.cat_file(name) for name in files.find(path) if name.endswith(".json")]
    return {record.task: record for record in map(_ADAPTER.validate_json, contents)}


def put(uri: str, content: bytes) -> None:
    """Writes one object.

    Raises:
        BadInput: the storage cannot be written to.
    """
    url = address(uri)
    files, path = storage.connect(url)
    with _refusals(url):
        files.pipe_file(path, content)


@contextlib.contextmanager
def _refusals(url: str) -> Iterator[None]:
    """Adds the Services of Kubeflow's own store to the error about a store that does not respond."""
    try:
        with storage.refusals(url):
            yield
    except Unavailable as error:
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        raise Unavailable(f"{error} AWS_ENDPOINT_URL is {endpoint}; {SERVICES}" if endpoint else str(error)) from None


def address(uri: str) -> str:
    """Returns the URL for a client of the store; `minio://` means S3 at the endpoint in the environment."""
    return f"s3://{uri.removeprefix('minio://')}" if uri.startswith("minio://") else uri


# Outputs that are models: large, and not read by the report.
_MODELS = frozenset({"model", "baseline", "best", "pushed_model", "trial_runs"})


@dataclasses.dataclass
class TaskRun:
    """One node in one run; its outputs are fetched from the storage on first use."""

    name: str
    state: State
    seconds: float
    outputs: Mapping[str, TaskArtifact]
    folder: pathlib.Path
    failure: Failure | None = None

    def uri(self, key: str) -> pathlib.Path:
        """Fetches an output and returns its folder.

        Raises:
            BadInput: the output cannot be fetched.
        """
        path = self.folder / self.name / key
        if not path.exists():
            storage.fetch(address(self.location(key)), path)
        return path

    def location(self, key: str) -> str:
        """Returns the URI of an output."""
        return self.outputs[key].uri

    def property(self, key: str, name: str) -> Any:
        """Returns a custom property of an output; the server stores whole numbers as doubles."""
        value = self.outputs[key].metadata.get(name)
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def is_read(self, key: str) -> bool:
        """Returns whether the report may read an output."""
        return key not in _MODELS


def task_runs(records: Mapping[str, TaskRecord], names: Sequence[str], folder: pathlib.Path) -> list[TaskRun]:
    """Returns every stage of a run, in the order of the names.

    A task with results from the server's cache has no record, but its outputs are inputs of tasks that have one, and
    their URIs name it.

    Args:
        records: by task.
        names: of all nodes.
        folder: destination of fetched outputs.
    """
    cached: dict[str, dict[str, TaskArtifact]] = {}
    for record in records.values():
        for artifact in record.inputs.values():
            if parts := split_uri(artifact.uri, frozenset(names)):
                cached.setdefault(parts[1], {})[parts[2]] = artifact
    return [
        _task_run(records[name], folder)
        if name in records
        else TaskRun(name, State.CACHED if name in cached else State.SKIPPED, 0.0, cached.get(name, {}), folder)
        for name in names
    ]


def failure(stages: Sequence[TaskRun]) -> Failure | None:
    """Returns the reason why the run did not complete; None if it did."""
    if failed := next((stage.failure for stage in stages if stage.failure), None):
        return failed
    missing = next((stage.name for stage in stages if stage.state == State.SKIPPED), None)
    if missing is None:
        return None
    return Failure(1, f"{missing} never started and no task failed: the run was ended, or its pod could not start")


def _task_run(record: TaskRecord, folder: pathlib.Path) -> TaskRun:
    ended = time.time() if record.ended is None else record.ended
    seconds = max(ended - record.started, 0.0)  # the two may be from different clocks
    if record.state != State.RUNNING:
        return TaskRun(record.task, record.state, seconds, record.outputs, folder, record.failure)
    sentence = (
        f"{record.task} started and recorded no end: its process was killed or its pod was lost; look at the pod's "
        "events for the cause"
    )
    return TaskRun(record.task, State.FAILED, seconds, {}, folder, Failure(1, sentence))
