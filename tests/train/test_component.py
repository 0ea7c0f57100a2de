# SPDX-License-Identifier: Apache-2.0
"""The components of training and of the search, through TFX's executors, on real files."""

from __future__ import annotations

import json
import pathlib
import types
from typing import Any

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tfx.components.trainer import fn_args_utils
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import standard_artifacts
from tfx.types.channel import Channel

from components.errors import BadInput, GateStopped
from components.train import component, models, trainer
from components.train.devices import Compute
from components.train.hyperparameters import Hyperparameters
from tests.train.conftest import read_training
from tests.transform import stages

# KerasTuner uses deprecated names of Python's threading.
pytestmark = pytest.mark.filterwarnings("ignore:(currentThread|getName).. is deprecated:DeprecationWarning")

# The learning rate is so low that another one wins.
BASE = Hyperparameters.of("dnn_dropout", train_steps=40, batch_size=32, learning_rate=0.0004)
CHANNELS = {
    "examples": Channel(type=standard_artifacts.Examples),
    "transform_graph": Channel(type=standard_artifacts.TransformGraph),
    "schema": Channel(type=standard_artifacts.Schema),
}


def run_training(inputs, folder, hyperparameters, best_hyperparameters=None, **values):
    """Runs the training component and returns training.json; `values` are execution parameters of the run."""
    artifacts = dict(inputs.artifacts)
    channel = None
    if best_hyperparameters:
        artifacts["hyperparameters"] = best_hyperparameters
        channel = Channel(type=standard_artifacts.HyperParameters)
    node = component.train(**CHANNELS, hyperparameters=hyperparameters, best_hyperparameters=channel)
    for name, value in values.items():
        assert isinstance(node.spec.exec_properties[name], RuntimeParameter)
        node.spec.exec_properties[name] = value
    stages.run(node, artifacts, folder)
    return read_training(folder)


def run_search(inputs, folder, *, base=None, trials=3, fixed=("seed",), checkpoints="", **values):
    """Runs the search component and returns its outputs; `values` are execution parameters of the run."""
    base = base or BASE.to_config()
    node = component.tune(**CHANNELS, hyperparameters=base, trials=trials, fixed=fixed, checkpoints=str(checkpoints))
    for name, value in values.items():
        node.spec.exec_properties[name] = value
    return stages.run(node, inputs.artifacts, folder)


def read_results(outputs):
    return json.loads((pathlib.Path(outputs["tuner_results"].uri) / "trials.json").read_text())


def read_best(outputs):
    [path] = pathlib.Path(outputs["best_hyperparameters"].uri).iterdir()  # TFX's Trainer requires a single file
    return json.loads(path.read_text())["values"]


