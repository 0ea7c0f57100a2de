# SPDX-License-Identifier: Apache-2.0
"""Paths in arguments: refused before any work if they cannot be used, else used literally."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pytest

from components.errors import BadInput
from pipeline import settings
from pipeline.cli import BLOCKED, OK, Check
from tests import mounts

ROOT = pathlib.Path(__file__).parents[2]
PATTERNS = ["b?", "b*", "b[1]", "b\\1"]
WITH_OUTPUT = [
    ["runner_local.py", "--dataset", "digits"],
    ["runner_local.py", "--dataset", "digits", "--explain"],
    ["runner_local.py", "prune", "--keep", "1"],
    ["runner_local.py", "rollback"],
    ["runner_local.py", "label", "1", "canary"],
    ["-m", "pipeline.lineage"],
    ["-m", "pipeline.report"],
]
WORK = ("runner_local.py", "--dataset", "digits", "--model", "linear", "--train-steps", "5", "--force-push", "a test")


def start(*arguments: Any, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [str(ROOT / argument) if argument == "runner_local.py" else str(argument) for argument in arguments]
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, env=env, check=False)


def assert_refused(process: subprocess.CompletedProcess[str], message: str) -> None:
    assert (process.returncode, process.stdout) == (2, ""), process.stderr
    assert process.stderr.count("\n") == 1
    assert message in process.stderr


@pytest.mark.parametrize("arguments", WITH_OUTPUT, ids=" ".join)
def test_every_command_refuses_an_output_that_is_a_pattern(tmp_path: pathlib.Path, arguments: list[str]) -> None:
    (tmp_path / "b1").mkdir()
    assert_refused(start(*arguments, "--output", tmp_path / "b?"), "output takes a path without * ? [ \\")
    assert [path.name for path in tmp_path.iterdir()] == ["b1"]


@pytest.mark.parametrize("name", PATTERNS)
def test_the_working_directory_is_checked_too(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert_refused(start("runner_local.py", "--output", "out", cwd=tmp_path / name), "output takes a path without")
    assert_refused(start("-m", "pipeline.report", cwd=tmp_path / name), "output takes a path without")
    assert list((tmp_path / name).iterdir()) == []


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("key", ["output", "serving-dir"])
def test_paths_in_a_config_file_are_checked_too(tmp_path: pathlib.Path, name: str, key: str) -> None:
    (tmp_path / "run.toml").write_text(f"{key} = {json.dumps(str(tmp_path / name))}\n")
    assert_refused(start("runner_local.py", "--config", tmp_path / "run.toml"), f"{key} takes a path without")
    assert_refused(
        start("runner_local.py", "rollback", "--config", tmp_path / "run.toml"), f"{key} takes a path without"
    )


@pytest.mark.parametrize("value", ["a\0b", "~nobody-of-this-name/x", "a\udcffb"])
@pytest.mark.parametrize("key", ["output", "serving-dir", "data-dir"])
def test_a_path_that_no_file_can_have_is_assert_refused(key: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"{key} takes a path"):
        settings.build({key: value}, {}, settings.find_profile("mnist"))


def test_doctor_checks_each_path(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.local import doctor

    for name in ("_gpus", "_data", "_packages"):
        monkeypatch.setattr(doctor, name, lambda *_: Check("", OK, ""))

    def checks(output: pathlib.Path, model: str | None = None) -> dict[str, Check]:
        return {check.name: check for check in doctor.examine(output, model)}

    (tmp_path / "serving").mkdir()
    results = checks(tmp_path / "output", str(tmp_path / "serving" / "mnist"))
    assert {results[name].state for name in ("disk", "locks", "path", "serving")} == {OK}
    assert list(tmp_path.rglob("*")) == [tmp_path / "serving"]
    assert checks(tmp_path / "b?")["path"].state == BLOCKED
    assert "--serving-dir takes a path without" in checks(tmp_path, str(tmp_path / "b?"))["path"].advice
    with mounts.read_only(tmp_path / "serving") as folder:
        results = checks(folder, str(folder / "mnist"))
        assert {results[name].state for name in ("disk", "serving")} == {BLOCKED}
        assert "read-only file system" in results["disk"].result
        assert "read-only file system" in results["serving"].result
    (tmp_path / "lower" / "mnist").mkdir(parents=True)
    with mounts.overlay(tmp_path / "lower", tmp_path) as folder:
        results = checks(folder, str(folder / "mnist"))
        assert (results["serving"].state, "older layers by file" in results["serving"].result) == (OK, True)


def test_explain_writes_nothing(tmp_path: pathlib.Path) -> None:
    process = start(*WORK, "--output", tmp_path / "output", "--explain")
    assert process.returncode == 0, process.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mnist", "other"])
def test_a_read_only_serving_folder_is_refused_before_any_stage(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / "serving" / "mnist").mkdir(parents=True)
    with mounts.read_only(tmp_path / "serving") as folder:
        options = ("--output", tmp_path / "output", "--serving-dir", folder, "--serving-name", name)
        process = start(*WORK, *options)
    assert process.returncode == 2
    assert process.stderr.startswith(f"error: the serving folder must be writable, but {folder}/{name}: read-only")
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "output" / "runs").exists()
    assert not (tmp_path / "output" / "pipeline_root").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["runner_local.py"],
        ["runner_local.py", "doctor"],
        ["-m", "pipeline.report"],
        ["-m", "pipeline.lineage"],
        ["-m", "serving.batch", "images", "--output", "answers"],
        ["-m", "serving.drift", "samples"],
        ["-m", "serving.predict", "picture.png"],
    ],
    ids=" ".join,
)
def test_a_result_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: pathlib.Path, arguments: list[str]
) -> None:
    (tmp_path / "file").touch()
    assert_refused(start(*arguments, "--json", tmp_path / "file" / "out.json", cwd=tmp_path), "file is no folder")


def test_serving_refuses_unwritable_paths_before_it_loads_a_model(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mnist" / "1").mkdir(parents=True)
    (tmp_path / "mnist" / "1" / "saved_model.pb").touch()
    (tmp_path / "file").touch()
    shutil.copy(ROOT / "tests" / "deploy" / "test_deploy.py", tmp_path / "a.png")
    model = ("--model-dir", tmp_path / "mnist")
    process = start("-m", "serving", *model, "--port", "0", "--sample-dir", tmp_path / "file" / "samples")
    assert_refused(process, "--sample-dir takes a folder to write to, but")
    for output, message in (
        ("b?", "--output takes a path without"),
        ("file", "--output takes a folder that can be written"),
    ):
        assert_refused(start("-m", "serving.batch", tmp_path / "a.png", *model, "--output", tmp_path / output), message)
    for command in (("serving",), ("serving.batch", tmp_path / "a.png", "--output", tmp_path / "out")):
        assert_refused(start("-m", *command, "--model-dir", tmp_path / "b[1]"), "--model-dir takes a path without")


@pytest.mark.slow
def test_odd_names_are_used_literally(tmp_path: pathlib.Path) -> None:
    """A run whose output folder has every odd character that is allowed, and whose files are named like patterns."""
    from components.ingest import digits

    odd = tmp_path / "o d' \" % #é~:@{a,b}+&$!\n-x"
    data = tmp_path / "d[a]?*"
    data.mkdir()
    digits.write(data)
    shutil.copy(settings.PROFILES / "digits.pbtxt", tmp_path / "s[1].pbtxt")
    profile = (settings.PROFILES / "digits.toml").read_text().replace("digits.pbtxt", "s[1].pbtxt")
    (tmp_path / "p[1]?.toml").write_text(profile)
    (tmp_path / "c*.toml").write_text("[training]\nmodel = 'linear'\n")
    options = (
        *("--data-dir", data, "--config", tmp_path / "c*.toml", "--train-steps", "5", "--force-push", "a test"),
        *("--profile", tmp_path / "p[1]?.toml", "--output", f"{odd}/"),
    )
    process = start("runner_local.py", *options, "--json", tmp_path / "r[?].json")
    assert process.returncode == 0, process.stdout + process.stderr
    record = json.loads((tmp_path / "r[?].json").read_text())
    assert record["model"]["path"] == str(odd / "serving" / "mnist" / "1")
    again = start("runner_local.py", *options)
    assert "Nothing has changed" in again.stdout, again.stdout + again.stderr
    lineage = json.loads(start("-m", "pipeline.lineage", "--output", odd, "--json").stdout)
    assert (lineage["version"], lineage["source"]) == (1, "ML Metadata")
    assert start("-m", "pipeline.report", record["run_id"], "--output", odd).returncode == 0
    assert start("runner_local.py", "label", "1", "blue", "--output", odd).returncode == 0
    assert start("runner_local.py", "prune", "--keep", "1", "--output", odd).returncode == 0
