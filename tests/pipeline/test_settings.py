# SPDX-License-Identifier: Apache-2.0
import pathlib
from typing import Any

import pytest

from components.errors import BadInput
from components.train.hyperparameters import MODELS
from pipeline import settings

MNIST = settings.find_profile("mnist")
DIGITS = settings.find_profile("digits")


def build(
    flags: dict[str, Any] | None = None, file: dict[str, Any] | None = None, profile: pathlib.Path = MNIST
) -> settings.Config:
    return settings.build(flags or {}, file or {}, profile)


def test_layers_flags_over_file_over_profile_over_defaults() -> None:
    assert build().hyperparameters.train_steps != 600  # the default of the model
    assert build(profile=DIGITS).hyperparameters.train_steps == 600
    file = {"training": {"train-steps": 50}, "model-gate": {"recall": 0.1}}
    assert build(file=file, profile=DIGITS).hyperparameters.train_steps == 50
    flags = {"training": {"train-steps": 7, "seed": None}}
    effective = build(flags, file, DIGITS)
    assert effective.hyperparameters.train_steps == 7
    assert effective.model_limits.recall == 0.1
    assert effective.model_limits.test_examples == 250  # the profile's
    assert effective.model_limits.accuracy["cnn"] == 0.93


def test_a_file_gives_one_floor_and_keeps_the_others() -> None:
    effective = build(file={"model-gate": {"accuracy": {"cnn": 0.5}}})
    assert effective.model_limits.accuracy["cnn"] == 0.5
    assert effective.model_limits.accuracy["linear"] == build().model_limits.accuracy["linear"]


def test_every_model_has_a_floor_in_every_profile() -> None:
    for profile in (MNIST, DIGITS):
        assert set(build(profile=profile).model_limits.accuracy) == set(MODELS)


def test_a_file_may_set_what_only_some_models_have() -> None:
    file = {"training": {"model": "linear", "ksize1": 3}}
    assert build(file=file).hyperparameters.ksize1 is None


def test_a_flag_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(BadInput, match="ksize1"):
        build({"training": {"model": "linear", "ksize1": 3}})


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"training": {"steps": 5}}, "steps"),
        ({"model-gate": {"acuracy": {}}}, "acuracy"),
        ({"model-gate": {"change": "small"}}, "change must be a number"),
        ({"dataset": "cifar"}, "auto, mnist, digits"),
        ({"span": True}, "span"),
        ({"serving-name": "../up"}, "serving-name"),
        ({"serving-dir": "https://host/models"}, "serving-dir takes a folder or a URL that begins with s3://, gs://"),
        ({"data-dir": "s3://key:secret@bucket/data"}, "data-dir takes a URL without user, password"),
        ({"allow": "drift"}, "list of strings"),
        ({"allow": ["everything"]}, "label-noise"),
        ({"training": {"train-steps": 0}}, "train_steps"),
    ],
)
def test_a_wrong_value_is_refused_by_name(file: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(file=file)


def test_models_go_below_the_output_unless_told_otherwise(tmp_path: pathlib.Path) -> None:
    assert build({"output": str(tmp_path)}).serving_dir == tmp_path / "serving" / "mnist"
    assert (
        build({"output": str(tmp_path), "serving-dir": f"{tmp_path}/else"}).serving_dir == tmp_path / "else" / "mnist"
    )
    told = build({"serving-dir": "s3://bucket/models/", "serving-name": "mine", "data-dir": "https://host/data/"})
    assert told.serving_dir == "s3://bucket/models/mine"
    assert told.data_dir == "https://host/data"


def test_unknown_top_level_keys_and_unreadable_files_are_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("datset = 'mnist'\n")
    with pytest.raises(BadInput, match="datset"):
        settings.read_toml(path, settings.CONFIG_KEYS, "config file")
    path.write_text("dataset = \n")
    with pytest.raises(BadInput, match="TOML"):
        settings.read_toml(path, settings.CONFIG_KEYS, "config file")
    with pytest.raises(BadInput, match="No such file"):
        settings.read_toml(tmp_path / "none.toml", settings.CONFIG_KEYS, "config file")


def test_a_profile_is_a_name() -> None:
    with pytest.raises(BadInput, match="profile must be str, not 3"):
        settings.find_profile(3)  # type: ignore[arg-type]


def test_a_profile_of_ones_own_names_its_schema_and_its_floors(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nschema = "mine.pbtxt"\n')
    with pytest.raises(BadInput, match=r"mine\.pbtxt"):
        build(profile=path)
    (tmp_path / "mine.pbtxt").write_text("")
    with pytest.raises(BadInput, match="accuracy"):
        build(profile=path)
    path.write_text('name = "mine"\nschema = "mine.pbtxt"\n[model-gate.accuracy]\ncnn = 0.5\n')
    assert build(profile=path).profile == "mine"


def test_the_record_of_a_configuration_is_json_and_complete() -> None:
    import json

    told = json.loads(json.dumps(build({"data-dir": "x", "allow": ["drift"]}).to_record()))
    assert told["training"]["model"] == "cnn"
    assert told["model_gate"]["change"] == 0.003
    assert pathlib.Path(told["data_dir"]).is_absolute()
    assert told["allow"] == ["drift"]


def test_a_search_leaves_alone_what_a_person_gave() -> None:
    assert (build().tune, build().fixed) == (0, ())
    flags = {"training": {"learning-rate": 0.01, "seed": None}}
    assert build(flags).fixed == ()  # the same configuration, however it was said, where nothing is searched
    file = {"tune": 5, "training": {"model": "cnn", "ksize1": 3}}
    assert (build(flags, file).tune, build(flags, file).fixed) == (5, ("ksize1", "learning_rate"))
    assert build(file={"tune": 5}, profile=DIGITS).fixed == ()  # a profile's train-steps are for every run
    assert (build({"tune": 0}, file).tune, build({"tune": 7}, file).tune) == (0, 7)
    record = build({"tune": 7}).to_record()
    assert (record["tune"], record["fixed"]) == (7, ())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tune": -1}, "tune must be a whole number from 0"),
        ({"tune": 2.5}, "tune must be int"),
        ({"tune": True}, "tune must be int"),
        ({"tune": 10**9}, "to 10000, not 1000000000"),
        (
            {"tune": 3, "training": {"model": "linear", "learning-rate": 0.1, "batch-size": 8}},
            "of the model 'linear' these are learning_rate, batch_size, and all of them are given",
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(flags)
