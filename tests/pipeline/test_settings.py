# SPDX-License-Identifier: Apache-2.0
import argparse
import json
import pathlib
from typing import Any

import pytest

from components.errors import BadInput
from components.train.hyperparameters import MODELS, Hyperparameters
from pipeline import settings
from pipeline.cli import Parser

MNIST = settings.find_profile("mnist")
DIGITS = settings.find_profile("digits")


def build(
    flags: dict[str, Any] | None = None, config: dict[str, Any] | None = None, profile: pathlib.Path = MNIST
) -> settings.Settings:
    return settings.build(flags or {}, config or {}, profile)


def test_layers_flags_over_file_over_profile_over_defaults() -> None:
    assert build().training.train_steps != 600  # the default of the model
    assert build(profile=DIGITS).training.train_steps == 600
    config = {"training": {"train-steps": 50}, "model-gate": {"recall": 0.1}}
    assert build(config=config, profile=DIGITS).training.train_steps == 50
    flags = {"training": {"train-steps": 7}}
    merged = build(flags, config, DIGITS)
    assert merged.training.train_steps == 7
    assert merged.model_gate.recall == 0.1
    assert merged.model_gate.test_examples == 250  # the profile's
    assert merged.model_gate.accuracy["cnn"] == 0.93


def test_a_file_gives_one_floor_and_keeps_the_others() -> None:
    merged = build(config={"model-gate": {"accuracy": {"cnn": 0.5}}})
    assert merged.model_gate.accuracy["cnn"] == 0.5
    assert merged.model_gate.accuracy["linear"] == build().model_gate.accuracy["linear"]


def test_every_model_has_a_floor_in_every_profile() -> None:
    for profile in (MNIST, DIGITS):
        assert set(build(profile=profile).model_gate.accuracy) == set(MODELS)


def test_a_file_may_set_what_only_some_models_have() -> None:
    config = {"training": {"model": "linear", "ksize1": 3}}
    assert build(config=config).training.ksize1 is None


def test_a_flag_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(BadInput, match="ksize1"):
        build({"training": {"model": "linear", "ksize1": 3}})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"training": {"steps": 5}}, "unknown key 'steps'; did you mean 'train-steps'"),
        ({"training": 5}, r"\[training\] must be a table, not 5"),
        ({"model-gate": {"acuracy": {}}}, "unknown key 'acuracy'; did you mean 'accuracy'"),
        ({"model-gate": {"change": "small"}}, "model-gate.change must be a number from -1 to 1, not 'small'"),
        ({"model-gate": {"accuracy": {"dnn_dropout": 2}}}, "accuracy.dnn_dropout must be a number from 0 to 1, not 2"),
        ({"pixels": {"leaked": 0.5}}, "pixels.leaked must be a whole number from 0, not 0.5"),
        ({"fresh": 1}, "fresh must be true or false, not 1"),
        ({"dataset": "cifar"}, "dataset must be one of auto, mnist, digits, not 'cifar'"),
        ({"span": True}, "span must be a whole number from 0, not True"),
        ({"span": -1}, "span must be a whole number from 0, not -1"),
        ({"serving-name": "../up"}, "serving-name"),
        ({"serving-dir": "https://host/models"}, "serving-dir takes a folder or a URL that begins with s3://, gs://"),
        ({"data-dir": "s3://key:secret@bucket/data"}, "data-dir takes a URL without user, password"),
        ({"allow": "drift"}, "list of strings"),
        ({"allow": ["everything"]}, "label-noise"),
        ({"allow": ["drifts"]}, "did you mean 'drift'"),
        ({"training": {"train-steps": 0}}, "train_steps"),
    ],
)
def test_a_wrong_value_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as refusal:
        build(config=config)
    assert "\n" not in str(refusal.value)


def test_models_go_below_the_output_unless_a_setting_names_another_folder(tmp_path: pathlib.Path) -> None:
    assert build({"output": str(tmp_path)}).model_dir == tmp_path / "serving" / "mnist"
    assert build({"output": str(tmp_path), "serving-dir": f"{tmp_path}/else"}).model_dir == tmp_path / "else" / "mnist"
    remote = build({"serving-dir": "s3://bucket/models/", "serving-name": "mine", "data-dir": "https://host/data/"})
    assert (remote.serving_dir, remote.model_dir) == ("s3://bucket/models", "s3://bucket/models/mine")
    assert remote.data_dir == "https://host/data"


def test_unknown_top_level_keys_and_unreadable_files_are_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("datset = 'mnist'\n")
    with pytest.raises(BadInput, match=r"run.toml has the unknown key 'datset'; did you mean 'dataset'\?"):
        settings.read_config(str(path))
    path.write_text("dataset = \n")
    with pytest.raises(BadInput, match="TOML"):
        settings.read_config(str(path))
    with pytest.raises(BadInput, match="No such file"):
        settings.read_config(str(tmp_path / "none.toml"))
    for key in ("schema", "fixed", "compute", "training.seed"):  # of a profile, or of no file
        path.write_text(f"'{key}' = 'x'\n")
        with pytest.raises(BadInput, match=f"unknown key '{key}'"):
            settings.read_config(str(path))


