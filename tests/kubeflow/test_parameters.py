# SPDX-License-Identifier: Apache-2.0
"""The configuration that a run really had."""

from __future__ import annotations

import pytest

from components.errors import BadInput
from components.train.hyperparameters import MODELS, OWN_DEFAULT, Hyperparameters
from components.validate import kinds
from pipeline import settings
from pipeline.kubeflow import parameters

FLAGS = {"data-dir": "s3://data", "serving-dir": "s3://models", "training": {"model": "cnn", "ksize1": 3}}


@pytest.fixture
def compiled():
    profile = settings.find_profile("digits")
    effective = settings.build(FLAGS, {}, profile)
    told = parameters.of(effective, settings.training_told(FLAGS, {}, profile))
    return effective.to_record(), {one.name: one.default for one in told}


def test_a_run_that_changes_nothing_has_the_configuration_of_the_package(compiled):
    record, defaults = compiled
    as_json = {name: float(value) if isinstance(value, int) else value for name, value in defaults.items()}
    effective = parameters.effective(record, as_json)
    changed = {key for key in record if record[key] != effective[key] and key != "allow"}
    assert not changed
    assert isinstance(effective["training"]["train_steps"], int)
    assert effective["allow"] == list(record["allow"])


def test_each_parameter_is_in_its_place(compiled):
    record, defaults = compiled
    told = {
        "data_dir": "gs://other", "span": 4.0, "model": "linear", "train_steps": 9.0, "serving_dir": "s3://m/n/digits/",
        "allow": "drift, skew", "force_push": "tried by hand",
    }  # fmt: skip
    effective = parameters.effective(record, defaults | told)
    assert (effective["data_dir"], effective["span"]) == ("gs://other", 4)
    assert (effective["serving_root"], effective["serving_name"]) == ("s3://m/n", "digits")
    assert (effective["allow"], effective["force_push"]) == (["drift", "skew"], "tried by hand")
    # The package's ksize1 is for another model, and linear's own learning rate holds.
    assert effective["training"] == Hyperparameters.of("linear", train_steps=9).to_config()
    assert record["data_dir"] == "s3://data"


def test_what_is_refused_is_shown_as_it_was_given(compiled):
    record, defaults = compiled
    assert parameters.effective(record, defaults | {"model": "rnn"})["training"]["model"] == "rnn"
    shown = parameters.effective(record, defaults | {"train_steps": -7.0})["training"]
    assert (shown["model"], shown["train_steps"]) == ("cnn", -7)


@pytest.mark.parametrize("model", MODELS)
def test_a_changed_model_has_its_own_defaults(compiled, model):
    _, defaults = compiled
    names = Hyperparameters.of("cnn").to_config()
    unless_told = {name: value for name, value in defaults.items() if name in names}
    found = Hyperparameters.told(unless_told | {"model": model}, unless_told)
    mine = {"train_steps": 600, **({"ksize1": 3} if MODELS[model].ksize1 else {})}
    assert found == Hyperparameters.of(model, **mine)


def test_a_person_may_not_give_what_the_model_lacks():
    unless_told = {"model": "cnn", "ksize1": 3, "nfil1": OWN_DEFAULT}
    with pytest.raises(BadInput, match="the model 'linear' has no 'ksize1'"):
        Hyperparameters.told({"model": "linear", "ksize1": 4, "nfil1": OWN_DEFAULT}, unless_told)
    with pytest.raises(BadInput, match="the model must be one of linear, dnn"):
        Hyperparameters.told({"model": "rnn", "ksize1": 3}, unless_told)


def test_allowed_findings_are_names_with_commas():
    assert kinds.parse("") == ()
    assert kinds.parse(" skew,drift, skew") == ("drift", "skew")
    with pytest.raises(BadInput, match=r"of dataset-changed, .*; not 'drifts'"):
        kinds.parse("drift,drifts")
