# SPDX-License-Identifier: Apache-2.0
"""N devices train like one with their joint batch: two devices of one process, and two workers over loopback."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from components import features
from components.errors import BadInput
from components.train import distribution, trainer
from components.train.devices import Compute
from components.train.distribution import GRADIENT_NORM
from components.train.hyperparameters import Hyperparameters
from tests.train import workers
from tests.train.conftest import read_network, read_training, weight_bytes

IMAGES = np.random.default_rng(1).random((12, 3), np.float32)
LABELS = np.arange(12) % 4


def build_network():
    keras.utils.set_random_seed(1)
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.2), keras.layers.Dense(4, "softmax")])
    network.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def fit(network):
    history = network.fit(IMAGES, LABELS, batch_size=4, epochs=3, shuffle=False, verbose=0).history
    return history, weight_bytes(network)


def test_logging_the_gradient_norm_changes_nothing_else():
    plain, logged = build_network(), build_network()
    distribution.log_gradient_norm(logged)
    (plain_history, plain_weights), (history, weights) = fit(plain), fit(logged)
    assert weights == plain_weights
    norms = history.pop(GRADIENT_NORM)
    assert history == plain_history
    assert len(norms) == 3
    assert all(norm > 0 for norm in norms)


def test_the_norm_is_that_of_all_gradients_together():
    network = build_network()
    network.layers[0].rate = 0.0
    with tf.GradientTape() as tape:
        loss = keras.ops.mean(keras.losses.sparse_categorical_crossentropy(LABELS, network(IMAGES)))
    grads = tape.gradient(loss, [weight.value for weight in network.trainable_weights])
    expected = np.sqrt(sum((grad.numpy() ** 2).sum() for grad in grads))
    distribution.log_gradient_norm(network)
    norms = []
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: norms.append(logs[GRADIENT_NORM]))
    network.fit(IMAGES, LABELS, batch_size=12, verbose=0, callbacks=[callback])
    assert norms == pytest.approx([expected], rel=1e-5)


def test_batch_rate_and_steps_scale_with_the_number_of_devices():
    single = Hyperparameters.of("mlp", batch_size=100, learning_rate=0.01, train_steps=1001)
    scaled = distribution.scale(single, 4)
    assert (scaled.batch_size, scaled.learning_rate, scaled.train_steps) == (400, 0.02, 251)
    assert distribution.scale(single, 1) == single
    assert 251 * 400 >= 1001 * 100 > 250 * 400  # as many images, the last step filled up


def test_precision_is_as_requested_and_float32_on_the_cpu():
    assert distribution.resolve_precision(Compute.of(None, None, "bfloat16")) == "bfloat16"
    assert distribution.resolve_precision(Compute.of("cpu", None, "float32")) == "float32"
    if not tf.config.list_physical_devices("GPU"):
        assert distribution.resolve_precision(Compute()) == "float32"


TIMEOUT = 300  # seconds
# 5 epochs of 10 steps for two devices with 16 images each; no dropout, no batch norm.
CHOSEN = Hyperparameters.of("mlp", train_steps=100, batch_size=16)
# Two logical CPU devices stand for two GPUs.
TWO_DEVICES = """
import tensorflow as tf
from components.train import distribution
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
distribution._local_devices = lambda compute: ["CPU:0", "CPU:1"]
"""
# Prints the state of each replica after training a network with batch norm and dropout.
PRINT_REPLICAS = (
    TWO_DEVICES
    + """
import json
import keras
import numpy as np
from components.train import data
from components.train.data import InMemoryDataset
from components.train.devices import Compute
from components.train.hyperparameters import Hyperparameters
strategy = distribution.build_strategy(Compute())
keras.utils.set_random_seed(1)
with strategy.scope():
    network = keras.Sequential([
        keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.BatchNormalization(momentum=0.0),
        keras.layers.Dropout(0.5), keras.layers.Dense(10, "softmax"),
    ])
    network.compile(keras.optimizers.Adam(0.01, use_ema=True), "sparse_categorical_crossentropy")
    network.optimizer.build(network.trainable_variables)