def without_times(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


RUNTIME = {
    "model": RuntimeParameter("model", str, "cnn"),
    "train_steps": RuntimeParameter("train_steps", int, 600),
    "ksize1": RuntimeParameter("ksize1", int, 3),
    "learning_rate": RuntimeParameter("learning_rate", float, -1.0),
}


def test_a_run_sets_the_model_and_its_steps(inputs, tmp_path):
    values = {"model_type": "linear", "train_steps": 2, "ksize1": 3, "learning_rate": -1.0}
    training = run_training(inputs, tmp_path, RUNTIME, **values)
    assert (training["parameters"], training["steps"]) == (7850, 2)


def test_a_hyperparameter_that_the_model_does_not_have_is_refused(inputs, tmp_path):
    values = {"model_type": "linear", "train_steps": 2, "ksize1": 4, "learning_rate": -1.0}
    with pytest.raises(BadInput, match="'linear' has no 'ksize1'"):
        run_training(inputs, tmp_path, RUNTIME, **values)


@pytest.fixture(scope="module")
def searched(inputs, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("searched")
        (folder / "tmp").mkdir()
        (folder / "work").mkdir()
        patch.chdir(folder / "work")
        patch.setattr("tempfile.tempdir", str(folder / "tmp"))
        outputs = run_search(inputs, folder / "out", checkpoints=folder / "checkpoints")
        # KerasTuner's files are removed; TensorFlow's own are when the process ends.
        remaining = [path for name in ("checkpoints", "work", "tmp") for path in (folder / name).iterdir()]
        assert [path for path in remaining if not path.name.startswith("__autograph_generated")] == []
    return outputs


def test_the_outputs_of_a_search(searched):
    results = read_results(searched)
    assert set(results["space"]) == {"learning_rate", "batch_size", "dropout"}
    rows = results["trials"]
    assert [row["state"] for row in rows] == ["done"] * 3
    assert rows[0]["values"] == {"learning_rate": 0.0004, "batch_size": 32, "dropout": 0.1}
    assert [row["steps"] for row in rows] == [round(320 / row["values"]["batch_size"]) for row in rows]
    assert all(row["seconds"] > 0 for row in rows)
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert results["winner"] == best["number"]
    steps = round(40 * 32 / best["values"]["batch_size"])
    assert read_best(searched) == best["values"] | {"train_steps": steps}
    tfx_rows = json.loads((pathlib.Path(searched["tuner_results"].uri) / "tuner_results.json").read_text())
    assert [row["score"] for row in tfx_rows] == sorted((row["val_accuracy"] for row in rows), reverse=True)


def test_a_search_does_not_get_the_test_split(inputs):
    """In `inputs` the files of the test split are unreadable too."""
    node = component.tune(**CHANNELS, hyperparameters=BASE.to_config(), trials=1, fixed=())
    input_dict = {key: [value] for key, value in inputs.artifacts.items()}
    fn_args = fn_args_utils.get_common_fn_args(input_dict, dict(node.spec.exec_properties), "")
    examples = inputs.artifacts["examples"].uri
    assert fn_args.train_files == [f"{examples}/Split-train/*"]
    assert fn_args.eval_files == [f"{examples}/Split-val/*"]
    assert "Split-test" not in repr(vars(fn_args))


def test_a_search_is_reproducible(inputs, searched, tmp_path):
    outputs = run_search(inputs, tmp_path)  # without a folder for its state, as on Kubeflow
    assert without_times(read_results(outputs)["trials"]) == without_times(read_results(searched)["trials"])
    assert read_best(outputs) == read_best(searched)


def test_a_trial_is_a_training_with_its_values(splits, searched, tmp_path):
    row = read_results(searched)["trials"][2]
    hyperparameters = Hyperparameters.of("dnn_dropout", **row["values"], train_steps=row["steps"])
    strategy = tf.distribute.get_strategy()
    train_data, val_data = splits
    _, result = trainer.train(hyperparameters, Compute(), strategy, train_data, val_data, str(tmp_path))
    epoch = result.epochs[result.best_epoch - 1]
    assert (epoch["val_accuracy"], epoch["val_loss"]) == (row["val_accuracy"], row["val_loss"])


def test_tensorboard_has_the_trials_with_their_hyperparameters(searched):
    runs = EventMultiplexer().AddRunsFromDirectory(searched["trial_runs"].uri).Reload()
    sessions = runs.PluginRunToTagToContent(hparams_metadata.PLUGIN_NAME)
    for row in read_results(searched)["trials"]:
        name = f"trial-{row['number']}"
        assert "epoch_accuracy" in runs.Runs()[f"{name}/validation"]["tensors"]
        content = sessions[name][hparams_metadata.SESSION_START_INFO_TAG]
        hparams = hparams_metadata.parse_session_start_info_plugin_data(content).hparams
        assert {key: hparams[key].number_value for key in row["values"]} == row["values"]


def test_best_hyperparameters_override_those_of_the_training(inputs, searched, tmp_path):
    hyperparameters = BASE.to_config() | {"seed": 5}
    training = run_training(inputs, tmp_path, hyperparameters, searched["best_hyperparameters"])
    best = read_best(searched)
    assert training["hyperparameters"] == hyperparameters | best
    assert training["hyperparameters"] != hyperparameters
    assert (training["batch_size"], training["steps"]) == (best["batch_size"], best["train_steps"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": -0.1}, "learning_rate must be a number above 0"),
        ({"ksize1": 3}, "the model 'dnn_dropout' has no 'ksize1'"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"momentum": 0.9}, "the model 'dnn_dropout' has no 'momentum'"),
    ],
)
def test_best_hyperparameters_are_checked(inputs, tmp_path, values, message):
    best = standard_artifacts.HyperParameters()
    best.uri = str(tmp_path / "best")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "best_hyperparameters.txt").write_text(json.dumps({"space": [], "values": values}))
    with pytest.raises(BadInput, match=message):
        run_training(inputs, tmp_path / "out", BASE.to_config(), best)


def test_without_a_search_the_training_has_no_such_input():
    assert "hyperparameters" not in component.train(**CHANNELS, hyperparameters=BASE.to_config()).inputs


