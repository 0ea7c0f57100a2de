# SPDX-License-Identifier: Apache-2.0
"""The executor of training: TFX's own, which is told the hyperparameters that only the start of the run settled."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from tfx import types
from tfx.components.trainer import executor
from tfx.types import standard_component_specs

from components.train.hyperparameters import Hyperparameters

UNLESS_TOLD = "unless_told"
# Field of `Hyperparameters` -> parameter; `model` is the name of an output.
PROPERTIES = {field.name: field.name for field in dataclasses.fields(Hyperparameters)} | {"model": "model_type"}


class Executor(executor.GenericExecutor):
    """Trains with TFX's `GenericExecutor`.

    Inputs and outputs are those of TFX's Trainer. Parameters: those too, and each field of `Hyperparameters`, optional
    (`PROPERTIES`), which goes over `custom_config`. The key `unless_told` of `custom_config` holds what these fields
    are in a run that sets none of them, see `Hyperparameters.told`.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Trains; raises BadInput for hyperparameters that are out of range or that the model does not have."""
        config = json.loads(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY])
        unless_told = config.pop(UNLESS_TOLD, {})
        told = {name: exec_properties[key] for name, key in PROPERTIES.items() if exec_properties.get(key) is not None}
        if told:
            config |= Hyperparameters.told(told, unless_told).to_config()
        super().Do(
            input_dict, output_dict, exec_properties | {standard_component_specs.CUSTOM_CONFIG_KEY: json.dumps(config)}
        )
