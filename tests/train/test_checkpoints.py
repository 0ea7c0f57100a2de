# SPDX-License-Identifier: Apache-2.0
"""A training that is killed and run again ends like one that was not."""

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

# Runs `run_fn` and kills its own process, as an out-of-memory killer would, when the progress says a certain thing.
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


def arguments(inputs, folder, **config):
    # It has all there is to be kept: random numbers of dropout and of distorted images, and averages in batch norm.
    made = inputs.fn_args(folder, Hyperparameters.of("best", train_steps=45, batch_size=32))
    made.custom_config = {**made.custom_config, "code_digest": "a", **config}
    return made


def weights(folder):
    network = keras.saving.load_model(folder / "model" / "keras" / "model.keras")
    return [values.tobytes() for values in network.get_weights()]


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    trainer.run_fn(arguments(inputs, folder))
    return weights(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "epochs_kept"), [("epoch 3/5", 2), ("exporting", 5)])
def test_a_killed_training_goes_on_and_ends_the_same(inputs, undisturbed, tmp_path, caplog, moment, epochs_kept):
    config = {"checkpoints": str(tmp_path / "checkpoints")}
    killed = arguments(inputs, tmp_path / "killed", **config)
    root = str(pathlib.Path(__file__).resolve().parents[2])
    process = subprocess.run(
        [sys.executable, "-c", KILLED, root, json.dumps(vars(killed)), moment], check=False, capture_output=True
    )
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model").exists()

    with caplog.at_level("INFO", "progress"):
        trainer.run_fn(arguments(inputs, tmp_path / "again", **config))
    assert f"going on after epoch {epochs_kept}" in caplog.messages
    assert weights(tmp_path / "again") == undisturbed
    told = json.loads((tmp_path / "again" / "model_run" / "training.json").read_text())
    assert [row["steps"] for row in told["epochs"]] == [10, 20, 30, 40, 45]
    seconds = [row["seconds"] for row in told["epochs"]]
    assert seconds == sorted(seconds)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_another_training_begins_anew(tmp_path):
    for name, content in (("a", "1"), ("same", "1"), ("b", "2")):
        (tmp_path / name).write_text(content)

    def folder(file="a", **identity):
        known = {"config": {"seed": 1, "code_digest": "a"}, **identity}
        return checkpoints.folder_of("parent", known, [str(tmp_path / file)])

    assert folder() == folder()
    assert folder("same") == folder()  # wherever the next attempt has its files
    assert folder("b") != folder()
    assert folder(config={"seed": 2, "code_digest": "a"}) != folder()
    assert folder(config={"seed": 1, "code_digest": "b"}) != folder()
    assert folder(replicas=2) != folder()


def compiled(seed):
    keras.utils.set_random_seed(seed)
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(2, "softmax")])
    network.compile(keras.optimizers.Adam(0.1, use_ema=True), "sparse_categorical_crossentropy")
    network.optimizer.build(network.trainable_variables)
    return network


def state(network):
    return [keras.ops.convert_to_numpy(one) for one in (*network.variables, *network.optimizer.variables)]


def saved(folder, epochs=2):
    """A state after some steps, and the folder that it was saved in."""
    network = compiled(1)
    rows = [{"epoch": number, "val_accuracy": 0.5} for number in range(1, epochs + 1)]
    network.fit(np.eye(3, dtype=np.float32), np.array([0, 1, 1]), epochs=epochs, verbose=0)
    best = BestWeights(network, rows, 100, 0)
    best.weights = [weight + 1 for weight in network.get_weights()]
    Checkpoints(folder, network, rows, best).on_epoch_end(epochs - 1)
    return network, rows, best


def restored(folder):
    network, rows = compiled(2), list[dict[str, float]]()
    best = BestWeights(network, rows, 100, 0)
    return Checkpoints(folder, network, rows, best).restore(), network, rows, best


def same(one, other):
    return all(np.array_equal(mine, others) for mine, others in zip(one, other, strict=True))


def test_the_state_is_whole_and_needs_no_pickle(tmp_path):
    network, rows, best = saved(str(tmp_path / "deep" / "folder"))
    assert [path.name for path in (tmp_path / "deep" / "folder").iterdir()] == ["state.npz"]
    found, again, rows_again, best_again = restored(str(tmp_path / "deep" / "folder"))
    assert found
    assert same(state(network), state(again))
    assert same(best.weights, best_again.weights)
    assert rows_again == rows
    # Averages, moments and random numbers differ from those of a new network; only the rate is equal.
    alike = [np.array_equal(one, other) for one, other in zip(state(compiled(1)), state(again), strict=True)]
    assert alike.count(True) == 1


def test_without_a_state_a_training_begins(tmp_path):
    before = state(compiled(2))
    found, network, rows, _ = restored(str(tmp_path / "none"))
    assert (found, rows) == (False, [])
    assert same(before, state(network))


@pytest.mark.parametrize("damage", ["cut", "flipped", "another training's", "pickled"])
def test_a_damaged_state_is_said(tmp_path, damage):
    saved(str(tmp_path))
    file = tmp_path / "state.npz"
    content: Any = bytearray(file.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 3] ^= 1
    elif damage == "pickled":
        held = io.BytesIO()
        np.savez(held, allow_pickle=True, **{"network/0": np.array([print], dtype=object)})
        content = held.getvalue()
    else:
        held = io.BytesIO()
        np.savez(held, a=np.zeros(3))
        content = held.getvalue()
    file.write_bytes(content)
    with pytest.raises(ProjectError, match=r"the checkpoint .*/state.npz must hold the state of this training.*remove"):
        restored(str(tmp_path))


def test_the_state_may_lie_in_an_object_store(monkeypatch):
    with object_stores.running() as s3:
        for name, value in {**object_stores.ENVIRONMENT, "AWS_ENDPOINT_URL": s3.url}.items():
            monkeypatch.setenv(name, value)
        bucket = s3.bucket("states")
        url = "s3://states/of/this"
        assert not restored(url)[0]
        saved(url, epochs=1)
        network, rows, _ = saved(url, epochs=3)
        assert [one.key for one in bucket.objects.all()] == ["of/this/state.npz"]
        found, again, rows_again, _ = restored(url)
        assert found
        assert rows_again == rows
        assert same(state(network), state(again))
        checkpoints.remove(url)
        assert list(bucket.objects.all()) == []
        checkpoints.remove(url)
        with pytest.raises(BadInput, match="s3://nowhere/a"):
            saved("s3://nowhere/a")


def test_a_training_that_had_stopped_early_does_not_go_on(inputs, tmp_path, monkeypatch, caplog):
    hopeless = Hyperparameters.of("linear", train_steps=50, batch_size=32, learning_rate=1e-9, patience=2)
    made = inputs.fn_args(tmp_path, hopeless)
    made.custom_config |= {"checkpoints": str(tmp_path / "checkpoints")}

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(export, "export", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer.run_fn(made)
    with caplog.at_level("INFO", "progress"):
        trainer.run_fn(made)
    assert "going on after epoch 3" in caplog.messages
    told = json.loads((tmp_path / "model_run" / "training.json").read_text())
    assert (told["steps"], told["best_epoch"], told["stopped_early"]) == (30, 3, True)
