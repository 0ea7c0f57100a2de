# SPDX-License-Identifier: Apache-2.0
"""Whole runs in a user's environment that libraries would take for settings, and without an account."""

from __future__ import annotations

import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from components.ingest import digits
from tests.account import AS_NOBODY

OTHER = {"floatx": "float64", "epsilon": 0.1, "backend": "jax", "image_data_format": "channels_first"}
VARIABLES = (
    "KERAS_BACKEND=jax", "KERAS_MAX_EPOCHS=1", "KERASTUNER_TUNER_ID=1", "TF_USE_LEGACY_KERAS=1", "TF_CONFIG=none",
    "TF_XLA_FLAGS=none", "OMP_NUM_THREADS=none", "CUDA_VISIBLE_DEVICES=none", "ALL_PROXY=socks5://user:secret@127.0.0.1:9",
)  # fmt: skip
WORK = ("--dataset", "digits", "--train-steps", "200")
TRAINING = ("--model", "cnn", "--train-steps", "12", "--batch-size", "64", "--force-push", "a test")


@pytest.fixture
def open_folder() -> Iterator[pathlib.Path]:
    """A folder in which every account may write."""
    folder = pathlib.Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def weights(output: pathlib.Path) -> bytes:
    [file] = (output / "serving").rglob("variables.data-*")
    return file.read_bytes()


@pytest.mark.slow
def test_the_model_does_not_depend_on_a_users_settings(run, pushed_run, tmp_path):
    home = tmp_path / "home"
    (home / ".keras").mkdir(parents=True)
    (home / ".keras" / "keras.json").write_text(json.dumps(OTHER))
    settings = ("env", f"HOME={home}", *VARIABLES)
    other = run(*WORK, "--output", tmp_path / "other", through=settings)
    assert other.code == 0, other.stderr
    assert weights(tmp_path / "other") == weights(pathlib.Path(pushed_run.record["config"]["output"]))


@pytest.mark.slow
@pytest.mark.skipif(not AS_NOBODY, reason="needs root and setpriv")
def test_an_account_that_the_system_does_not_know_runs_on_its_own_data(start, open_folder):
    digits.write(open_folder / "data")
    data = ("--data-dir", open_folder / "data", "--profile", "digits", *TRAINING)
    through = (*AS_NOBODY, "env", "-u", "HOME", "TMPDIR=/nonexistent", "PYTHONWARNINGS=error", "KERAS_BACKEND=torch")
    through += ("bash", "-c", 'umask 0; exec "$@"', "bash")
    process = start(*data, "--output", open_folder / "output", through=through)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    [record] = (open_folder / "output" / "runs").rglob("record.json")
    assert json.loads(record.read_text())["report"]


@pytest.mark.skipif(not AS_NOBODY, reason="needs root and setpriv")
def test_without_a_folder_for_the_cache_one_line_names_the_variable(start, open_folder):
    process = start(
        "--dataset", "digits", "--output", open_folder / "output", through=(*AS_NOBODY, "env", "-u", "HOME")
    )
    _, stderr = process.communicate()
    assert (process.returncode, len(stderr.splitlines())) == (2, 1), stderr
    assert "Set XDG_CACHE_HOME" in stderr


def test_without_a_proxy_that_can_be_used_mnist_is_refused_in_one_line(run, tmp_path):
    through = ("env", "ALL_PROXY=socks5://user:secret@127.0.0.1:9", f"XDG_CACHE_HOME={tmp_path}")
    ended = run("--dataset", "mnist", "--output", tmp_path / "output", through=through)
    assert (ended.code, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
    assert "ALL_PROXY in the environment can't be used" in ended.stderr
    assert "secret" not in ended.stderr


def test_without_a_proxy_that_can_be_used_auto_takes_the_digits(run, tmp_path):
    through = ("env", "ALL_PROXY=socks5://user:secret@127.0.0.1:9", f"XDG_CACHE_HOME={tmp_path}")
    ended = run("--explain", "--output", tmp_path / "output", through=through)
    assert ended.code == 0, ended.stderr
    assert "NOT MNIST: it is not cached, and no mirror delivers it: https://" in ended.stdout
    assert "ALL_PROXY in the environment can't be used" in ended.stdout
    assert "secret" not in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
