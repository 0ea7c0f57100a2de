# SPDX-License-Identifier: Apache-2.0
"""The floor of the benchmarks does the pipeline's work: the same network, the same training."""

from __future__ import annotations

import gzip
import json
import pathlib
import struct
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import plain_keras
from components.train import models
from components.train.hyperparameters import Hyperparameters


def layers_of(network):
    descriptions = []
    for layer in network.layers:
        config = layer.get_config()
        keys = ("filters", "kernel_size", "pool_size", "padding", "units", "activation", "rate")
        descriptions.append((type(layer).__name__, {key: config[key] for key in keys if key in config}))
    return descriptions


def test_it_is_the_default_network():
    plain, ours = plain_keras.build_network(), models.build(Hyperparameters.of("cnn"))
    assert layers_of(plain) == layers_of(ours)
    assert plain.count_params() == ours.count_params() == 302_590


def test_it_is_the_same_training():
    ours = models.build(Hyperparameters.of("cnn", train_steps=1290))
    models.compile_network(ours, Hyperparameters.of("cnn", train_steps=1290))
    plain = plain_keras.build_network()
    plain_keras.compile_network(plain, 1290)
    expected = [float(keras.ops.convert_to_numpy(ours.optimizer._learning_rate(step))) for step in range(0, 1300, 10)]
    rates = [float(keras.ops.convert_to_numpy(plain.optimizer._learning_rate(step))) for step in range(0, 1300, 10)]
    assert rates == pytest.approx(expected)
    assert max(rates) == pytest.approx(Hyperparameters.of("cnn").learning_rate, rel=1e-3)
    assert type(plain.optimizer) is type(ours.optimizer) is keras.optimizers.Adam
    assert plain.loss == ours.loss


def write_idx(path: pathlib.Path, values: np.ndarray) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes()))


def test_it_runs_on_idx_files(tmp_path):
    generator = np.random.default_rng(1)
    for prefix, count in (("train", 120), ("t10k", 20)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = generator.integers(0, 20, (count, 28, 28)).astype(np.uint8) + 20 * labels[:, None, None]
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", labels)
    images, labels = plain_keras.read_pair(tmp_path, "t10k")
    assert images.shape == (20, 28, 28, 1)
    assert images.dtype == np.float32
    assert 0.6 < images.max() <= 1
    assert labels.tolist() == [*range(10), *range(10)]
    script = [sys.executable, plain_keras.__file__, str(tmp_path), "--steps", "9", "--batch-size", "16"]
    completed = subprocess.run(
        [*script, "--export", str(tmp_path / "model")], capture_output=True, text=True, check=True
    )
    result = json.loads(completed.stdout)
    assert (result["steps"], result["batch_size"], result["parameters"]) == (9, 16, 302_590)
    assert 0 <= result["accuracy"] <= 1
    assert set(result["seconds"]) == {"import", "read", "train", "evaluate", "export"}
    exported = tf.saved_model.load(str(tmp_path / "model"))
    assert exported.serve(tf.constant(images)).shape == (20, 10)
