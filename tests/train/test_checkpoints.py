# SPDX-License-Identifier: Apache-2.0
"""A killed training that is run again ends with the weights of one that was not killed."""

from __future__ import annotations

import io
import json
import pathlib
import signal
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest

from components.errors import BadInput, ProjectError
from components.train import checkpoints, export, trainer
from components.train.callbacks import BestWeights
from components.train.checkpoints import Checkpoints
from components.train.hyperparameters import Hyperparameters
from tests import object_stores
from tests.train.conftest import read_network, read_training, weight_bytes

# Runs `run_fn` and kills its own process when the progress starts with a text, like an out-of-memory killer.
KILLED = """
import json, logging, os, signal, sys, types
sys.path.insert(0, sys.argv[1])
class Kill(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
logging.getLogger("progress").addHandler(Kill())
logging.getLogger("progress").setLevel(logging.INFO)
from components.train.trainer import run_fn
run_fn(types.SimpleNamespace(**json.loads(sys.argv[2])))
"""


def make_fn_args(inputs, folder, **config):
    # `best` has every kind of state: random numbers of dropout and distortion, and the averages of batch norm.
    fn_args = inputs.fn_args(folder, Hyperparameters.of("best", train_steps=25, batch_size=32))
    fn_args.custom_config = {**fn_args.custom_config, "code_digest": "a", **config}
    return fn_args


@pytest.mark.slow
def test_a_killed_training_resumes_and_ends_with_the_same_weights(inputs, tmp_path, caplog):
    trainer.run_fn(make_fn_args(inputs, tmp_path / "uninterrupted"))
    config = {"checkpoints": str(tmp_path / "checkpoints")}
    killed = make_fn_args(inputs, tmp_path / "killed", **config)
    root = str(pathlib.Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", KILLED, root, json.dumps(vars(killed)), "epoch 2/3"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model").exists()

    with caplog.at_level("INFO", "progress"):
        trainer.run_fn(make_fn_args(inputs, tmp_path / "resumed", **config))
    assert "resuming after epoch 1" in caplog.messages
    expected, resumed = (read_network(tmp_path / name) for name in ("uninterrupted", "resumed"))
    assert weight_bytes(resumed) == weight_bytes(expected)
    epochs = read_training(tmp_path / "resumed")["epochs"]
    assert [row["steps"] for row in epochs] == [10, 20, 25]
    seconds = [row["seconds"] for row in epochs]
    assert seconds == sorted(seconds)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_another_training_has_another_folder(tmp_path):
    for name, content in (("a", "1"), ("copy", "1"), ("b", "2")):
        (tmp_path / name).write_text(content)

    def folder(file="a", **identity):
        identity = {"config": {"seed": 1, "code_digest": "a"}, **identity}
        return checkpoints.checkpoint_folder("parent", identity, [str(tmp_path / file)])

    assert folder() == folder()
    assert folder("copy") == folder()  # the content of the files counts, not their paths
    assert folder("b") != folder()
    assert folder(config={"seed": 2, "code_digest": "a"}) != folder()
    assert folder(config={"seed": 1, "code_digest": "b"}) != folder()
    assert folder(replicas=2) != folder()


def build_network(seed):
    keras.utils.set_random_seed(seed)
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(2, "softmax")])
    network.compile(keras.optimizers.Adam(0.1, use_ema=True), "sparse_categorical_crossentropy")
    network.optimizer.build(network.trainable_variables)
    return network


def state(network):
    return [keras.ops.convert_to_numpy(variable) for variable in (*network.variables, *network.optimizer.variables)]


def save(folder, epochs=2):
    """Trains and saves a checkpoint; returns the network, the rows, and the best weights."""
    network = build_network(1)
    rows = [{"epoch": epoch, "val_accuracy": 0.5} for epoch in range(1, epochs + 1)]
    network.fit(np.eye(3, dtype=np.float32), np.array([0, 1, 1]), epochs=epochs, verbose=0)
    best = BestWeights(network, rows, 100, 0)
    best.weights = [weight + 1 for weight in network.get_weights()]
    Checkpoints(folder, network, rows, best).on_epoch_end(epochs - 1)
    return network, rows, best


