# SPDX-License-Identifier: Apache-2.0
"""The pipeline's work without TFX, as the floor of the benchmarks: read, train, evaluate, export.

    python benchmarks/plain_keras.py DATA_DIR [--steps 1290] [--batch-size 128] [--export DIR]

One file on its own: the default network, arrays in memory, no validation, no gates. Prints one line of JSON.
"""

from __future__ import annotations

import time

START = time.monotonic()

import argparse  # noqa: E402 - the imports are part of what is measured
import gzip  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import pathlib  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402

# Keras's own defaults, whatever the user's keras.json says.
os.environ |= {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull}

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402


def read_idx(folder: pathlib.Path, name: str) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, gzipped or not, into uint8 of its shape."""
    plain = folder / name
    data = plain.read_bytes() if plain.exists() else gzip.decompress(plain.with_name(f"{name}.gz").read_bytes())
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def read_pair(folder: pathlib.Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads images, float32 [n, 28, 28, 1] in [0, 1], and labels, int64 [n]."""
    images = read_idx(folder, f"{prefix}-images-idx3-ubyte")
    labels = read_idx(folder, f"{prefix}-labels-idx1-ubyte")
    return images[..., np.newaxis].astype(np.float32) / np.float32(255), labels.astype(np.int64)


def build_network() -> keras.Sequential:
    """Returns the pipeline's default network, `cnn`."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(10, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(20, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.25),
            layers.Dense(300, activation="relu"),
            layers.Dropout(0.25),
            layers.Dense(10, activation="softmax"),
        ]
    )


def compile_network(network: keras.Sequential, steps: int) -> None:
    """Compiles for the pipeline's training: Adam, a warm-up and a cosine."""
    warm_up = min(100, steps // 10)
    network.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                0.0, max(1, steps - warm_up), warmup_target=0.005, warmup_steps=max(1, warm_up)
            )
        ),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,  # XLA makes it three times slower on a CPU
    )


class StopAfter(keras.callbacks.Callback):
    """Ends `fit` after a number of steps; `on_train_batch_end` is called once for each."""

    def __init__(self, steps: int):
        super().__init__()
        self._remaining = steps

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._remaining -= 1
        if not self._remaining:
            self.model.stop_training = True


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="MNIST in plain Keras: the floor of the benchmarks.")
    parser.add_argument("data_dir", type=pathlib.Path, help="folder with the four IDX files, gzipped or not")
    parser.add_argument("--steps", type=int, default=1290)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--export", type=pathlib.Path, help="folder of the SavedModel; default: a temporary one")
    args = parser.parse_args(arguments)
    seconds = {"import": time.monotonic() - START}

    def lap(name: str) -> None:
        seconds[name] = time.monotonic() - START - sum(seconds.values())

    # The pipeline does not train on a twelfth of the training files either.
    images, labels = read_pair(args.data_dir, "train")
    val_count = len(images) // 12
    images, labels = images[:-val_count], labels[:-val_count]
    test_images, test_labels = read_pair(args.data_dir, "t10k")
    lap("read")
    keras.utils.set_random_seed(1)
    network = build_network()
    compile_network(network, args.steps)
    epochs = -(-args.steps // -(-len(images) // args.batch_size))
    network.fit(images, labels, batch_size=args.batch_size, epochs=epochs, verbose=0, callbacks=[StopAfter(args.steps)])
    lap("train")
    loss, accuracy = network.evaluate(test_images, test_labels, batch_size=1000, verbose=0)
    lap("evaluate")
    with tempfile.TemporaryDirectory() as temporary:
        network.export(args.export or temporary, verbose=False)
    lap("export")
    result = {
        "steps": int(network.optimizer.iterations.numpy()),
        "batch_size": args.batch_size,
        "parameters": network.count_params(),
        "accuracy": accuracy,
        "loss": loss,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "total_seconds": round(time.monotonic() - START, 3),
        "cpu_seconds": round(time.process_time(), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
