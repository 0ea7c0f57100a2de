# SPDX-License-Identifier: Apache-2.0
"""The search from files to files, through TFX's executor, and the trainer that takes its winner."""

from __future__ import annotations

import json
import pathlib
import types
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tfx.components.trainer import fn_args_utils
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import standard_artifacts
from tfx.types.channel import Channel

from components.errors import BadInput, GateStopped
from components.train import trainer
from components.train.component import train, tune
from components.train.hyperparameters import Hyperparameters
from tests.transform import stages

# KerasTuner asks for the thread's name in the way of Python 2.
pytestmark = pytest.mark.filterwarnings("ignore:(currentThread|getName).. is deprecated:DeprecationWarning")

# A rate so low that another one wins.
BASE = Hyperparameters.of("dnn_dropout", train_steps=40, batch_size=32, learning_rate=0.0004)
CHANNELS = {
    "examples": Channel(type=standard_artifacts.Examples),
    "transform_graph": Channel(type=standard_artifacts.TransformGraph),
    "schema": Channel(type=standard_artifacts.Schema),
}


def search(inputs, folder, *, base=None, trials=3, fixed=("seed",), checkpoints="", **values):
    base = base or BASE.to_config()
    component = tune(**CHANNELS, hyperparameters=base, trials=trials, fixed=fixed, checkpoints=str(checkpoints))
    for name, value in values.items():
        component.spec.exec_properties[name] = value
    return stages.run(component, inputs.artifacts, folder)


def results(outputs):
    return json.loads((pathlib.Path(outputs["tuner_results"].uri) / "trials.json").read_text())


def found(outputs):
    [file] = pathlib.Path(outputs["best_hyperparameters"].uri).iterdir()  # TFX's Trainer takes the only one
    return json.loads(file.read_text())["values"]


def without_times(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def searched(inputs, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("searched")
        (folder / "tmp").mkdir()
        (folder / "work").mkdir()
        patch.chdir(folder / "work")
        patch.setattr("tempfile.tempdir", str(folder / "tmp"))
        outputs = search(inputs, folder / "out", checkpoints=folder / "checkpoints")
        # Nothing of KerasTuner is left anywhere; TensorFlow's own files go when the process ends.
        left = [path for name in ("checkpoints", "work", "tmp") for path in (folder / name).iterdir()]
        assert [path for path in left if not path.name.startswith("__autograph_generated")] == []
    return outputs


def test_it_tries_and_chooses(searched):
    told = results(searched)
    assert set(told["space"]) == {"learning_rate", "batch_size", "dropout"}
    rows = told["trials"]
    assert [row["state"] for row in rows] == ["done"] * 3
    assert rows[0]["values"] == {"learning_rate": 0.0004, "batch_size": 32, "dropout": 0.1}
    assert [row["steps"] for row in rows] == [round(320 / row["values"]["batch_size"]) for row in rows]
    assert all(row["seconds"] > 0 for row in rows)
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert told["winner"] == best["number"]
    steps = round(40 * 32 / best["values"]["batch_size"])
    assert found(searched) == best["values"] | {"train_steps": steps}
    tfx_rows = json.loads((pathlib.Path(searched["tuner_results"].uri) / "tuner_results.json").read_text())
    assert [row["score"] for row in tfx_rows] == sorted((row["val_accuracy"] for row in rows), reverse=True)


def test_it_sees_neither_the_test_images_nor_where_they_are(inputs):
    """In `inputs` the files of the split test are none that could be read."""
    component = tune(**CHANNELS, hyperparameters=BASE.to_config(), trials=1, fixed=())
    given = {key: [value] for key, value in inputs.artifacts.items()}
    fn_args = fn_args_utils.get_common_fn_args(given, dict(component.spec.exec_properties), "")
    examples = inputs.artifacts["examples"].uri
    assert fn_args.train_files == [f"{examples}/Split-train/*"]
    assert fn_args.eval_files == [f"{examples}/Split-val/*"]
    assert "Split-test" not in repr(vars(fn_args))


def test_the_same_search_finds_the_same(inputs, searched, tmp_path):
    again = search(inputs, tmp_path)  # without a folder for its state, as on Kubeflow
    assert without_times(results(again)["trials"]) == without_times(results(searched)["trials"])
    assert found(again) == found(searched)


def test_a_trial_is_the_training_with_its_values(inputs, searched, tmp_path):
    row = results(searched)["trials"][2]
    alone = Hyperparameters.of("dnn_dropout", **row["values"], train_steps=row["steps"])
    trainer.run_fn(inputs.fn_args(tmp_path, alone))
    training = json.loads((tmp_path / "model_run" / "training.json").read_text())
    epoch = training["epochs"][training["best_epoch"] - 1]
    assert (epoch["val_accuracy"], epoch["val_loss"]) == (row["val_accuracy"], row["val_loss"])


def test_tensorboard_has_the_trials_with_their_hyperparameters(searched):
    board = EventMultiplexer().AddRunsFromDirectory(searched["trial_runs"].uri).Reload()
    sessions = board.PluginRunToTagToContent(hparams_metadata.PLUGIN_NAME)
    for row in results(searched)["trials"]:
        name = f"trial-{row['number']}"
        assert "epoch_accuracy" in board.Runs()[f"{name}/validation"]["tensors"]
        content = sessions[name][hparams_metadata.SESSION_START_INFO_TAG]
        hparams = hparams_metadata.parse_session_start_info_plugin_data(content).hparams
        assert {key: hparams[key].number_value for key in row["values"]} == row["values"]


def test_the_trainer_takes_the_winner_and_leaves_the_rest(inputs, searched, tmp_path):
    component = train(
        **CHANNELS,
        hyperparameters=BASE.to_config() | {"seed": 5},
        found=Channel(type=standard_artifacts.HyperParameters),
    )
    given = inputs.artifacts | {"hyperparameters": searched["best_hyperparameters"]}
    outputs = stages.run(component, given, tmp_path)
    training = json.loads((pathlib.Path(outputs["model_run"].uri) / "training.json").read_text())
    assert training["hyperparameters"] == BASE.to_config() | {"seed": 5} | found(searched)
    assert training["hyperparameters"] != BASE.to_config() | {"seed": 5}
    assert training["batch_size"] == found(searched)["batch_size"]
    assert training["steps"] == found(searched)["train_steps"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": -0.1}, "learning_rate must be a number above 0"),
        ({"ksize1": 3}, "the model 'dnn_dropout' has no 'ksize1'"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"momentum": 0.9}, "the model 'dnn_dropout' has no 'momentum'"),
    ],
)
def test_what_a_search_found_is_checked(inputs, tmp_path, values, message):
    given = standard_artifacts.HyperParameters()
    given.uri = str(tmp_path / "found")
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "best_hyperparameters.txt").write_text(json.dumps({"space": [], "values": values}))
    component = train(
        **CHANNELS, hyperparameters=BASE.to_config(), found=Channel(type=standard_artifacts.HyperParameters)
    )
    with pytest.raises(BadInput, match=message):
        stages.run(component, inputs.artifacts | {"hyperparameters": given}, tmp_path / "out")


