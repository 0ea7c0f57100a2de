# SPDX-License-Identifier: Apache-2.0
"""A training that is killed and run again ends like one that was not."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys

import keras
import pytest

from components.train import checkpoints, run
from components.train.hyperparameters import Hyperparameters

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
from components.train.run import run_fn
run_fn(types.SimpleNamespace(**json.loads(sys.argv[2])))
"""


def arguments(inputs, folder, **config):
    made = inputs.fn_args(folder, Hyperparameters.of("cnn", train_steps=45, batch_size=32))
    made.custom_config = {**made.custom_config, "code_digest": "a", **config}
    return made


def weights(folder):
    network = keras.saving.load_model(folder / "model" / "keras" / "model.keras")
    return [values.tobytes() for values in network.get_weights()]


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run.run_fn(arguments(inputs, folder))
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
        run.run_fn(arguments(inputs, tmp_path / "again", **config))
    assert f"going on after epoch {epochs_kept}" in caplog.messages
    assert weights(tmp_path / "again") == undisturbed
    told = json.loads((tmp_path / "again" / "model_run" / "training.json").read_text())
    assert [row["steps"] for row in told["epochs"]] == [10, 20, 30, 40, 45]
    seconds = [row["seconds"] for row in told["epochs"]]
    assert seconds == sorted(seconds)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_another_training_begins_anew():
    def folder(**identity):
        return checkpoints.folder_of("parent", {"config": {"seed": 1, "code_digest": "a"}, **identity})

    assert folder() == folder()
    assert folder(config={"seed": 2, "code_digest": "a"}) != folder()
    assert folder(config={"seed": 1, "code_digest": "b"}) != folder()
    assert folder(inputs=["b"]) != folder()
