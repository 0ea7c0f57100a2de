# SPDX-License-Identifier: Apache-2.0
"""The training loop against Keras's `fit` on arrays in memory: the same network, images and validation."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks import plain_keras
from benchmarks.measurement import Measurement, Options
from components.train import loop, models, optimization
from components.train.data import InMemoryDataset
from components.train.hyperparameters import Hyperparameters

_BATCH_SIZE = 128
_VALIDATION_BATCH = 500
_WARM_UP_IMAGES = 200


def measure(options: Options, say: Callable[[str], None]) -> list[Measurement]:
    """Trains both for one pass over the images, at most `options.steps` steps, once for each round.

    Both have traced their steps before. Both validate after the pass; the pipeline's also writes for TensorBoard, its
    pictures included, watches for NaN and saves its state.
    """
    images, labels = plain_keras.read_pair(options.data_dir, "train")
    held_out = len(images) // 12
    val = images[:held_out], labels[:held_out]
    most = options.steps * _BATCH_SIZE
    images, labels = images[held_out:][:most], labels[held_out:][:most]
    steps = -(-len(images) // _BATCH_SIZE)
    ours, exported, floor = (models.build(Hyperparameters.of("cnn")) for _ in range(3))
    for network in (ours, floor):
        optimization.compile_network(network, Hyperparameters.of("cnn", train_steps=steps))

    def ours_for(steps: int, count: int, name: str) -> float:
        folders = (str(options.scratch / f"{kind}-{name}") for kind in ("logs", "checkpoints"))
        told = Hyperparameters.of("cnn", train_steps=steps, batch_size=_BATCH_SIZE)
        started = time.monotonic()
        loop.fit(ours, exported, told, InMemoryDataset(images[:count], labels[:count]), InMemoryDataset(*val), *folders)
        return steps / (time.monotonic() - started)

    def floor_for(steps: int, count: int) -> float:
        started = time.monotonic()
        floor.fit(
            images[:count], labels[:count], batch_size=_BATCH_SIZE, epochs=1, verbose=0,
            validation_data=val, validation_batch_size=_VALIDATION_BATCH,
        )  # fmt: skip
        return steps / (time.monotonic() - started)

    floor_for(2, _WARM_UP_IMAGES)
    ours_for(2, _WARM_UP_IMAGES, "warm-up")
    rates: list[float] = []
    floors: list[float] = []
    for number in range(1, options.rounds + 1):
        floors.append(floor_for(steps, len(images)))
        rates.append(ours_for(steps, len(images), str(number)))
        say(f"  round {number} of {options.rounds}: {rates[-1]:.1f} / {floors[-1]:.1f} steps/s")
    return [Measurement("training / `fit` on arrays in memory", "steps/s", rates, floors, at_least=0.95)]