def restore(folder):
    """Restores into a new network; returns whether there was a checkpoint, and the same as `save`."""
    network, rows = build_network(2), list[dict[str, float]]()
    best = BestWeights(network, rows, 100, 0)
    return Checkpoints(folder, network, rows, best).restore(), network, rows, best


def equal(arrays, other):
    return all(np.array_equal(array, other_array) for array, other_array in zip(arrays, other, strict=True))


def test_a_checkpoint_has_the_complete_state_without_pickles(tmp_path):
    network, rows, best = save(str(tmp_path / "deep" / "folder"))
    assert [path.name for path in (tmp_path / "deep" / "folder").iterdir()] == ["state.npz"]
    is_restored, restored, restored_rows, restored_best = restore(str(tmp_path / "deep" / "folder"))
    assert is_restored
    assert equal(state(network), state(restored))
    assert equal(best.weights, restored_best.weights)
    assert restored_rows == rows
    # Averages, moments and random numbers differ from those of a new network; only the learning rate is equal.
    unchanged = [np.array_equal(*pair) for pair in zip(state(build_network(1)), state(restored), strict=True)]
    assert unchanged.count(True) == 1


def test_without_a_checkpoint_nothing_is_restored(tmp_path):
    is_restored, network, rows, _ = restore(str(tmp_path / "none"))
    assert (is_restored, rows) == (False, [])
    assert equal(state(build_network(2)), state(network))


@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "other arrays", "pickled"])
def test_a_damaged_checkpoint_is_an_error(tmp_path, damage):
    save(str(tmp_path))
    path = tmp_path / "state.npz"
    content: Any = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped bit":
        content[len(content) // 3] ^= 1
    else:
        arrays = {"network/0": np.array([print], dtype=object)} if damage == "pickled" else {"a": np.zeros(3)}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=True, **arrays)
        content = buffer.getvalue()
    path.write_bytes(content)
    with pytest.raises(ProjectError, match=r"the checkpoint .*/state.npz must hold the state of this training.*remove"):
        restore(str(tmp_path))


def test_a_checkpoint_in_an_object_store(monkeypatch):
    with object_stores.running() as s3:
        for name, value in {**object_stores.ENVIRONMENT, "AWS_ENDPOINT_URL": s3.url}.items():
            monkeypatch.setenv(name, value)
        bucket = s3.bucket("states")
        url = "s3://states/of/this"
        assert not restore(url)[0]
        save(url, epochs=1)
        network, rows, _ = save(url, epochs=3)
        assert [item.key for item in bucket.objects.all()] == ["of/this/state.npz"]
        is_restored, restored, restored_rows, _ = restore(url)
        assert is_restored
        assert restored_rows == rows
        assert equal(state(network), state(restored))
        checkpoints.remove(url)
        assert list(bucket.objects.all()) == []
        checkpoints.remove(url)
        with pytest.raises(BadInput, match="s3://nowhere/a"):
            save("s3://nowhere/a")


def test_a_training_that_stopped_early_does_not_continue_when_resumed(inputs, tmp_path, monkeypatch, caplog):
    stopping = Hyperparameters.of("linear", train_steps=50, batch_size=32, learning_rate=1e-9, patience=2)
    fn_args = inputs.fn_args(tmp_path, stopping)
    fn_args.custom_config |= {"checkpoints": str(tmp_path / "checkpoints")}

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export, "export", interrupt)
        with pytest.raises(KeyboardInterrupt):
            trainer.run_fn(fn_args)
    with caplog.at_level("INFO", "progress"):
        trainer.run_fn(fn_args)
    assert "resuming after epoch 3" in caplog.messages
    training = read_training(tmp_path)
    assert (training["steps"], training["best_epoch"], training["stopped_early"]) == (30, 3, True)
