# SPDX-License-Identifier: Apache-2.0
"""Adapts the open-source launcher's input to TFX's executors, and their output to the launcher.

The launcher downloads a task's inputs to /minio/…, /s3/… or /gcs/…, runs the command, and uploads the outputs from
there. The command gets an ExecutorInput as JSON and returns an ExecutorOutput, in the protocol that TFX has for Vertex
AI. Each function here removes one difference, and changes the dictionary that is passed in. The differences are those
of kubeflow/pipelines 2.14 to 2.17
(backend/src/v2: driver, component/launcher_v2.go, metadata).
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

Json = dict[str, Any]

# The folder in which the launcher mirrors each kind of store.
FOLDERS = {"minio://": "minio", "s3://": "s3", "gs://": "gcs"}
ROOT = pathlib.Path("/")
# Outputs that the driver adds to those of the component.
LAUNCHERS_OUTPUTS = ("executor-logs",)
# Metadata that the server adds to those of the producer.
SERVERS_METADATA = ("display_name", "store_session_info")


def local_path(uri: str) -> str:
    """Returns the launcher's path for the URI of a store; any other text as it is."""
    for scheme, folder in FOLDERS.items():
        if uri.startswith(scheme):
            return str(ROOT / folder / uri.removeprefix(scheme))
    return uri


def drop_launchers_outputs(executor_input: Json) -> None:
    """Removes the launcher's own outputs, whose types TFX cannot import."""
    for name in LAUNCHERS_OUTPUTS:
        executor_input.get("outputs", {}).get("artifacts", {}).pop(name, None)


def restore_input_types(executor_input: Json, inputs_spec: Mapping[str, Any]) -> None:
    """Adds the type of each input, which arrives without one, from the component's specification."""
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
    """Removes metadata of the server, which would become custom properties and go on from task to task."""
    for artifact in _inputs(executor_input):
        for name in SERVERS_METADATA:
            artifact.get("metadata", {}).pop(name, None)


def localize(executor_input: Json) -> None:
    """Replaces URIs by the launcher's paths: TFX opens them with TensorFlow, which has neither minio:// nor s3://."""
    for artifact in (*_inputs(executor_input), *_outputs(executor_input)):
        artifact["uri"] = local_path(artifact["uri"])


def make_output_folders(executor_input: Json) -> None:
    """Makes an empty folder for each output, as TFX's executors expect; the launcher makes its parent alone."""
    for artifact in _outputs(executor_input):
        shutil.rmtree(artifact["uri"], ignore_errors=True)  # a former try may have written to it
        pathlib.Path(artifact["uri"]).mkdir(parents=True)


def restore_uris(executor_output: Json, uri_of: Mapping[str, str]) -> None:
    """Replaces paths by URIs: with a path the launcher would skip the upload, and the next task would not have it.

    Args:
        executor_output: of the executor.
        uri_of: local path -> URI, of the task's inputs and outputs.
    """
    for artifact in _artifacts(executor_output):
        artifact["uri"] = uri_of.get(artifact["uri"], artifact["uri"])


def restore_uris_in_metadata(executor_output: Json, uri_of: Mapping[str, str]) -> None:
    """Replaces the paths in text, such as that of a component's baseline."""
    longest_first = sorted(uri_of, key=len, reverse=True)
    for artifact in _artifacts(executor_output):
        for name, value in artifact.get("metadata", {}).items():
            if isinstance(value, str):
                for path in longest_first:
                    value = value.replace(path, uri_of[path])
                artifact["metadata"][name] = value


def blank_session(executor_output: Json) -> None:
    """Keeps the server from adding the session of the store to artifacts in the installation's own store.

    It adds that to the metadata of each artifact without the field. The UI alone reads it, and takes `minio://` for its
    own store without it. With it, a task becomes 4 KB larger for each input
    (`pipeline.kubeflow.size`).
    """
    for artifact in _artifacts(executor_output):
        if artifact["uri"].startswith("minio://"):
            artifact.setdefault("metadata", {})["store_session_info"] = ""


def uris(executor_input: Json) -> dict[str, str]:
    """Returns path -> URI, of each input and output."""
    return {
        local_path(artifact["uri"]): artifact["uri"]
        for artifact in (*_inputs(executor_input), *_outputs(executor_input))
    }


def _inputs(executor_input: Json) -> Iterator[Json]:
    return _artifacts(executor_input.get("inputs", {}))


def _outputs(executor_input: Json) -> Iterator[Json]:
    return _artifacts(executor_input.get("outputs", {}))


def _artifacts(holder: Json) -> Iterator[Json]:
    for entry in holder.get("artifacts", {}).values():
        yield from entry.get("artifacts", [])


def _unwrapped(value: Any) -> Any:
    if isinstance(value, dict) and len(value) == 1:
        [(kind, inner)] = value.items()
        if (kind == "list" and isinstance(inner, list)) or (kind == "struct" and isinstance(inner, dict)):
            return inner
    return value