dataset = InMemoryDataset(np.random.default_rng(1).random((8, 4, 4, 1), np.float32), np.arange(8))
hyperparameters = Hyperparameters.of("linear", train_steps=3, batch_size=8)
options = dict(initial_epoch=0, epochs=3, steps_per_epoch=1, first_pass=0)
distribution.fit(network, strategy, dataset, hyperparameters, [], **options)
values = lambda variable: [local.numpy().tolist() for local in strategy.experimental_local_results(variable.value)]
(last, _), = data.train_batches(dataset, 8, 1, first_pass=2).take(1)
prefetched, _ = next(iter(data.prefetch_to_device(data.train_batches(dataset, 8, 1, first_pass=2), "/device:CPU:1")))
print("replicas:", json.dumps({
    "mean": values(network.layers[1].moving_mean), "images": last.numpy().reshape(8, -1).mean(axis=0).tolist(),
    "kernel": values(network.layers[3].kernel),
    "average": values(network.optimizer._model_variables_moving_average[2]),
    "seeds": values(network.layers[2].seed_generator.state),
    "prefetched": bool((last.numpy() == prefetched.numpy()).all()),
}), flush=True)
"""
)


def worker_args(inputs, folder, count, hyperparameters=CHOSEN, **config):
    fn_args = [inputs.fn_args(folder / str(index), hyperparameters) for index in range(count)]
    for worker in fn_args:
        worker.custom_config |= {"accelerator": "cpu", **config}
    return fn_args


@pytest.fixture(scope="module")
def single(inputs, tmp_path_factory):
    """The outputs of one process with the batch, the rate and the steps of two."""
    folder = tmp_path_factory.mktemp("single")
    trainer.run_fn(inputs.fn_args(folder, distribution.scale(CHOSEN, 2)))
    return folder


@pytest.fixture(scope="module")
def two_workers(inputs, tmp_path_factory):
    """The outputs of two workers over loopback."""
    folder = tmp_path_factory.mktemp("two_workers")
    with workers.start(worker_args(inputs, folder, 2), folder) as processes:
        codes = [worker.process.wait(timeout=TIMEOUT) for worker in processes]
    assert codes == [0, 0], [worker.output[-3000:] for worker in processes]
    assert "epoch 5/5, step 50/50" in processes[0].progress
    assert "epoch" not in processes[1].progress
    return folder


def assert_same_training(folder, other):
    for row, other_row in zip(read_training(folder)["epochs"], read_training(other)["epochs"], strict=True):
        assert row["steps"] == other_row["steps"]
        for name in ("loss", "val_loss", "learning_rate"):
            assert row[name] == pytest.approx(other_row[name], rel=1e-3, abs=1e-6)
        assert row["val_accuracy"] == pytest.approx(other_row["val_accuracy"], abs=0.011)  # one of the 100 images
    for weight, other_weight in zip(read_network(folder).get_weights(), read_network(other).get_weights(), strict=True):
        np.testing.assert_allclose(weight, other_weight, atol=1e-4)


@pytest.mark.slow
def test_two_workers_train_like_one_process(single, two_workers):
    assert_same_training(single, two_workers / "0")
    training = read_training(two_workers / "0")
    assert training["devices"] == ["worker 0 CPU:0", "worker 1 CPU:0"]
    assert (training["batch_size"], training["steps"]) == (32, 50)
    assert training["epochs"][-1]["val_accuracy"] > 0.8


@pytest.mark.slow
def test_two_workers_write_one_model_that_loads_without_them(inputs, two_workers):
    assert not (two_workers / "1").exists()
    model = tf.saved_model.load(str(two_workers / "0/model/Format-Serving"))
    images, labels = inputs.splits[features.VAL]
    outputs = model.signatures[features.SIGNATURE_PIXELS](pixels=tf.constant(images))
    training = read_training(two_workers / "0")
    expected = training["epochs"][training["best_epoch"] - 1]["val_accuracy"]
    assert float((outputs[features.CLASS_OUTPUT].numpy() == labels).mean()) == pytest.approx(expected)


@pytest.fixture(scope="module")
def two_devices(inputs, tmp_path_factory):
    """The outputs of a process that trains on two devices."""
    folder = tmp_path_factory.mktemp("two_devices")
    with workers.start(worker_args(inputs, folder, 1), folder, TWO_DEVICES) as (worker,):
        assert worker.process.wait(timeout=TIMEOUT) == 0, worker.output[-3000:]
    return folder / "0"


@pytest.mark.slow
def test_two_devices_of_a_machine_train_like_one(single, two_devices):
    assert_same_training(single, two_devices)
    assert read_training(two_devices)["devices"] == ["CPU:0", "CPU:1"]


@pytest.mark.slow
def test_replicas_have_their_own_random_numbers_and_equal_weights(inputs, tmp_path):
    # In a process of its own: two strategies of one process would take each other's collectives for theirs.
    with workers.start(worker_args(inputs, tmp_path, 1), tmp_path, f"{PRINT_REPLICAS}os._exit(0)\n") as (worker,):
        assert worker.process.wait(timeout=TIMEOUT) == 0, worker.output[-3000:]
    (line,) = (line for line in worker.output.splitlines() if line.startswith("replicas: "))
    state = json.loads(line.removeprefix("replicas: "))
    for name in ("mean", "kernel", "average"):
        first, second = state[name]
        np.testing.assert_allclose(first, second, rtol=1e-6, err_msg=name)
    # Without momentum, the moving average is that of the last step's images: of both halves.
    np.testing.assert_allclose(state["mean"][0], state["images"], rtol=1e-5)
    assert state["seeds"][0] != state["seeds"][1]
    assert state["prefetched"]


@pytest.mark.slow
def test_a_killed_worker_ends_its_peer_and_a_restart_gives_the_same_weights(inputs, two_workers, tmp_path):
    checkpoints = str(tmp_path / "checkpoints")
    killed = worker_args(inputs, tmp_path / "killed", 2, checkpoints=checkpoints)
    with workers.start(killed, tmp_path / "killed") as (chief, peer):
        chief.wait_for("epoch 2/5")
        peer.process.kill()
        assert chief.process.wait(timeout=TIMEOUT) == 71
        assert chief.result.startswith("PeerLost all workers of a training must respond until it ends")
    assert not (tmp_path / "killed/0/model").exists()
    assert not (tmp_path / "killed/0/model_run/training.json").exists()

    resumed = worker_args(inputs, tmp_path / "resumed", 2, checkpoints=checkpoints)
    with workers.start(resumed, tmp_path / "resumed") as processes:
        codes = [worker.process.wait(timeout=TIMEOUT) for worker in processes]
    assert codes == [0, 0], [worker.output[-3000:] for worker in processes]
    for worker in processes:
        assert "resuming after epoch" in worker.progress
    assert "epoch 1/5" not in processes[0].progress
    weights = weight_bytes(read_network(tmp_path / "resumed" / "0"))
    assert weights == weight_bytes(read_network(two_workers / "0"))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == []


@pytest.mark.slow
def test_all_workers_stop_with_the_reason_when_the_training_diverges(inputs, tmp_path):
    diverging = Hyperparameters.of("linear", train_steps=50, batch_size=16, learning_rate=1e37)
    # A training job's worker imports TFX before it builds the strategy; TensorFlow must not be initialized by that.
    setup = "from tfx.components.trainer.fn_args_utils import FnArgs"
    with workers.start(worker_args(inputs, tmp_path, 2, diverging), tmp_path, setup) as processes:
        codes = [worker.process.wait(timeout=TIMEOUT) for worker in processes]
    assert codes == [73, 73], [worker.output[-3000:] for worker in processes]
    for worker in processes:
        assert worker.result.startswith("GateStopped the training was stopped because its loss must be a finite number")
    assert not (tmp_path / "0/model").exists()


def test_gpus_that_are_missing_end_the_training_before_it_reads(inputs, tmp_path):
    fn_args = inputs.fn_args(tmp_path, Hyperparameters.of("linear", train_steps=2))
    fn_args.custom_config |= {"accelerator": "gpu", "gpus": 99}
    with pytest.raises(BadInput, match="the training needs GPUs: 99 requested"):
        trainer.run_fn(fn_args)
    assert list(tmp_path.iterdir()) == []
