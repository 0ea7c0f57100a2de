# SPDX-License-Identifier: Apache-2.0
"""Images per second of a training step, on the first GPU or else the CPU, and the share of the chip's peak.

    [KERAS_BACKEND=jax] python -m benchmarks.gpu [--model cnn] [--batch-size 1024]

The step is that of the pipeline's network, loss and optimizer, on images that are already on the device. Its floor is
the same network in plain Keras: `compile`, and `fit` on arrays. In each round the two take turns. With Keras on JAX,
TensorFlow is not needed. The images are random, as the time of a step does not depend on them.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from components import environment

if __name__ == "__main__":  # before Keras is imported
    environment.prepare(keras_backend="jax" if os.environ.get("KERAS_BACKEND") == "jax" else "tensorflow")

import keras
import numpy as np

from benchmarks import table
from components import features
from components.errors import BadInput, exit_code
from components.train import models
from components.train.hyperparameters import MODELS, Hyperparameters

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
# Part of a device's name -> TFLOP/s of dense matrices in float32 (TF32 on chips that have it, as both backends use it)
# and in bfloat16, from NVIDIA's data sheets. The first match counts.
_PEAKS = {
    "H200": (494.5, 989.0),
    "H100 PCIe": (378.0, 756.0),
    "H100 NVL": (417.5, 835.5),
    "H100": (494.5, 989.0),
    "A100": (156.0, 312.0),
    "L40S": (183.0, 362.05),
    "L4": (60.0, 121.0),
    "A10G": (35.0, 70.0),
}
_PASS_IMAGES = 16_384
_HEADER = ("precision", "step, images/s", "plain `fit`, images/s", "ratio", "TFLOP/s of the step", "share of the peak")


class Device(NamedTuple):
    """The device that computes."""

    name: str
    is_gpu: bool


class Rates(NamedTuple):
    """Images per second of a step and of plain Keras's `fit`, in each round, and operations per image of the step."""

    step: list[float]
    fit: list[float]
    flops: float


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", choices=MODELS, default="cnn", help="default: cnn")
    parser.add_argument("--batch-size", type=int, default=1024, help="images per step; default: 1024")
    parser.add_argument("--rounds", type=int, default=3, help="rounds to take the medians of; default: 3")
    parser.add_argument("--seconds", type=float, default=5.0, help="minimum length of a measurement; default: 5")
    parser.add_argument(
        "--peak-tflops",
        type=float,
        nargs=2,
        metavar=("FLOAT32", "BFLOAT16"),
        help="peak of an unlisted device",
    )
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    """Measures and prints.

    Raises:
        BadInput: an argument is invalid.
    """
    for name in ("batch_size", "rounds", "seconds"):
        if getattr(args, name) <= 0:
            raise BadInput(f"--{name.replace('_', '-')} must be above 0; received {getattr(args, name)}")
    chip = device()
    matches = (peak for part, peak in _PEAKS.items() if chip.is_gpu and re.search(rf"\b{part}\b", chip.name))
    peaks = args.peak_tflops or next(matches, None)
    rows = []
    for number, precision in enumerate(PRECISIONS):
        rates = measure(args.model, precision, args.batch_size, args.rounds, args.seconds)
        step, fit = statistics.median(rates.step), statistics.median(rates.fit)
        ratio = statistics.median(rate / floor for rate, floor in zip(rates.step, rates.fit, strict=True))
        tflops = step * rates.flops / 1e12
        share = f"{tflops / peaks[number]:.1%}" if peaks else "peak unknown"
        rows.append((precision, f"{step:,.0f}", f"{fit:,.0f}", f"{ratio:.2f}", f"{tflops:.3g}", share))
    facts = [
        f"Measured {table.today()} on {chip.name}{'' if chip.is_gpu else ', without a GPU'}",
        f"`{args.model}`, {args.batch_size} images per step; medians of {args.rounds} rounds",
        f"Keras {keras.__version__} on {keras.backend.backend()} {_backend_version()}; {table.machine()}",
    ]
    print(table.render(_HEADER, rows, facts))


