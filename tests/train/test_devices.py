# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os

import pytest

import runner_local
from components.errors import BadInput
from components.train import devices
from components.train.devices import Compute
from components.train.hyperparameters import Hyperparameters


def test_what_was_asked_for():
    assert Compute.of() == Compute(accelerator="auto", gpus=1, precision="auto")
    assert Compute.of("gpu") == Compute(accelerator="gpu", gpus=1)
    assert Compute.of(None, 2) == Compute(accelerator="gpu", gpus=2)  # a number of GPUs asks for GPUs
    assert Compute.of("auto", 1) == Compute(accelerator="gpu", gpus=1)
    assert Compute.of("cpu", None, "bfloat16") == Compute(accelerator="cpu", precision="bfloat16")
    for compute in (Compute.of(None, 3), Compute.of("cpu")):
        assert Compute.from_config({"seed": 1, **json.loads(json.dumps(compute.to_config()))}) == compute
    assert Compute.from_config({}) == Compute()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (("tpu", None, None), "accelerator must be one of auto, cpu, gpu, not 'tpu'"),
        ((None, None, "float16"), "precision must be one of auto, float32, bfloat16, not 'float16'"),
        ((None, 0, None), "gpus must be a whole number from 1, not 0"),
        ((None, True, None), "gpus must be a whole number from 1, not True"),
        ((None, 1.5, None), "gpus must be a whole number from 1, not 1.5"),
        (("cpu", 1, None), "accelerator cpu takes no GPUs, but 1 were asked for"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_for(told, message):
    with pytest.raises(BadInput, match=message):
        Compute.of(*told)


@pytest.mark.parametrize("flags", [("--gpus", "99"), ("--accelerator", "gpu", "--gpus", "99")], ids=len)
def test_gpus_that_are_not_there_end_a_run_before_its_first_stage(flags, tmp_path, capfd):
    code = runner_local.main(["--dataset", "digits", "--output", str(tmp_path), *flags])
    assert code == 2
    printed = capfd.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("error: the training asks for 99 of this machine's GPUs, but TensorFlow sees ")
    assert line.endswith("install what requirements/gpu.lock names, or train with --accelerator cpu")
    assert [path.name for path in tmp_path.iterdir() if path.name in ("runs", "metadata.db", "pipeline_root")] == []


def test_a_trainer_that_was_promised_gpus_does_not_train_without(inputs, tmp_path):
    made = inputs.fn_args(tmp_path, Hyperparameters.of("linear", train_steps=2))
    made.custom_config |= {"accelerator": "gpu", "gpus": 99}
    from components.train import trainer

    with pytest.raises(BadInput, match="asks for 99 of this machine's GPUs"):
        trainer.run_fn(made)
    assert list(tmp_path.iterdir()) == []


def test_the_cpu_alone_hides_gpus_from_what_starts_later(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices.settle(Compute.of())
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    devices.settle(Compute.of("cpu"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"


def test_batch_rate_and_steps_follow_the_number_of_devices():
    one = Hyperparameters.of("mlp", batch_size=100, learning_rate=0.01, train_steps=1001)
    four = devices.scaled(one, 4)
    assert (four.batch_size, four.learning_rate, four.train_steps) == (400, 0.02, 251)
    assert devices.scaled(one, 1) == one
    assert 251 * 400 >= 1001 * 100 > 250 * 400  # as many images, the last step filled up


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
    ids=["alone", "one", "first", "second", "beside a chief", "the chief"],
)
def test_one_of_the_workers_writes(monkeypatch, tf_config, chief):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if tf_config:
        monkeypatch.setenv("TF_CONFIG", json.dumps(tf_config))
    assert devices.is_chief() is chief


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": 3}'])
def test_a_tf_config_that_cannot_be_read_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(BadInput, match="TF_CONFIG in the environment must be JSON with a cluster and a task"):
        devices.is_chief()


def test_precision_is_as_told_and_float32_on_the_cpu():
    assert devices.precision(Compute.of(None, None, "bfloat16")) == "bfloat16"
    assert devices.precision(Compute.of("cpu", None, "float32")) == "float32"
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        assert devices.precision(Compute()) == "float32"
