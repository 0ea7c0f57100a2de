# SPDX-License-Identifier: Apache-2.0
"""Several devices train like one with their batch: two devices of one process, and two real workers over loopback."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from components import features
from components.train import devices, trainer
from components.train.hyperparameters import Hyperparameters
from tests.train import workers

pytestmark = pytest.mark.slow

# 10 epochs of 10 steps for two devices with 16 images each; no dropout, no batch norm.
CHOSEN = Hyperparameters.of("mlp", train_steps=200, batch_size=16)
# Two devices of a machine without GPUs stand for two GPUs.
TWO_DEVICES = """
import tensorflow as tf
from components.train import devices
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
devices._local_devices = lambda compute: ["CPU:0", "CPU:1"]
"""
# What each replica has in the end, of a network with batch norm and dropout.
EACH_ITS_OWN = (
    TWO_DEVICES
    + """
import json
import keras
import numpy as np
from components.train import data, replicas
from components.train.hyperparameters import Hyperparameters
from components.train.data import Kept
strategy = devices.strategy(devices.Compute())
keras.utils.set_random_seed(1)
with strategy.scope():
    network = keras.Sequential([
        keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.BatchNormalization(momentum=0.0),
        keras.layers.Dropout(0.5), keras.layers.Dense(10, "softmax"),
    ])
    network.compile(keras.optimizers.Adam(0.01, use_ema=True), "sparse_categorical_crossentropy")
    network.optimizer.build(network.trainable_variables)
