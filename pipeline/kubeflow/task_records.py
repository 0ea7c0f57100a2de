# SPDX-License-Identifier: Apache-2.0
"""What each task of a run notes in the run's storage: its state, its times, where its inputs and outputs lie.

A failed task publishes nothing, and what depends on it never starts; the exit handler is given nothing of either. So
every task writes its note itself, when it starts and before it ends, as ROOT/PIPELINE/RUN/notes/TASK.json. The server
makes the URI of an output from ROOT, the pipeline's name, the run's id, the task's name, in newer versions a random
part, and the output's key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components import storage
from components.errors import BadInput, ProjectError, Unavailable
from pipeline import run_record

SERVICES = (
    "the store that Kubeflow Pipelines installs is the Service seaweedfs, port 8333, in 2.15 to 2.17, and "
    "minio-service, port 9000, in 2.14: compile with --env AWS_ENDPOINT_URL=http://SERVICE.NAMESPACE:PORT"
)
FOLDER = "notes"
RECORD_FILE = "record.json"


@dataclasses.dataclass(frozen=True)
class TaskRecord:
    """What a task says of itself.

    Attributes:
        task: name of the node.
        state: `outcome.RUNNING`, DONE or FAILED.
        started: when it did, in seconds since 1970.
        ended: the same; None while it runs.
        inputs: key -> `{"uri": …, "metadata": {…}}`.
        outputs: the same, once it is done.
        failure: why it failed.
    """

    task: str
    state: str
    started: float
    ended: float | None
    inputs: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Any]]
    failure: run_record.Failure | None = None


def place_of(uri: str, tasks: frozenset[str]) -> tuple[str, str, str] | None:
    """The prefix of the run, the task and the key that an output's URI is made of; None where it is made otherwise."""
    parts = uri.split("/")
    for place in (-2, -3):
        if len(parts) + place > 2 and parts[place] in tasks:
            return "/".join(parts[:place]), parts[place], parts[-1]
    return None


def prefix(executor_input: dict[str, Any], task: str) -> str:
    """The run's place in the storage, ROOT/PIPELINE/RUN, from what a task is told.

    Raises:
        ProjectError: none of the outputs has a URI of the known form.
    """
    outputs = executor_input.get("outputs", {}).get("artifacts", {})
    uris = [artifact["uri"] for entry in outputs.values() for artifact in entry["artifacts"]]
    for uri in uris:
        if found := place_of(uri, frozenset({task})):
            return found[0]
    raise ProjectError(
        f"the URI of an output must be ROOT/PIPELINE/RUN/{task}/…/KEY, to find the run's place in the storage; "
        f"received {', '.join(uris) or 'none'}. Compile the package with this version of runner_kfp.py."
    )


def write_task_record(prefix: str, note: TaskRecord) -> None:
    """Writes a note over the former one of the task.

    Raises:
        BadInput: the storage cannot be written to.
    """
    try:
        put(f"{prefix}/{FOLDER}/{note.task}.json", json.dumps(dataclasses.asdict(note), indent=1).encode())
    except BadInput as error:
        raise type(error)(
            f"Every task notes in the run's storage what it did, for the report; here it cannot. {error}"
        ) from None


def read_task_records(prefix: str) -> dict[str, TaskRecord]:
    """Every note of a run, by task.

    Raises:
        BadInput: the storage cannot be read.
    """
    url = address(f"{prefix}/{FOLDER}")
    files, path = storage.connect(url)
    with _refusals(url):
        found = [json.loads(files.cat_file(name)) for name in files.find(path) if name.endswith(".json")]
    return {
        row["task"]: TaskRecord(**{**row, "failure": row["failure"] and run_record.Failure(**row["failure"])})
        for row in found
    }


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
    """Adds, to a sentence about a store of Kubeflow's that does not answer, where each version has it."""
    try:
        with storage.refusals(url):
            yield
    except Unavailable as error:
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        raise Unavailable(f"{error} AWS_ENDPOINT_URL is {endpoint}; {SERVICES}" if endpoint else str(error)) from None


def address(uri: str) -> str:
    """The URL by which a client reaches what the server names: MinIO speaks S3, at the endpoint of the environment."""
    return f"s3://{uri.removeprefix('minio://')}" if uri.startswith("minio://") else uri


# Outputs that are models: large, and no report looks into them.
_MODELS = frozenset({"model", "baseline", "best", "pushed_model", "trial_runs"})


@dataclasses.dataclass
class TaskRun:
    """One node in one run; its outputs are fetched from the storage when they are asked for."""

    name: str
    state: str
    seconds: float
    outputs: dict[str, dict[str, Any]]
    folder: pathlib.Path
    failure: run_record.Failure | None = None

    def uri(self, key: str) -> pathlib.Path:
        """The folder of an output, fetched.

        Raises:
            BadInput: it cannot be.
        """
        path = self.folder / self.name / key
        if not path.exists():
            storage.fetch(address(self.location(key)), path)
        return path

    def location(self, key: str) -> str:
        """The URI of an output."""
        return str(self.outputs[key]["uri"])

    def property(self, key: str, name: str) -> Any:
        """A custom property of an output; the server keeps whole numbers as doubles."""
        value = self.outputs[key]["metadata"].get(name)
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def is_read(self, key: str) -> bool:
        """Whether a report may look into an output."""
        return key not in _MODELS


def task_runs(noted: Mapping[str, TaskRecord], names: Sequence[str], folder: pathlib.Path) -> list[TaskRun]:
    """Every stage of a run, in the order of the names.

    A task whose results the server took from its cache did not run and noted nothing, but what it made is an input of
    tasks that did, and the URI names its maker.

    Args:
        noted: what the tasks have noted.
        names: of all nodes.
        folder: where outputs are fetched to.
    """
    known: dict[str, dict[str, dict[str, Any]]] = {}
    for note in noted.values():
        for artifact in note.inputs.values():
            if made := place_of(artifact["uri"], frozenset(names)):
                known.setdefault(made[1], {})[made[2]] = artifact
    return [
        _ran(noted[name], folder)
        if name in noted
        else TaskRun(name, run_record.CACHED if name in known else run_record.SKIPPED, 0.0, known.get(name, {}), folder)
        for name in names
    ]


def failure(stages: Sequence[TaskRun]) -> run_record.Failure | None:
    """Why the run did not get to its end; None where it did."""
    if failed := next((stage.failure for stage in stages if stage.failure), None):
        return failed
    missing = next((stage.name for stage in stages if stage.state == run_record.SKIPPED), None)
    if missing is None:
        return None
    return run_record.Failure(
        1, f"{missing} never started, and no task says why: the run was ended, or its pod could not start"
    )


def _ran(note: TaskRecord, folder: pathlib.Path) -> TaskRun:
    seconds = max((time.time() if note.ended is None else note.ended) - note.started, 0.0)  # two machines' clocks
    if note.state != run_record.RUNNING:
        return TaskRun(note.task, note.state, seconds, note.outputs, folder, note.failure)
    lost = run_record.Failure(
        1,
        f"{note.task} started and noted no end: its process was killed or its pod was lost, and nothing here says "
        "why; its pod's events may",
    )
    return TaskRun(note.task, run_record.FAILED, seconds, {}, folder, lost)
