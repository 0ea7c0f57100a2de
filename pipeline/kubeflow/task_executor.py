# SPDX-License-Identifier: Apache-2.0
"""Runs one executor on the ExecutorInput of a launcher, and imports no more than that executor needs.

TFX's own entrypoint imports every component that TFX has, and with them TensorFlow Model Analysis, Data Validation and
Beam, whichever is to run: half of the time of a small task.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from absl import logging
from google.protobuf import json_format
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.components.base import base_executor
from tfx.orchestration.portable import outputs_utils
from tfx.types import standard_artifacts
from tfx.types.artifact import Artifact
from tfx.utils import import_utils

from components import artifacts, import_speedup
from pipeline import beam

Json = dict[str, Any]

# The key under which TFX packs JSON that is no object.
_VALUE_KEY = "__value__"
_BEAM_BASE = "tfx.dsl.components.base.base_beam_executor"


def run_executor(executor_path: str, executor_input: Json, inputs_spec: Json, beam_args: Sequence[str]) -> Json:
    """Runs the executor.

    Args:
        executor_path: its class, by its dotted path.
        executor_input: an ExecutorInput; each artifact has a type, and a URI that TensorFlow can open.
        inputs_spec: the component's ComponentInputsSpec: which parameters are whole numbers.
        beam_args: options for Beam, for an executor that uses it.

    Returns:
        The ExecutorOutput.
    """
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    task_inputs = executor_input.get("inputs", {})
    inputs, outputs = _artifacts(task_inputs), _artifacts(executor_input["outputs"])
    kinds = inputs_spec.get("parameters", {})
    properties = {
        name: int(value) if kinds.get(name, {}).get("parameterType") == "NUMBER_INTEGER" else value
        for name, value in task_inputs.get("parameterValues", {}).items()
    }
    with import_speedup.faster_imports():
        kind = import_utils.import_class_by_path(executor_path)
    folder = pathlib.Path(executor_input["outputs"]["outputFile"]).parent
    context = {"unique_id": folder.name, "tmp_dir": str(folder / ".temp")}
    # Beam is not imported to find out that an executor has no use for it.
    on_beam = getattr(sys.modules.get(_BEAM_BASE), "BaseBeamExecutor", None)
    if on_beam is not None and issubclass(kind, on_beam):
        beam.patch()
        executor = kind(on_beam.Context(beam_pipeline_args=list(beam_args), **context))
    else:
        executor = kind(base_executor.BaseExecutor.Context(extra_flags=list(beam_args), **context))
    executor.Do(inputs, outputs, properties)
    outputs_utils.tag_output_artifacts_with_version(outputs)
    return {
        "artifacts": {
            key: {"artifacts": [{"uri": artifact.uri, "metadata": _metadata(artifact)}]}
            for key, [artifact] in outputs.items()
        }
    }


def _artifacts(holder: Json) -> dict[str, list[Artifact]]:
    return {key: list(map(_artifact, entry["artifacts"])) for key, entry in holder.get("artifacts", {}).items()}


def _artifact(values: Json) -> Artifact:
    kind = values["type"]
    title = kind.get("schemaTitle") or yaml.safe_load(kind["instanceSchema"])["title"]
    artifact = types()[title]()
    artifact.uri = values["uri"]
    for name, value in values.get("metadata", {}).items():
        declared = artifact.artifact_type.properties.get(name)
        if declared == metadata_store_pb2.INT and isinstance(value, float):
            value = int(value)  # JSON and the server have one type of number
        if declared is None:
            packed = value if isinstance(value, dict) else {_VALUE_KEY: value}
            artifact.mlmd_artifact.custom_properties[name].struct_value.update(packed)
        else:
            setattr(artifact, name, value)
    return artifact


def types() -> Mapping[str, type[Artifact]]:
    """Returns title -> class, of TFX's standard types and this project's."""
    own = {kind.TYPE_NAME: kind for kind in vars(artifacts).values() if _is_type(kind)}
    return {f"tfx.{kind.__name__}": kind for kind in vars(standard_artifacts).values() if _is_type(kind)} | own


def _is_type(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Artifact) and value is not Artifact


def _metadata(artifact: Artifact) -> Json:
    """Returns both kinds of properties, without empty ones: the launcher cannot publish a null."""
    groups = (artifact.mlmd_artifact.custom_properties, artifact.mlmd_artifact.properties)
    values = {name: _value(value) for group in groups for name, value in group.items()}
    return {name: value for name, value in values.items() if value is not None}


def _value(value: metadata_store_pb2.Value) -> Any:
    kind = value.WhichOneof("value")
    if kind != "struct_value":
        return getattr(value, kind) if kind else None
    struct = json_format.MessageToDict(value.struct_value)
    return struct.get(_VALUE_KEY, struct)
