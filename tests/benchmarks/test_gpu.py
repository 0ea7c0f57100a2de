# SPDX-License-Identifier: Apache-2.0
"""The benchmark of a training step runs on each backend, without a GPU too, and names the device."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks import gpu, table
from benchmarks.measurement import ROOT
from components.train import models
from components.train.hyperparameters import Hyperparameters
from tests import jax_backend

# 2 operations for each weight and position; of the first layer only the output and the gradient of its weights.
FIRST, REST = 2 * 2, 2 * 3
FLOPS = {
    "linear": FIRST * 784 * 10,
    "mlp": FIRST * 784 * 256 + REST * (256 * 128 + 128 * 10),
    "cnn": FIRST * 28 * 28 * 25 * 10 + REST * (14 * 14 * 25 * 10 * 20 + 980 * 300 + 300 * 10),
}


@pytest.mark.parametrize("model", FLOPS)
def test_operations_are_counted_from_the_shapes(model):
    assert gpu.training_flops(models.build(Hyperparameters.of(model))) == FLOPS[model]


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_it_measures_on_each_backend(backend):
    command = [sys.executable, "-m", "benchmarks.gpu", "--model", "linear", "--batch-size", "512"]
    command += ["--rounds", "1", "--seconds", "0.05", "--peak-tflops", "2", "4"]
    env = jax_backend.environment() if backend == "jax" else {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    completed = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in completed.stdout.splitlines() if line[0:2] == "| "
    ]
    assert [row[0] for row in rows[2:]] == ["float32", "bfloat16"]
    for row, peak in zip(rows[2:], (2, 4), strict=True):
        rate = float(row[1].replace(",", ""))
        assert rate > 0
        assert float(row[2].replace(",", "")) > 0
        assert float(row[4]) == pytest.approx(rate * FLOPS["linear"] / 1e12, rel=0.01)
        assert float(row[5].rstrip("%")) / 100 == pytest.approx(float(row[4]) / peak, abs=0.001)
    assert f"on {table.processor()}, without a GPU" in completed.stdout
    assert f"on {backend} " in completed.stdout


@pytest.mark.parametrize("flag", ["--batch-size", "--rounds", "--seconds"])
def test_wrong_usage_is_refused(flag, capsys):
    assert gpu.main([flag, "0"]) == 2
    assert f"{flag} must be above 0; received 0" in capsys.readouterr().err