def test_hyperparameters_that_a_run_sets_are_not_searched(inputs, tmp_path):
    runtime = {
        "model": RuntimeParameter("model", str, "cnn"),
        "train_steps": RuntimeParameter("train_steps", int, 24),
        "learning_rate": RuntimeParameter("learning_rate", float, -1.0),
        "batch_size": RuntimeParameter("batch_size", int, 32),
    }
    values = {"model_type": "linear", "train_steps": 24, "learning_rate": 0.03, "batch_size": 32}
    results = read_results(run_search(inputs, tmp_path, base=runtime, fixed=("ksize1",), trials=2, **values))
    assert set(results["space"]) == {"batch_size"}
    assert results["trials"][0]["values"] == {"batch_size": 32}
    values |= {"batch_size": 64}
    with pytest.raises(BadInput, match="all of them are fixed"):
        run_search(inputs, tmp_path / "nothing", base=runtime, trials=2, **values)


def test_a_search_whose_trials_all_diverge_stops(inputs, tmp_path):
    diverging = Hyperparameters.of("linear", train_steps=40, batch_size=32, learning_rate=1e37).to_config()
    with pytest.raises(GateStopped, match=r"all 2 diverged; the first: the training was stopped because"):
        run_search(inputs, tmp_path, base=diverging, trials=2, fixed=("learning_rate",))


def test_hyperparameters_and_code_are_in_the_cache_key_of_a_training():
    def properties(digest, **overrides):
        hyperparameters = Hyperparameters.of("cnn", **overrides).to_config()
        return component.train(**CHANNELS, hyperparameters=hyperparameters, code_digest=digest).spec.exec_properties

    assert properties("a") == properties("a")
    assert properties("a") != properties("b")
    assert properties("a") != properties("a", seed=9)


def test_hyperparameters_and_code_are_in_the_cache_key_of_a_search():
    def properties(**overrides):
        options: dict[str, Any] = {
            "trials": 3,
            "fixed": ("seed",),
            "code_digest": "a",
            "hyperparameters": BASE.to_config(),
        } | overrides
        return component.tune(**CHANNELS, **options).spec.exec_properties

    assert properties() == properties()
    for overrides in ({"trials": 4}, {"fixed": ()}, {"code_digest": "b"}, {"hyperparameters": {"model": "linear"}}):
        assert properties() != properties(**overrides)


def test_an_error_of_a_trial_is_raised_unchanged(inputs, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(models, "compile_network", fail)
    with pytest.raises(OSError, match="No space left") as error:
        run_search(inputs, tmp_path, checkpoints=tmp_path / "checkpoints")
    assert error.value.errno == 28


def test_an_interrupted_search_resumes_after_its_completed_trials(inputs, searched, tmp_path, monkeypatch):
    started: list[Any] = []
    compile_network = models.compile_network

    def interrupt_third(*args, **options):
        if len(started) == 2:
            raise KeyboardInterrupt
        count(*args, **options)

    def count(*args, **options):
        started.append(args)
        compile_network(*args, **options)

    monkeypatch.setattr(models, "compile_network", interrupt_third)
    with pytest.raises(KeyboardInterrupt):
        run_search(inputs, tmp_path / "interrupted", checkpoints=tmp_path / "checkpoints")
    monkeypatch.setattr(models, "compile_network", count)
    outputs = run_search(inputs, tmp_path / "resumed", checkpoints=tmp_path / "checkpoints")
    assert len(started) == 3
    assert without_times(read_results(outputs)["trials"]) == without_times(read_results(searched)["trials"])
    logs = pathlib.Path(outputs["trial_runs"].uri)
    assert sorted(path.name for path in logs.iterdir()) == ["trial-1", "trial-2", "trial-3"]
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_another_search_does_not_resume_from_it(inputs, tmp_path, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "compile_network", interrupt)
    for trials in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            run_search(inputs, tmp_path / str(trials), trials=trials, checkpoints=tmp_path / "checkpoints")
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_tuner_fn_builds_the_search_from_custom_config(inputs, tmp_path):
    config = BASE.to_config() | {"trials": 2, "fixed": ["batch_size"]}
    fn_args = inputs.fn_args(tmp_path, BASE)
    fn_args = types.SimpleNamespace(**vars(fn_args) | {"custom_config": config, "working_dir": str(tmp_path)})
    result = trainer.tuner_fn(fn_args)
    assert set(result.tuner.space) == {"learning_rate", "dropout"}
    assert result.tuner.remaining_trials == 2
    assert result.fit_kwargs == {}
