# SPDX-License-Identifier: Apache-2.0
"""A user's settings for Keras and TensorFlow, and accounts without a name or a home, in processes of their own."""

from __future__ import annotations

import json
import os
import pathlib
import pwd
import subprocess
import sys

import pytest

from components import environment
from tests.account import AS_NOBODY, UID

ROOT = pathlib.Path(__file__).resolve().parents[1]
OTHER = {"floatx": "float16", "epsilon": 0.1, "backend": "jax", "image_data_format": "channels_first"}
KERAS = """
import json, keras, tensorflow as tf
from keras import config
layer = keras.layers.Conv2D(2, 3)
layer.build((None, 8, 6, 1))
print(json.dumps([config.backend(), config.floatx(), config.epsilon(), config.image_data_format(),
    config.dtype_policy().name, config.max_epochs(), list(layer.kernel.shape), tf.keras.__name__]))
"""
ACCOUNT = """
import getpass, json, os, pathlib
print(json.dumps([os.environ["HOME"], str(pathlib.Path.home()), getpass.getuser()]))
"""


def after_prepare(program: str, variables: dict[str, str], through: tuple[str, ...] = ()) -> list[object]:
    """Returns what a program prints that begins as every entry point does, in this environment and no other."""
    begin = "from components import environment\nenvironment.prepare()\n"
    command = [*through, sys.executable, "-c", begin + program]
    # Python sees the checkout by PYTHONPATH, and writes nothing there.
    fixed = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.run(command, env=fixed | variables, capture_output=True, text=True, check=False, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        (json.dumps(OTHER), {}),
        (json.dumps(OTHER | {"floatx": "float99"}), {}),
        ("{", {"KERAS_BACKEND": "none", "KERAS_MAX_EPOCHS": "x", "KERAS_MAX_STEPS_PER_EPOCH": "1"}),
        (
            "{}",
            {"TF_USE_LEGACY_KERAS": "1", "TF_XLA_FLAGS": "x", "TF_DETERMINISTIC_OPS": "x", "KERAS_NNX_ENABLED": "1"},
        ),
        ("{}", {"KERAS_HOME": "other"}),
    ],
    ids=("file", "a value that Keras refuses", "not JSON", "TensorFlow", "KERAS_HOME"),
)
def test_keras_is_as_this_project_sets_it(tmp_path, text, variables):
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(text)
    if "KERAS_HOME" in variables:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "keras.json").write_text(json.dumps(OTHER))
        variables = {"KERAS_HOME": str(tmp_path / "other")}
    variables_after = after_prepare(KERAS, {"HOME": str(tmp_path), **variables})
    expected = ["tensorflow", "float32", 1e-07, "channels_last", "float32", None, [3, 3, 1, 2]]
    assert variables_after == [*expected, "keras._tf_keras.keras"]
    assert (tmp_path / ".keras" / "keras.json").read_text() == text


def test_keras_writes_no_file(tmp_path):
    after_prepare(KERAS, {"HOME": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", [None, "", "relative/home"], ids=str)
def test_a_home_that_is_none_is_the_accounts(home):
    account = pwd.getpwuid(os.getuid())
    variables_after = after_prepare(ACCOUNT, {} if home is None else {"HOME": home})
    assert variables_after == [account.pw_dir, account.pw_dir, account.pw_name]


@pytest.mark.skipif(not AS_NOBODY, reason="needs root and setpriv")
@pytest.mark.parametrize("home", [None, "", "relative/home"], ids=str)
def test_an_account_that_the_system_does_not_know_has_a_home_that_is_not_there_and_its_number_as_its_name(home):
    variables_after = after_prepare(ACCOUNT, {} if home is None else {"HOME": home}, AS_NOBODY)
    assert variables_after == [environment.NO_HOME, environment.NO_HOME, UID]


@pytest.fixture
def own(monkeypatch):
    """This process's own environment, put back afterwards."""
    for name in ("HOME", "USER", "KERAS_HOME", "KERAS_BACKEND"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)  # TensorFlow Transform sets it
    monkeypatch.setattr(environment, "ignored", [])
    return monkeypatch


def test_what_is_ignored_is_remembered_once_and_by_name(own, tmp_path):
    own.setenv("HOME", str(tmp_path))
    own.setenv("KERAS_BACKEND", "jax")
    own.setenv("KERASTUNER_TUNER_ID", "1")
    own.setenv("TF_CONFIG", "secret")
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text("{}")
    own.delenv("KERAS_HOME")
    environment.prepare()
    names = ["KERASTUNER_TUNER_ID", "KERAS_BACKEND", "TF_CONFIG"]
    assert environment.ignored == [*names, str(tmp_path / ".keras" / "keras.json")]
    assert not {*names[:1], *names[2:]} & os.environ.keys()
    environment.prepare()  # as in a child process, which has the parent's environment
    assert len(environment.ignored) == 4


def test_a_worker_keeps_its_cluster_and_a_benchmark_its_backend(own):
    own.setenv("TF_CONFIG", "{}")
    environment.prepare(several_workers=True, keras_backend="jax")
    assert (os.environ["TF_CONFIG"], os.environ["KERAS_BACKEND"]) == ("{}", "jax")
