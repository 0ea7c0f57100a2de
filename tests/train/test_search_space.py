# SPDX-License-Identifier: Apache-2.0
"""The values that a search may try."""

from __future__ import annotations

import itertools

import pytest

from components.errors import BadInput
from components.train import hyperparameters
from components.train.hyperparameters import MODELS, Choices, Hyperparameters, LogRange


def test_every_hyperparameter_is_searched_or_said_not_to_be():
    fields = set(Hyperparameters.model_fields)
    assert not set(hyperparameters.RULES) & hyperparameters.NOT_SEARCHED
    assert fields == set(hyperparameters.RULES) | hyperparameters.NOT_SEARCHED


@pytest.mark.parametrize("model", MODELS)
def test_each_model_has_a_space_around_its_defaults(model):
    space = hyperparameters.search_space(MODELS[model], ())
    assert {"learning_rate", "batch_size"} <= set(space)
    for name, values_ in space.items():
        default = getattr(MODELS[model], name)
        if isinstance(values_, LogRange):
            assert values_.low < default < values_.high
            assert values_.low * values_.high == pytest.approx(default**2)  # in the middle of the octaves
            ends = [values_.low, values_.high]
        else:
            assert default in values_.values
            assert len(values_.values) > 1
            assert list(values_.values) == sorted(set(values_.values))
            ends = list(values_.values)
        for value in ends:
            Hyperparameters.of(model, **{name: value})


def test_the_space_of_cnn():
    assert hyperparameters.search_space(MODELS["cnn"], ["seed", "nfil2", "learning_rate"]) == {
        "batch_size": Choices((64, 128, 256)),
        "ksize1": Choices((3, 5, 7)),
        "ksize2": Choices((3, 5, 7)),
        "nfil1": Choices((5, 10, 20)),
        "dropout": Choices((0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5)),
    }


def test_a_kernel_is_no_point_and_not_half_the_image():
    assert hyperparameters.search_space(Hyperparameters.of("cnn", ksize1=1, ksize2=20), ())["ksize1"] == Choices((1, 3))
    assert hyperparameters.search_space(Hyperparameters.of("cnn", ksize1=7, ksize2=20), ())["ksize2"] == Choices((20,))


@pytest.mark.parametrize(("ksize1", "ksize2"), [(24, 3), (22, 5), (3, 24), (14, 14), (3, 3)])
def test_a_search_tries_no_kernels_for_which_the_images_are_too_small(ksize1, ksize2):
    base = Hyperparameters.of("keras_cnn", ksize1=ksize1, ksize2=ksize2)
    space = hyperparameters.search_space(base, ())
    kernels = [space[name] for name in ("ksize1", "ksize2")]
    firsts, seconds = (choice.values for choice in kernels if isinstance(choice, Choices))
    assert (ksize1 in firsts, ksize2 in seconds) == (True, True)
    for first, second in itertools.product(firsts, seconds):
        hyperparameters.complete_values(base, {"ksize1": first, "ksize2": second})


def test_given_steps_hold_the_batch_too():
    assert set(hyperparameters.search_space(MODELS["linear"], ["train_steps"])) == {"learning_rate"}
    assert set(hyperparameters.search_space(MODELS["linear"], ["batch_size"])) == {"learning_rate"}


@pytest.mark.parametrize("held", ["batch_size", "train_steps"])
def test_a_search_for_nothing_is_refused(held):
    with pytest.raises(
        BadInput, match=r"of the model 'linear' these are learning_rate, batch_size, and all .* Leave one"
    ):
        hyperparameters.search_space(MODELS["linear"], ["learning_rate", held])


def test_every_trial_sees_as_many_images_and_so_does_its_training():
    base = Hyperparameters.of("linear", train_steps=1000, batch_size=128, seed=7)
    for batch_size, of_trial, of_whole in ((64, 500, 2000), (128, 250, 1000), (256, 125, 500)):
        values = {"batch_size": batch_size, "learning_rate": 0.02}
        trial, complete = (
            hyperparameters.trial_hyperparameters(base, values),
            hyperparameters.complete_values(base, values),
        )
        assert (trial.train_steps, complete.train_steps) == (of_trial, of_whole)
        assert trial == complete.model_copy(update={"train_steps": of_trial})
        assert (complete.batch_size, complete.learning_rate, complete.seed) == (batch_size, 0.02, 7)


def test_a_trial_has_a_step_at_least():
    assert (
        hyperparameters.trial_hyperparameters(
            Hyperparameters.of("linear", train_steps=1), {"batch_size": 256}
        ).train_steps
        == 1
    )


def test_what_was_found_is_checked_as_what_a_person_gives():
    with pytest.raises(BadInput, match="the model 'linear' has no 'dropout'"):
        hyperparameters.complete_values(MODELS["linear"], {"dropout": 0.1})
    with pytest.raises(BadInput, match="learning_rate must be a number above 0"):
        hyperparameters.trial_hyperparameters(MODELS["linear"], {"learning_rate": -1.0})