def measure(model: str, precision: str, batch_size: int, rounds: int, seconds: float) -> Rates:
    """Measures the rates of a step and of plain Keras.

    Args:
        model: key of `MODELS`.
        precision: key of `PRECISIONS`.
        batch_size: images per step.
        rounds: number of rounds.
        seconds: minimum length of a measurement.

    Returns:
        A rate of each for each round.
    """
    steps = max(1, _PASS_IMAGES // batch_size)
    generator = np.random.default_rng(1)
    images = generator.random((steps * batch_size, *features.IMAGE_SHAPE, 1), np.float32)
    labels = generator.integers(0, len(features.CLASSES), len(images))
    hyperparameters = Hyperparameters.of(model, batch_size=batch_size)
    default = keras.config.dtype_policy()
    keras.config.set_dtype_policy(PRECISIONS[precision])
    try:
        network, plain = models.build(hyperparameters), models.build(hyperparameters)
        models.compile_network(network, hyperparameters, jit_compile=device().is_gpu)
        plain.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        prepare = {"jax": _on_jax, "tensorflow": _on_tensorflow}[keras.backend.backend()]
        step = prepare(network, images[:batch_size], labels[:batch_size])
        fit = functools.partial(plain.fit, images, labels, batch_size=batch_size, verbose=0)
        step(1)
        fit()
        rates, floors = [], []
        for _ in range(rounds):
            floors.append(len(images) * _per_second(fit, seconds))
            rates.append(len(images) * _per_second(functools.partial(step, steps), seconds))
    finally:
        keras.config.set_dtype_policy(default)
    return Rates(rates, floors, training_flops(network))


def training_flops(network: keras.Sequential) -> float:
    """Returns the floating-point operations of a training step for each image, counted from the shapes.

    Only convolutions and dense layers count: a multiplication and an addition for each weight and position, in three
    passes: the output, the gradient of the inputs, which the first layer does not need, and that of the weights.
    """
    total, first = 0.0, True
    for layer in network.layers:
        kernel = getattr(layer, "kernel", None)
        if kernel is None:
            continue
        positions = math.prod(layer.output.shape[1:-1])
        total += (2 if first else 3) * 2 * math.prod(kernel.shape) * positions
        first = False
    return total


def device() -> Device:
    """Returns the device that Keras computes on."""
    if keras.backend.backend() == "jax":
        import jax

        chip = jax.devices()[0]
        return Device(chip.device_kind, True) if chip.platform == "gpu" else Device(table.processor(), False)
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return Device(table.processor(), False)
    details = tf.config.experimental.get_device_details(gpus[0])
    return Device(details.get("device_name", gpus[0].name), True)


def _per_second(work: Callable[[], Any], seconds: float) -> float:
    count, start = 0, time.monotonic()
    while (elapsed := time.monotonic() - start) < seconds or not count:
        work()
        count += 1
    return count / elapsed


def _on_jax(network: keras.Model, images: Any, labels: Any) -> Callable[[int], None]:
    import jax

    optimizer = network.optimizer
    optimizer.build(network.trainable_variables)
    trainable, rest, slots = (
        [variable.value for variable in variables]
        for variables in (network.trainable_variables, network.non_trainable_variables, optimizer.variables)
    )
    batch = jax.device_put((images, labels))

    def loss(trainable: Any, rest: Any, images: Any, labels: Any) -> Any:
        predictions, rest = network.stateless_call(trainable, rest, images, training=True)
        return network.compute_loss(images, labels, predictions), rest

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(trainable: Any, rest: Any, slots: Any, images: Any, labels: Any) -> Any:
        (_, rest), grads = jax.value_and_grad(loss, has_aux=True)(trainable, rest, images, labels)
        trainable, slots = optimizer.stateless_apply(slots, grads, trainable)
        return trainable, rest, slots

    # Copies, as each step donates them to the next.
    state = [[jax.numpy.array(value, copy=True) for value in values] for values in (trainable, rest, slots)]

    def run(count: int) -> None:
        for _ in range(count):
            state[:] = step(*state, *batch)
        jax.block_until_ready(state)

    return run


def _on_tensorflow(network: keras.Model, images: Any, labels: Any) -> Callable[[int], None]:
    import tensorflow as tf

    network.optimizer.build(network.trainable_variables)
    batch = tf.constant(images), tf.constant(labels)

    @tf.function(jit_compile=network.jit_compile)
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = network.compute_loss(images, labels, network(images, training=True))
        variables = [variable.value for variable in network.trainable_variables]
        network.optimizer.apply(tape.gradient(loss, variables), network.trainable_variables)
        return loss

    def run(count: int) -> None:
        for _ in range(count):
            loss = step(*batch)
        loss.numpy()

    return run


def _backend_version() -> str:
    if keras.backend.backend() == "jax":
        import jax

        return jax.__version__
    import tensorflow as tf

    return str(tf.__version__)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 measured; 2 wrong usage, 1 anything else."""
    return exit_code(lambda: run(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