def test_without_a_search_the_trainer_has_no_such_input():
    assert "hyperparameters" not in train(**CHANNELS, hyperparameters=BASE.to_config()).inputs


def test_what_a_run_is_given_is_not_searched(inputs, tmp_path):
    told = {
        "model": RuntimeParameter("model", str, "cnn"),
        "train_steps": RuntimeParameter("train_steps", int, 24),
        "learning_rate": RuntimeParameter("learning_rate", float, -1.0),
        "batch_size": RuntimeParameter("batch_size", int, 32),
    }
    values = {"model_type": "linear", "train_steps": 24, "learning_rate": 0.03, "batch_size": 32}
    outputs = search(inputs, tmp_path, base=told, fixed=("ksize1",), trials=2, **values)
    assert set(results(outputs)["space"]) == {"batch_size"}
    assert results(outputs)["trials"][0]["values"] == {"batch_size": 32}
    values |= {"batch_size": 64}
    with pytest.raises(BadInput, match="all of them are given"):
        search(inputs, tmp_path / "nothing", base=told, trials=2, **values)


def test_one_trial_may_diverge_but_not_all(inputs, tmp_path):
    diverging = Hyperparameters.of("linear", train_steps=40, batch_size=32, learning_rate=1e37).to_config()
    with pytest.raises(GateStopped, match=r"all 2 diverged; of the first: the training was stopped because"):
        search(inputs, tmp_path / "all", base=diverging, trials=2, fixed=("learning_rate",))


def test_what_is_searched_and_with_what_code_is_in_the_cache_key():
    def properties(**changed):
        told: dict[str, Any] = {
            "trials": 3,
            "fixed": ("seed",),
            "code_digest": "a",
            "hyperparameters": BASE.to_config(),
        } | changed
        return tune(**CHANNELS, **told).spec.exec_properties

    assert properties() == properties()
    for changed in ({"trials": 4}, {"fixed": ()}, {"code_digest": "b"}, {"hyperparameters": {"model": "linear"}}):
        assert properties() != properties(**changed)


def test_a_fault_that_is_no_divergence_is_told_as_it_is(inputs, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("components.train.loop.train", full)
    with pytest.raises(OSError, match="No space left") as caught:
        search(inputs, tmp_path, checkpoints=tmp_path / "checkpoints")
    assert caught.value.errno == 28


def test_an_interrupted_search_goes_on_from_its_finished_trials(inputs, searched, tmp_path, monkeypatch):
    from components.train import loop

    trained: list[Hyperparameters] = []
    real = loop.train

    def interrupted(*args):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(args[0])
        return real(*args)

    monkeypatch.setattr(loop, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(inputs, tmp_path / "one", checkpoints=tmp_path / "checkpoints")

    def counted(*args):
        trained.append(args[0])
        return real(*args)

    monkeypatch.setattr(loop, "train", counted)
    outputs = search(inputs, tmp_path / "two", checkpoints=tmp_path / "checkpoints")
    assert len(trained) == 3
    assert without_times(results(outputs)["trials"]) == without_times(results(searched)["trials"])
    logs = pathlib.Path(outputs["trial_runs"].uri)
    assert sorted(path.name for path in logs.iterdir()) == ["trial-1", "trial-2", "trial-3"]
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_another_search_does_not_go_on_from_it(inputs, tmp_path, monkeypatch):
    from components.train import loop

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", interrupted)
        for number, trials in enumerate((2, 3)):
            with pytest.raises(KeyboardInterrupt):
                search(inputs, tmp_path / str(number), trials=trials, checkpoints=tmp_path / "checkpoints")
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_the_module_for_tfx_reads_what_it_is_told(inputs, tmp_path):
    from components.train import tuner

    config = BASE.to_config() | {"trials": 2, "fixed": ["batch_size"]}
    told = inputs.fn_args(tmp_path, BASE)
    fn_args = types.SimpleNamespace(**vars(told) | {"custom_config": config, "working_dir": str(tmp_path)})
    made = tuner.tuner_fn(fn_args)
    assert set(made.tuner.space) == {"learning_rate", "dropout"}
    assert made.tuner.remaining_trials == 2
    assert made.fit_kwargs == {}
