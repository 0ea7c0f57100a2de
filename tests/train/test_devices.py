# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os

import pytest

import runner_local
from components.errors import BadInput
from components.train import devices
from components.train.devices import Compute


def test_user_input_and_configuration():
    assert Compute.of() == Compute(accelerator="auto", gpus=1, precision="auto")
    assert Compute.of("gpu") == Compute(accelerator="gpu", gpus=1)
    assert Compute.of(None, 2) == Compute(accelerator="gpu", gpus=2)  # a number of GPUs implies `gpu`
    assert Compute.of("auto", 1) == Compute(accelerator="gpu", gpus=1)
    assert Compute.of("cpu", None, "bfloat16") == Compute(accelerator="cpu", precision="bfloat16")
    for compute in (Compute.of(None, 3), Compute.of("cpu")):
        assert Compute.from_config({"seed": 1, **json.loads(json.dumps(compute.to_config()))}) == compute
    assert Compute.from_config({}) == Compute()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("tpu", None, None), "accelerator must be one of auto, cpu, gpu, not 'tpu'"),
        ((None, None, "float16"), "precision must be one of auto, float32, bfloat16, not 'float16'"),
        ((None, 0, None), "gpus must be a whole number from 1, not 0"),
        ((None, True, None), "gpus must be a whole number from 1, not True"),
        ((None, 1.5, None), "gpus must be a whole number from 1, not 1.5"),
        (("cpu", 1, None), "accelerator cpu excludes GPUs, but gpus is 1; remove one of the two"),
    ],
    ids=str,
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        Compute.of(*options)


@pytest.mark.parametrize("flags", [("--gpus", "99"), ("--accelerator", "gpu", "--gpus", "99")], ids=len)
def test_missing_gpus_end_a_run_before_its_first_stage(flags, tmp_path, capfd):
    code = runner_local.main(["--dataset", "digits", "--output", str(tmp_path), *flags])
    assert code == 2
    printed = capfd.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: the training needs GPUs: 99 requested, ")
    assert line.endswith(" visible to TensorFlow; install requirements/gpu.lock, or train with --accelerator cpu")
    assert [path.name for path in tmp_path.iterdir() if path.name in ("runs", "metadata.db", "pipeline_root")] == []


def test_cpu_hides_gpus_from_processes_that_start_later(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices.prepare(Compute.of())
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    devices.prepare(Compute.of("cpu"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"


@pytest.mark.parametrize(
    ("tf_config", "chief"),
    [
        (None, True),
        ({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}, True),
        ({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}, True),
        ({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}, False),
        ({"cluster": {"chief": ["c:1"], "worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}, False),
        ({"cluster": {"chief": ["c:1"], "worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}, True),
    ],
    ids=["no TF_CONFIG", "only", "first", "second", "first with a chief", "chief"],
)
def test_one_worker_is_the_chief(monkeypatch, tf_config, chief):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if tf_config:
        monkeypatch.setenv("TF_CONFIG", json.dumps(tf_config))
    assert devices.is_chief() is chief


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": 3}'])
def test_an_invalid_tf_config_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(BadInput, match="TF_CONFIG in the environment must be JSON with a cluster and a task"):
        devices.is_chief()
