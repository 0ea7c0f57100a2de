# SPDX-License-Identifier: Apache-2.0
"""The devices that a training asks for, and this process's part among several workers.

The command line imports this module, so TensorFlow is imported only to count GPUs; `distribution` holds the rest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from components.errors import BadInput, ProjectError
from components.table import Flag, Table

AUTO, CPU, GPU = "auto", "cpu", "gpu"
FLOAT32, BFLOAT16 = "float32", "bfloat16"


class PeerLost(ProjectError):
    """Another worker of the same training stopped responding; after a restart all resume from the last checkpoint."""


class Compute(Table):
    """The devices and the precision that a training asks for."""

    accelerator: Annotated[
        Literal["auto", "cpu", "gpu"], Flag("devices", unset="auto, a GPU where TensorFlow sees one, else the CPU")
    ] = Field(default="auto", description="device of the training")
    gpus: Annotated[int, Flag("devices")] = Field(
        default=1, ge=1, description="number of GPUs of this machine, or of each worker's machine"
    )
    # Weights are always float32, and so are all computations of the exported model.
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Flag("training", unset="auto, bfloat16 on GPUs that support it, else float32"),
    ] = Field(default="auto", description="float type of the layers while training")

    @classmethod
    def of(cls, accelerator: Any = None, gpus: Any = None, precision: Any = None) -> Compute:
        """Builds it from user input, None for an option that is not set; a number of GPUs implies `gpu`.

        Raises:
            BadInput: for a value out of bounds, or GPUs together with `cpu`.
        """
        if gpus is not None and accelerator in (None, AUTO):
            accelerator = GPU
        values = {"accelerator": accelerator, "gpus": gpus, "precision": precision}
        compute = cls.parse({name: value for name, value in values.items() if value is not None})
        if compute.accelerator == CPU and gpus is not None:
            raise BadInput(f"accelerator cpu excludes GPUs, but gpus is {gpus}; remove one of the two")
        return compute

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Compute:
        """Reads the output of `to_config`; ignores other keys and uses the default for a missing one."""
        return cls.parse({name: config[name] for name in cls.model_fields if name in config})


def prepare(compute: Compute) -> None:
    """Checks that the requested GPUs exist, or hides all GPUs for `cpu`; imports TensorFlow only for `gpu`.

    GPUs are hidden from any TensorFlow that is imported later, in this process and its children.

    Raises:
        BadInput: TensorFlow sees fewer GPUs than requested.
    """
    if compute.accelerator == CPU:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    if compute.accelerator == GPU:
        import tensorflow as tf

        visible = len(tf.config.list_physical_devices("GPU"))
        if visible < compute.gpus:
            raise BadInput(
                f"the training needs GPUs: {compute.gpus} requested, {visible} visible to TensorFlow; install "
                "requirements/gpu.lock, or train with --accelerator cpu"
            )


def worker_count() -> int:
    """Returns the number of workers in TF_CONFIG; 0 without one.

    Raises:
        BadInput: TF_CONFIG cannot be read.
    """
    cluster = _tf_config().get("cluster", {})
    return len(cluster.get("chief", ())) + len(cluster.get("worker", ()))


def is_chief() -> bool:
    """Returns whether this process writes the outputs: it is the only one, or the first worker."""
    config = _tf_config()
    task, has_chief = config.get("task", {}), bool(config.get("cluster", {}).get("chief"))
    return worker_count() <= 1 or task.get("type") == "chief" or (task.get("index") == 0 and not has_chief)


def _tf_config() -> dict[str, Any]:
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(text)
        if not isinstance(config.get("cluster", {}), dict) or not isinstance(config.get("task", {}), dict):
            raise ValueError("cluster and task must be objects")
    except (ValueError, AttributeError) as error:
        raise BadInput(
            f"TF_CONFIG in the environment must be JSON with a cluster and a task: {error}; unset it for one worker"
        ) from None
    return dict(config)
