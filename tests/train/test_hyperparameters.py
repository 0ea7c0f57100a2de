# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import pytest

from components.errors import BadInput
from components.train import hyperparameters
from components.train.hyperparameters import MODELS, Hyperparameters


def test_the_models_have_defaults():
    assert list(MODELS) == ["linear", "dnn", "dnn_dropout", "cnn", "keras_cnn", "mlp", "fast", "best"]
    assert all(Hyperparameters.of(name) == defaults for name, defaults in MODELS.items())


def test_overrides_replace_defaults_and_none_does_not():
    changed = Hyperparameters.of("cnn", train_steps=10, nfil1=4, learning_rate=None)
    assert (changed.train_steps, changed.nfil1) == (10, 4)
    assert changed.learning_rate == MODELS["cnn"].learning_rate
    assert changed.ksize1 == 5


def test_the_configuration_of_the_trainer_leads_back():
    changed = Hyperparameters.of("keras_cnn", dropout=0.5, seed=7)
    assert Hyperparameters.from_config({**changed.to_config(), "code_digest": "abc"}) == changed


@pytest.mark.parametrize(
    ("model", "overrides", "message"),
    [
        ("rnn", {}, "one of linear, dnn, dnn_dropout, cnn, keras_cnn, mlp, fast, best, not 'rnn'"),
        ("linear", {"ksize1": 3}, "'linear' has no 'ksize1'; it has learning_rate, batch_size, train_steps, seed"),
        ("cnn", {"depth": 3}, "'cnn' has no 'depth'"),
        ("cnn", {"batch_size": 0}, "batch_size must be a whole number from 1"),
        ("cnn", {"train_steps": -5}, "train_steps must be a whole number from 1"),
        ("cnn", {"train_steps": 1.5}, "not 1.5"),
        ("cnn", {"seed": True}, "seed must be"),
        ("cnn", {"seed": 2**31}, "seed must be"),
        ("cnn", {"ksize2": 29}, "ksize2 must be a whole number from 1 to 28, not 29"),
        (
            "keras_cnn",
            {"ksize1": 15, "ksize2": 14},
            "'keras_cnn' with ksize1 15 and ksize2 14 takes images of 29x29 pixels or more",
        ),
        ("cnn", {"train_steps": 2**31}, "train_steps must be a whole number from 1 to 2147483647"),
        ("cnn", {"nfil1": 0}, "nfil1 must be"),
        ("cnn", {"learning_rate": 0}, "learning_rate must be a number above 0 and at most 1e+37, not 0"),
        ("cnn", {"learning_rate": float("nan")}, "not nan"),
        ("cnn", {"learning_rate": float("inf")}, "not inf"),
        ("cnn", {"learning_rate": "fast"}, "not 'fast'"),
        ("cnn", {"dropout": 1.0}, "dropout must be a number from 0 to below 1, not 1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(model, overrides, message):
    with pytest.raises(BadInput) as caught:
        Hyperparameters.of(model, **overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_module_is_light():
    code = f"import sys, {hyperparameters.__name__}; sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
