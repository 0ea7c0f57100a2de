# SPDX-License-Identifier: Apache-2.0
"""On which devices a training runs, and in which precision.

The command line reads `Compute` at once, so TensorFlow is imported only where devices are looked for.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from components.errors import BadInput, GateStopped, ProjectError
from components.table import Flag, Table
from components.train.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    import tensorflow as tf

AUTO, CPU, GPU = "auto", "cpu", "gpu"
FLOAT32, BFLOAT16 = "float32", "bfloat16"
# The first generation of NVIDIA's GPUs that computes in bfloat16.
_BFLOAT16_CAPABILITY = (8, 0)
_STAY_SECONDS = 5.0


class PeerLost(ProjectError):
    """Another worker of the same training has gone; started again, all of them go on from the last checkpoint."""


class Compute(Table):
    """The devices of a training, as the user sets them."""

    accelerator: Annotated[
        Literal["auto", "cpu", "gpu"], Flag("devices", unset="auto, a GPU where TensorFlow sees one, else the CPU")
    ] = Field(default="auto", description="device of the training")
    gpus: Annotated[int, Flag("devices")] = Field(
        default=1, ge=1, description="how many of this machine's GPUs train; each worker takes as many of its own"
    )
    # The weights, and the exported model as a whole, are float32 always.
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Flag("training", unset="auto, bfloat16 on GPUs that have it, else float32"),
    ] = Field(default="auto", description="float type of the layers while training")

    @classmethod
    def of(cls, accelerator: Any = None, gpus: Any = None, precision: Any = None) -> Compute:
        """Returns the devices for the values that are set, with None for the others; GPUs alone ask for the GPU.

        Raises:
            BadInput: for a value out of bounds, or GPUs for the CPU.
        """
        if gpus is not None and accelerator in (None, AUTO):
            accelerator = GPU
        values = {"accelerator": accelerator, "gpus": gpus, "precision": precision}
        compute = cls.parse({name: value for name, value in values.items() if value is not None})
        if compute.accelerator == CPU and gpus is not None:
            raise BadInput(f"accelerator cpu takes no GPUs, but {gpus} were asked for; leave one of the two out")
        return compute

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Compute:
        """Reads what `to_config` wrote; other keys are ignored, and a missing one has its default."""
        return cls.parse({name: config[name] for name in cls.model_fields if name in config})


def settle(compute: Compute) -> None:
    """Makes sure of the devices before any work; only where GPUs are asked for, TensorFlow is imported.

    With `cpu` no TensorFlow that starts after this sees a GPU, in this process and in those that it starts.

    Raises:
        BadInput: GPUs are asked for that TensorFlow does not see.
    """
    if compute.accelerator == CPU:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    if compute.accelerator == GPU:
        import tensorflow as tf

        seen = len(tf.config.list_physical_devices("GPU"))
        if seen < compute.gpus:
            raise BadInput(
                f"the training asks for {compute.gpus} of this machine's GPUs, but TensorFlow sees {seen}; install "
                "what requirements/gpu.lock names, or train with --accelerator cpu"
            )


def strategy(compute: Compute) -> tf.distribute.Strategy:
    """How TensorFlow is to spread the training; must come before TensorFlow computes anything.

    Several workers where TF_CONFIG in the environment names them, else as many GPUs as were asked for, else the one
    device that TensorFlow takes by itself, which is its default strategy.

    Raises:
        BadInput: GPUs are asked for that TensorFlow does not see, or TF_CONFIG cannot be read.
    """
    import tensorflow as tf

    settle(compute)
    if compute.accelerator == CPU and tf.config.get_visible_devices("GPU"):
        tf.config.set_visible_devices([], "GPU")
    if _workers() > 1:
        tf.config.set_visible_devices(tf.config.get_visible_devices("GPU")[: compute.gpus], "GPU")
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = _local_devices(compute)
    return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else tf.distribute.get_strategy()


@contextlib.contextmanager
def peers_watched() -> Iterator[None]:
    """Raises PeerLost where TensorFlow, with several workers, finds that one of them no longer answers.

    It finds out at once where a worker has ended, and within half a minute where one is merely silent. So a worker that
    a gate stops stays a moment: the others, which the same step stops, would else lose it before they know.
    """
    import tensorflow as tf

    lost = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    )
    try:
        yield
    except GateStopped:
        if _workers() > 1:
            time.sleep(_STAY_SECONDS)
        raise
    except lost as error:
        if _workers() <= 1:
            raise
        raise PeerLost(
            f"all workers of a training must answer until its end, but one of them has gone ({type(error).__name__}); "
            "start all of them again, and they go on from the last checkpoint"
        ) from error


def is_chief() -> bool:
    """Whether this process is the one that writes: the only one, or the first worker."""
    task = _tf_config().get("task", {})
    return _workers() <= 1 or task.get("type") == "chief" or (task.get("index") == 0 and not _has_chief())


def scaled(hyperparameters: Hyperparameters, replicas: int) -> Hyperparameters:
    """The hyperparameters of a step that `replicas` devices take together, from those of one device.

    The batch is N times as large, so that each device has its own; the learning rate is sqrt(N) times as high, which
    keeps what Adam makes of the gradients' noise (S. Malladi et al., "On the SDEs and Scaling Rules for Adaptive
    Gradient Algorithms", 2022); and there are N times fewer steps, rounded up, so that as many images are seen.
    """
    return hyperparameters.model_copy(
        update={
            "batch_size": hyperparameters.batch_size * replicas,
            "learning_rate": hyperparameters.learning_rate * math.sqrt(replicas),
            "train_steps": -(-hyperparameters.train_steps // replicas),
        }
    )


def precision(compute: Compute) -> str:
    """FLOAT32 or BFLOAT16: what the layers compute in."""
    if compute.precision != AUTO:
        return compute.precision
    import tensorflow as tf

    found = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.get_visible_devices("GPU")]
    able = [details.get("compute_capability", (0, 0)) >= _BFLOAT16_CAPABILITY for details in found]
    return BFLOAT16 if able and all(able) else FLOAT32


def names(strategy: tf.distribute.Strategy) -> list[str]:
    """The devices that train: "CPU:0", "GPU:1 (NVIDIA A100)", "worker 1 GPU:0"; workers are taken to be alike."""
    import tensorflow as tf

    if strategy.num_replicas_in_sync == 1:
        local = (tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))[:1]
        return [_described(device.name) for device in local]
    own = [_described(name) for name in strategy.extended.worker_devices]
    workers = _workers()
    return [f"worker {worker} {name}" for worker in range(workers) for name in own] if workers > 1 else own


def _described(device: str) -> str:
    import tensorflow as tf

    name = device.rpartition("device:")[2]
    kind, _, number = name.partition(":")
    if kind != "GPU":
        return name
    model = tf.config.experimental.get_device_details(tf.config.get_visible_devices("GPU")[int(number)])
    return f"{name} ({model['device_name']})" if "device_name" in model else name


def _local_devices(compute: Compute) -> list[str]:
    """Names of the devices of this machine, where there is more than one to spread the training over."""
    return [f"GPU:{number}" for number in range(compute.gpus)] if compute.gpus > 1 else []


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


def _workers() -> int:
    cluster = _tf_config().get("cluster", {})
    return len(cluster.get("chief", ())) + len(cluster.get("worker", ()))


def _has_chief() -> bool:
    return bool(_tf_config().get("cluster", {}).get("chief"))