images = np.random.default_rng(1).random((8, 4, 4, 1), np.float32)
told = Hyperparameters.of("linear", train_steps=3, batch_size=8)
epoch = dict(first_epoch=0, epochs=3, steps_per_epoch=1, first_pass=0)
replicas.fit(network, strategy, Kept(images, np.arange(8)), told, [], **epoch)
values = lambda variable: [one.numpy().tolist() for one in strategy.experimental_local_results(variable.value)]
(order, _), = data.batches(Kept(images, np.arange(8)), 8, 1, first_pass=2).take(1)
same, _ = next(iter(data.on_device(data.batches(Kept(images, np.arange(8)), 8, 1, first_pass=2), "/device:CPU:1")))
print(json.dumps({
    "mean": values(network.layers[1].moving_mean), "images": order.numpy().reshape(8, -1).mean(axis=0).tolist(),
    "kernel": values(network.layers[3].kernel),
    "average": values(network.optimizer._model_variables_moving_average[2]),
    "seeds": values(network.layers[2].seed_generator.state),
    "moved": bool((order.numpy() == same.numpy()).all()),
}))
"""
)


def model(folder):
    return keras.saving.load_model(folder / "model" / "keras" / "model.keras")


def training(folder):
    return json.loads((folder / "model_run" / "training.json").read_text())


def arguments(inputs, folder, count, hyperparameters=CHOSEN, **config):
    made = [inputs.fn_args(folder / str(index), hyperparameters) for index in range(count)]
    for one in made:
        one.custom_config |= {"accelerator": "cpu", **config}
    return made


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory):
    """One process with the batch, the rate and the steps of two."""
    folder = tmp_path_factory.mktemp("alone")
    trainer.run_fn(inputs.fn_args(folder, devices.scaled(CHOSEN, 2)))
    return folder


@pytest.fixture(scope="module")
def together(inputs, tmp_path_factory):
    """Two workers over loopback; nothing disturbs them."""
    folder = tmp_path_factory.mktemp("together")
    with workers.started(arguments(inputs, folder, 2), folder) as both:
        codes = [worker.process.wait(timeout=240) for worker in both]
    assert codes == [0, 0], [worker.output[-3000:] for worker in both]
    assert "epoch 10/10, step 100/100" in both[0].progress
    assert "epoch" not in both[1].progress
    return folder


def same_course(one, other):
    for mine, others in zip(training(one)["epochs"], training(other)["epochs"], strict=True):
        assert mine["steps"] == others["steps"]
        for name in ("loss", "val_loss", "learning_rate"):
            assert mine[name] == pytest.approx(others[name], rel=1e-3, abs=1e-6)
        assert mine["val_accuracy"] == pytest.approx(others["val_accuracy"], abs=0.011)  # one of the 100 images
    for mine, others in zip(model(one).get_weights(), model(other).get_weights(), strict=True):
        np.testing.assert_allclose(mine, others, atol=1e-4)


def test_two_workers_train_what_one_process_would(alone, together):
    same_course(alone, together / "0")
    told = training(together / "0")
    assert told["devices"] == ["worker 0 CPU:0", "worker 1 CPU:0"]
    assert (told["batch_size"], told["steps"]) == (32, 100)
    assert told["epochs"][-1]["val_accuracy"] > 0.8


def test_they_write_one_model_that_needs_none_of_them(inputs, together):
    assert not (together / "1").exists()
    assert (together / "0/model/Format-Serving/saved_model.pb").is_file()
    import tensorflow as tf

    loaded = tf.saved_model.load(str(together / "0/model/Format-Serving"))
    images, labels = inputs.splits[features.VAL]
    answers = loaded.signatures[features.SIGNATURE_PIXELS](pixels=tf.constant(images))[features.CLASS_OUTPUT].numpy()
    told = training(together / "0")
    best = told["epochs"][told["best_epoch"] - 1]["val_accuracy"]
    assert float((answers == labels).mean()) == pytest.approx(best)


def test_two_devices_of_a_machine_train_what_one_would(inputs, alone, tmp_path):
    with workers.started(arguments(inputs, tmp_path, 1), tmp_path, TWO_DEVICES) as (process,):
        assert process.process.wait(timeout=120) == 0, process.output[-3000:]
    same_course(alone, tmp_path / "0")
    assert training(tmp_path / "0")["devices"] == ["CPU:0", "CPU:1"]


def test_each_replica_draws_for_itself_and_they_agree_on_weights():
    done = subprocess.run(
        [sys.executable, "-c", EACH_ITS_OWN], cwd=workers.ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    for name in ("mean", "kernel", "average"):
        first, second = told[name]
        np.testing.assert_allclose(first, second, rtol=1e-6, err_msg=name)
    # Without momentum, the moving average is that of the last step's images: of both halves.
    np.testing.assert_allclose(told["mean"][0], told["images"], rtol=1e-5)
    assert told["seeds"][0] != told["seeds"][1]
    assert told["moved"]


def test_a_killed_worker_ends_the_other_and_started_again_they_end_as_if_nothing_had_been(inputs, together, tmp_path):
    checkpoints = str(tmp_path / "checkpoints")
    killed = arguments(inputs, tmp_path / "killed", 2, checkpoints=checkpoints)
    with workers.started(killed, tmp_path / "killed") as (chief, other):
        chief.wait_for("epoch 3/10")
        other.process.kill()
        assert chief.process.wait(timeout=60) == 71
        assert chief.ended.startswith("PeerLost all workers of a training must answer until its end")
    assert not (tmp_path / "killed/0/model").exists()
    assert not (tmp_path / "killed/0/model_run/training.json").exists()

    again = arguments(inputs, tmp_path / "again", 2, checkpoints=checkpoints)
    with workers.started(again, tmp_path / "again") as both:
        codes = [worker.process.wait(timeout=240) for worker in both]
    assert codes == [0, 0], [worker.output[-3000:] for worker in both]
    for worker in both:
        assert "going on after epoch" in worker.progress
    assert "epoch 1/10" not in both[0].progress
    expected, found = (model(folder / "0").get_weights() for folder in (together, tmp_path / "again"))
    assert [weight.tobytes() for weight in found] == [weight.tobytes() for weight in expected]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == []


def test_workers_that_diverge_all_stop_with_the_sentence(inputs, tmp_path):
    diverging = Hyperparameters.of("linear", train_steps=50, batch_size=16, learning_rate=1e37)
    # TFX is imported first, as by a worker of a training job: what it does must leave TensorFlow at its start.
    tfx = "from tfx.components.trainer.fn_args_utils import FnArgs"
    with workers.started(arguments(inputs, tmp_path, 2, diverging), tmp_path, tfx) as both:
        codes = [worker.process.wait(timeout=120) for worker in both]
    assert codes == [73, 73], [worker.output[-3000:] for worker in both]
    for worker in both:
        assert worker.ended.startswith("GateStopped the training was stopped because its loss must be a finite number")
    assert not (tmp_path / "0/model").exists()
