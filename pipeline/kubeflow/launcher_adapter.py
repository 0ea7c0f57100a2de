# SPDX-License-Identifier: Apache-2.0
"""Between the open-source launcher and TFX's executors: what the one gives and what the others expect.

The launcher downloads a task's inputs to /minio/…, /s3/… or /gcs/…, runs the command, and uploads the outputs from
there. What it tells the command is an ExecutorInput as JSON, and what it expects back is an ExecutorOutput. Both follow
one protocol, which TFX knows as Vertex AI writes it. Each function here makes up for one difference; they change the
dictionary that they are given. The differences were read in kubeflow/pipelines 2.14 to 2.17
(backend/src/v2: driver, component/launcher_v2.go, metadata).
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

Json = dict[str, Any]

# Where the launcher keeps the contents of each kind of store.
FOLDERS = {"minio://": "minio", "s3://": "s3", "gs://": "gcs"}
ROOT = pathlib.Path("/")
# Outputs that the driver adds to those of the component.
LAUNCHERS_OUTPUTS = ("executor-logs",)
# Metadata that the server adds to those of the producer.
SERVERS_METADATA = ("display_name", "store_session_info")


def local_path(uri: str) -> str:
    """Where the launcher keeps what a URI names; anything but the URI of a store stays as it is."""
    for scheme, folder in FOLDERS.items():
        if uri.startswith(scheme):
            return str(ROOT / folder / uri.removeprefix(scheme))
    return uri


def drop_launchers_outputs(executor_input: Json) -> None:
    """The launcher's own outputs have types that TFX cannot import."""
    for name in LAUNCHERS_OUTPUTS:
        executor_input.get("outputs", {}).get("artifacts", {}).pop(name, None)


def restore_input_types(executor_input: Json, inputs_spec: Mapping[str, Any]) -> None:
    """Inputs arrive without a type; the component's specification has it."""
    declared = inputs_spec.get("artifacts", {})
    for key, entry in executor_input.get("inputs", {}).get("artifacts", {}).items():
        for artifact in entry.get("artifacts", []):
            if key in declared:
                artifact["type"] = declared[key]["artifactType"]


def unwrap_metadata(executor_input: Json) -> None:
    """Lists and objects arrive as `{"list": …}` and `{"struct": …}`."""
    for artifact in _inputs(executor_input):
        artifact["metadata"] = {name: _unwrapped(value) for name, value in artifact.get("metadata", {}).items()}


def drop_servers_metadata(executor_input: Json) -> None:
    """What the server adds would become custom properties of the artifact, and go on from task to task."""
    for artifact in _inputs(executor_input):
        for name in SERVERS_METADATA:
            artifact.get("metadata", {}).pop(name, None)


def localize(executor_input: Json) -> None:
    """TFX opens URIs with TensorFlow, which knows neither minio:// nor s3://, so it gets the launcher's folders."""
    for artifact in (*_inputs(executor_input), *_outputs(executor_input)):
        artifact["uri"] = local_path(artifact["uri"])


def make_output_folders(executor_input: Json) -> None:
    """The launcher makes the folder above an output; TFX's executors expect the output's own, and an empty one."""
    for artifact in _outputs(executor_input):
        shutil.rmtree(artifact["uri"], ignore_errors=True)  # what a try before this one left
        pathlib.Path(artifact["uri"]).mkdir(parents=True)


def restore_uris(executor_output: Json, uri_of: Mapping[str, str]) -> None:
    """A local path in the answer makes the launcher skip the upload, and is nowhere in the next task's container.

    Args:
        executor_output: the executor's answer.
        uri_of: local path -> URI, of the task's inputs and outputs.
    """
    for artifact in _answered(executor_output):
        artifact["uri"] = uri_of.get(artifact["uri"], artifact["uri"])


def restore_uris_in_metadata(executor_output: Json, uri_of: Mapping[str, str]) -> None:
    """The same for text that mentions a path, such as where a component found its baseline."""
    longest_first = sorted(uri_of, key=len, reverse=True)
    for artifact in _answered(executor_output):
        for name, value in artifact.get("metadata", {}).items():
            if isinstance(value, str):
                for path in longest_first:
                    value = value.replace(path, uri_of[path])
                artifact["metadata"][name] = value


def without_session(executor_output: Json) -> None:
    """Keeps the server from adding, to an artifact in the installation's own store, how the UI finds another store.

    It adds that to the metadata of each artifact that has no such field, and nobody but the UI reads it, which takes
    `minio://` for its own store without it. Left there, it makes a task 4 KB larger for each input
    (`pipeline.kubeflow.size`).
    """
    for artifact in _answered(executor_output):
        if artifact["uri"].startswith("minio://"):
            artifact.setdefault("metadata", {})["store_session_info"] = ""


def uris(executor_input: Json) -> dict[str, str]:
    """Local path -> URI, of each input and output."""
    return {
        local_path(artifact["uri"]): artifact["uri"]
        for artifact in (*_inputs(executor_input), *_outputs(executor_input))
    }


def _inputs(executor_input: Json) -> Iterator[Json]:
    return _listed(executor_input.get("inputs", {}))


def _outputs(executor_input: Json) -> Iterator[Json]:
    return _listed(executor_input.get("outputs", {}))


def _answered(executor_output: Json) -> Iterator[Json]:
    return _listed(executor_output)


def _listed(holder: Json) -> Iterator[Json]:
    for entry in holder.get("artifacts", {}).values():
        yield from entry.get("artifacts", [])


def _unwrapped(value: Any) -> Any:
    if isinstance(value, dict) and len(value) == 1:
        [(kind, inner)] = value.items()
        if (kind == "list" and isinstance(inner, list)) or (kind == "struct" and isinstance(inner, dict)):
            return inner
    return value
