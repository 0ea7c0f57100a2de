# SPDX-License-Identifier: Apache-2.0
"""The configuration that a run really had."""

from __future__ import annotations

import pytest

from components import findings
from components.errors import BadInput
from components.train.hyperparameters import MODELS, OWN_DEFAULT, Hyperparameters
from pipeline import settings
from pipeline.kubeflow import parameters

FLAGS = {"data-dir": "s3://data", "serving-dir": "s3://models", "training": {"model": "cnn", "ksize1": 3}}


@pytest.fixture
def compiled():
    profile = settings.find_profile("digits")
    merged = settings.build(FLAGS, {}, profile)
    declared = parameters.declare(merged, settings.training_overrides(FLAGS, {}, profile))
    return merged.to_config(), {parameter.name: parameter.default for parameter in declared}


def test_a_run_that_changes_nothing_has_the_configuration_of_the_package(compiled):
    record, defaults = compiled
    as_json = {name: float(value) if isinstance(value, int) else value for name, value in defaults.items()}
    result = parameters.apply(record, as_json)
    assert result == record | {"serving_dir": "s3://models", "serving_name": "mnist"}
    assert isinstance(result["training"]["train_steps"], int)


def test_each_parameter_is_in_its_place(compiled):
    record, defaults = compiled
    values = {
        "data_dir": "gs://other", "span": 4.0, "model": "linear", "train_steps": 9.0, "serving_dir": "s3://m/n/digits/",
        "allow": "drift, skew", "force_push": "tried by hand",
    }  # fmt: skip
    result = parameters.apply(record, defaults | values)
    assert (result["data_dir"], result["span"]) == ("gs://other", 4)
    assert (result["serving_dir"], result["serving_name"]) == ("s3://m/n", "digits")
    assert (result["allow"], result["force_push"]) == (["drift", "skew"], "tried by hand")
    # The package's ksize1 is for another model, and linear's own learning rate holds.
    assert result["training"] == Hyperparameters.of("linear", train_steps=9).to_config()
    assert record["data_dir"] == "s3://data"
    unset = parameters.apply(record, defaults | {"span": -1.0, "allow": "", "force_push": ""})
    assert (unset["span"], unset["allow"], unset["force_push"]) == (None, [], None)


def test_a_refused_hyperparameter_is_shown_as_the_user_set_it(compiled):
    record, defaults = compiled
    assert parameters.apply(record, defaults | {"model": "rnn"})["training"]["model"] == "rnn"
    shown = parameters.apply(record, defaults | {"train_steps": -7.0})["training"]
    assert (shown["model"], shown["train_steps"]) == ("cnn", -7)


@pytest.mark.parametrize("model", MODELS)
def test_a_changed_model_has_its_own_defaults(compiled, model):
    _, defaults = compiled
    names = Hyperparameters.of("cnn").to_config()
    hyperparameters = {name: value for name, value in defaults.items() if name in names}
    result = Hyperparameters.from_parameters(hyperparameters | {"model": model}, hyperparameters)
    overrides = {"train_steps": 600, **({"ksize1": 3} if MODELS[model].ksize1 else {})}
    assert result == Hyperparameters.of(model, **overrides)


def test_a_hyperparameter_that_the_model_lacks_is_refused_where_the_user_set_it():
    defaults = {"model": "cnn", "ksize1": 3, "nfil1": OWN_DEFAULT}
    with pytest.raises(BadInput, match="the model 'linear' has no 'ksize1'"):
        Hyperparameters.from_parameters({"model": "linear", "ksize1": 4, "nfil1": OWN_DEFAULT}, defaults)
    with pytest.raises(BadInput, match=r"model must be one of linear, dnn, .*, not 'rnn'"):
        Hyperparameters.from_parameters({"model": "rnn", "ksize1": 3}, defaults)


def test_allowed_findings_are_names_with_commas():
    assert findings.parse_names("") == ()
    assert findings.parse_names(" skew,drift, skew") == ("drift", "skew")
    with pytest.raises(BadInput, match=r"of dataset-changed, .*; received 'drifts'"):
        findings.parse_names("drift,drifts")


def test_the_parameters_are_the_marked_settings_with_a_line_for_the_ui():
    profile = settings.find_profile("digits")
    declared = parameters.declare(settings.build(FLAGS, {}, profile), {})
    descriptions = {parameter.name: parameter.description for parameter in declared}
    assert set(descriptions) == {
        "data_dir", "span", "allow", "serving_dir", "force_push", *Hyperparameters.model_fields
    }  # fmt: skip
    assert descriptions["span"] == "Number of the span; -1: the newest."
    assert descriptions["nfil1"] == "Filters of the first convolution (cnn, keras_cnn); -1: the model's own default."
    assert descriptions["allow"].endswith(", with commas between them.")
    assert all(text[0].isupper() and text.endswith(".") and "\n" not in text for text in descriptions.values())
    assert {"data_dir", "span", "allow", "force_push"} == parameters.PROVENANCE_PARAMETERS
