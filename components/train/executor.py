# SPDX-License-Identifier: Apache-2.0
"""The executor of training: TFX's own, which is told the hyperparameters that only the start of the run settled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tfx import types
from tfx.components.trainer import executor
from tfx.types import standard_component_specs
from tfx.utils import io_utils

from components.train.hyperparameters import OWN_DEFAULT, Hyperparameters

UNLESS_TOLD = "unless_told"
# Field of `Hyperparameters` -> parameter; `model` is the name of an output.
PROPERTIES = {name: name for name in Hyperparameters.model_fields} | {"model": "model_type"}
# Field -> its type as a parameter.
KINDS: Mapping[str, type] = Hyperparameters.types()


def settled(input_dict: Mapping[str, list[types.Artifact]], exec_properties: Mapping[str, Any]) -> dict[str, Any]:
    """`custom_config` with the hyperparameters that the start of the run settled, and over them what a search found.

    Raises:
        BadInput: for hyperparameters that are out of range or that the model does not have.
    """
    config: dict[str, Any] = json.loads(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY])
    unless_told = config.pop(UNLESS_TOLD, {})
    if told := _told(exec_properties):
        config |= Hyperparameters.from_parameters(told, unless_told).to_config()
    for artifact in input_dict.get(standard_component_specs.HYPERPARAMETERS_KEY, ()):
        found = json.loads(io_utils.read_string_file(io_utils.get_only_uri_in_dir(artifact.uri)))["values"]
        chosen = {field: value for field, value in config.items() if field in KINDS and field != "model"} | found
        config |= Hyperparameters.of(config["model"], **chosen).to_config()
    return config


def given_to_run(exec_properties: Mapping[str, Any]) -> set[str]:
    """The hyperparameters that the start of the run set to something else than the graph's own values."""
    config = json.loads(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY])
    unless_told = config.get(UNLESS_TOLD, {})
    told = _told(exec_properties).items()
    return {name for name, value in told if value not in (unless_told.get(name), OWN_DEFAULT)} - {"model"}


def _told(exec_properties: Mapping[str, Any]) -> dict[str, Any]:
    return {name: exec_properties[key] for name, key in PROPERTIES.items() if exec_properties.get(key) is not None}


class Executor(executor.GenericExecutor):
    """Trains with TFX's `GenericExecutor`.

    Inputs and outputs are those of TFX's Trainer. Parameters: those too, and each field of `Hyperparameters`, optional
    (`PROPERTIES`), which goes over `custom_config`. The key `unless_told` of `custom_config` holds what these fields
    are in a run that sets none of them, see `Hyperparameters.from_parameters`.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Trains; raises BadInput for hyperparameters that are out of range or that the model does not have."""
        config = settled(input_dict, exec_properties)
        super().Do(
            input_dict, output_dict, exec_properties | {standard_component_specs.CUSTOM_CONFIG_KEY: json.dumps(config)}
        )
