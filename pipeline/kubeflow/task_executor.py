# SPDX-License-Identifier: Apache-2.0
"""Runs one executor by what a launcher tells, and imports no more than that executor needs.

TFX's own entrypoint imports every component that TFX has, and with them TensorFlow Model Analysis, Data Validation and
Beam, before it looks at which one is to run: half of what a small task takes.
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

# Under this key TFX packs what is JSON but no object.
_ONE_VALUE = "__value__"
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
    told = executor_input.get("inputs", {})
    inputs, outputs = _artifacts(told), _artifacts(executor_input["outputs"])
    kinds = inputs_spec.get("parameters", {})
    properties = {
        name: int(value) if kinds.get(name, {}).get("parameterType") == "NUMBER_INTEGER" else value
        for name, value in told.get("parameterValues", {}).items()
    }
    with import_speedup.faster_imports():
        kind = import_utils.import_class_by_path(executor_path)
    folder = pathlib.Path(executor_input["outputs"]["outputFile"]).parent
    context = {"unique_id": folder.name, "tmp_dir": str(folder / ".temp")}
    # Beam is not imported to find out that an executor has no use for it.
    on_beam = getattr(sys.modules.get(_BEAM_BASE), "BaseBeamExecutor", None)
    if on_beam is not None and issubclass(kind, on_beam):
        beam.hurry()
        executor = kind(on_beam.Context(beam_pipeline_args=list(beam_args), **context))
    else:
        executor = kind(base_executor.BaseExecutor.Context(extra_flags=list(beam_args), **context))
    executor.Do(inputs, outputs, properties)
    outputs_utils.tag_output_artifacts_with_version(outputs)
    return {
        "artifacts": {
            key: {"artifacts": [{"uri": made.uri, "metadata": _metadata(made)}]} for key, [made] in outputs.items()
        }
    }


def _artifacts(holder: Json) -> dict[str, list[Artifact]]:
    return {key: [_read(one) for one in entry["artifacts"]] for key, entry in holder.get("artifacts", {}).items()}


def _read(told: Json) -> Artifact:
    kind = told["type"]
    title = kind.get("schemaTitle") or yaml.safe_load(kind["instanceSchema"])["title"]
    artifact = types()[title]()
    artifact.uri = told["uri"]
    for name, value in told.get("metadata", {}).items():
        declared = artifact.artifact_type.properties.get(name)
        if declared == metadata_store_pb2.INT and isinstance(value, float):
            value = int(value)  # JSON and the server know one kind of number
        if declared is None:
            packed = value if isinstance(value, dict) else {_ONE_VALUE: value}
            artifact.mlmd_artifact.custom_properties[name].struct_value.update(packed)
        else:
            setattr(artifact, name, value)
    return artifact


def types() -> Mapping[str, type[Artifact]]:
    """Title -> class, of TFX's standard types and this project's."""
    ours = {one.TYPE_NAME: one for one in vars(artifacts).values() if _is_type(one)}
    return {f"tfx.{one.__name__}": one for one in vars(standard_artifacts).values() if _is_type(one)} | ours


def _is_type(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Artifact) and value is not Artifact


def _metadata(artifact: Artifact) -> Json:
    """Both kinds of properties, without those that hold nothing: with a null the launcher cannot publish them."""
    told = artifact.mlmd_artifact
    found = {
        name: _value(value) for group in (told.custom_properties, told.properties) for name, value in group.items()
    }
    return {name: value for name, value in found.items() if value is not None}


def _value(value: metadata_store_pb2.Value) -> Any:
    kind = value.WhichOneof("value")
    if kind != "struct_value":
        return getattr(value, kind) if kind else None
    struct = json_format.MessageToDict(value.struct_value)
    return struct.get(_ONE_VALUE, struct)