def test_a_profile_is_a_name() -> None:
    with pytest.raises(BadInput, match="profile must be a string, not 3"):
        settings.find_profile(3)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="did you mean 'digits'"):
        settings.find_profile("digit")


def test_a_profile_of_ones_own_names_its_schema_and_its_floors(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nschema = "mine.pbtxt"\n')
    with pytest.raises(BadInput, match=r"mine\.pbtxt"):
        build(profile=path)
    (tmp_path / "mine.pbtxt").write_text("")
    with pytest.raises(BadInput, match=r"model-gate\.accuracy must be set, to a table of numbers from 0 to 1"):
        build(profile=path)
    path.write_text('name = "mine"\nschema = "mine.pbtxt"\n[model-gate.accuracy]\ncnn = 0.5\n')
    assert build(profile=path).profile == "mine"


def test_the_record_of_a_configuration_is_json_and_complete() -> None:
    record = build({"data-dir": "x", "allow": ["skew", "drift", "skew"]}).to_config()
    assert json.loads(json.dumps(record)) == record
    assert set(record) == set(settings.Settings.model_fields) - {"schema_file"} | {"schema"}
    assert record["training"]["model"] == "cnn"
    assert record["model_gate"]["change"] == 0.003
    assert pathlib.Path(record["data_dir"]).is_absolute()
    assert record["allow"] == ["drift", "skew"]


def test_a_search_leaves_hyperparameters_alone_that_the_user_set() -> None:
    assert (build().tune, build().fixed) == (0, ())
    flags = {"training": {"learning-rate": 0.01}}
    assert build(flags).fixed == ()  # the same configuration, however it was said, where nothing is searched
    config = {"tune": 5, "training": {"model": "cnn", "ksize1": 3}}
    assert (build(flags, config).tune, build(flags, config).fixed) == (5, ("ksize1", "learning_rate"))
    assert build(config={"tune": 5}, profile=DIGITS).fixed == ()  # a profile's train-steps are for every run
    assert (build({"tune": 0}, config).tune, build({"tune": 7}, config).tune) == (0, 7)
    record = build({"tune": 7}).to_config()
    assert (record["tune"], record["fixed"]) == (7, [])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tune": -1}, "tune must be a whole number from 0"),
        ({"tune": 2.5}, "tune must be a whole number from 0 to 10000"),
        ({"tune": True}, "tune must be a whole number from 0 to 10000"),
        ({"tune": 10**9}, "to 10000, not 1000000000"),
        (
            {"tune": 3, "training": {"model": "linear", "learning-rate": 0.1, "batch-size": 8}},
            "of the model 'linear' these are learning_rate, batch_size, and all of them are fixed",
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(flags)


def parse(*arguments: str) -> argparse.Namespace:
    parser = Parser(prog="test", allow_abbrev=False)
    settings.add_flags(parser)
    return parser.parse_args(arguments)


def test_every_setting_has_a_flag_that_reaches_its_field() -> None:
    values = {
        "dataset": "digits", "data-dir": "/data", "span": 3, "profile": "digits", "allow": ["drift"], "tune": 0,
        "output": "/out", "serving-dir": "/models", "serving-name": "mine", "fresh": True, "force-push": "a test",
        "beam-arg": ["--x"], "accelerator": "gpu", "gpus": 2, "precision": "float32",
    }  # fmt: skip
    training = dict.fromkeys(Hyperparameters.keys(), 1) | {"model": "keras_cnn", "learning-rate": 0.5, "dropout": 0.5}
    assert settings.FLAGS.keys() == values.keys() | training.keys()
    arguments = []
    for key, value in (values | training).items():
        arguments += [f"--{key}"] if value is True else [f"--{key}={value[0] if isinstance(value, list) else value}"]
    flags = settings.read_flags(parse(*arguments))
    assert flags == values | {"training": training}
    merged = build(flags, profile=DIGITS)
    assert (merged.span, merged.fresh, merged.allow, merged.beam_args) == (3, True, ("drift",), ("--x",))
    assert (merged.training.nfil2, merged.compute.gpus, merged.model_dir) == (1, 2, pathlib.Path("/models/mine"))


def test_flags_that_are_not_set_are_no_layer() -> None:
    assert settings.read_flags(parse()) == {}


def test_help_has_the_default_of_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "number of the span; default: the newest", "default: OUTPUT/serving", "images per step; default: 128",
        "{linear,dnn,dnn_dropout,cnn,keras_cnn,mlp,fast,best} network; default: cnn",
        "default: by model, 0.002 to 0.1", "--allow FINDING",
    ):  # fmt: skip
        assert words in text


def test_an_unknown_flag_is_refused_with_a_similar_one() -> None:
    with pytest.raises(BadInput, match=r"unrecognized arguments: --train-step=5; did you mean '--train-steps'\?"):
        parse("--train-step=5")
    with pytest.raises(BadInput, match="unrecognized arguments: --quite-different; see --help"):
        parse("--quite-different")
