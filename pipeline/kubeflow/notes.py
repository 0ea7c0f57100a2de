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
from collections.abc import Iterator
from typing import Any

from components import storage
from components.errors import BadInput, ProjectError, Unavailable
from pipeline import outcome

SERVICES = (
    "the store that Kubeflow Pipelines installs is the Service seaweedfs, port 8333, in 2.15 to 2.17, and "
    "minio-service, port 9000, in 2.14: compile with --env AWS_ENDPOINT_URL=http://SERVICE.NAMESPACE:PORT"
)
FOLDER = "notes"
RECORD_FILE = "record.json"


@dataclasses.dataclass(frozen=True)
class Note:
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
    failure: outcome.Failure | None = None


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


def write(prefix: str, note: Note) -> None:
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


def read(prefix: str) -> dict[str, Note]:
    """Every note of a run, by task.

    Raises:
        BadInput: the storage cannot be read.
    """
    url = address(f"{prefix}/{FOLDER}")
    files, path = storage.connect(url)
    with _refusals(url):
        found = [json.loads(files.cat_file(name)) for name in files.find(path) if name.endswith(".json")]
    return {
        row["task"]: Note(**{**row, "failure": row["failure"] and outcome.Failure(**row["failure"])}) for row in found
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
