# SPDX-License-Identifier: Apache-2.0
"""The doctor: on this machine, on one without packages, and for each thing that can be wrong."""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import subprocess
import sys
from collections import namedtuple
from typing import Any

import pytest

from components import environment, features
from components.ingest import download, source
from pipeline import cgroup, run_record
from pipeline.cli import BLOCKED, OK, WARNING, Check
from pipeline.local import commands, doctor

ROOT = pathlib.Path(__file__).parents[2]
NAMES = [
    "Python", "glibc", "lane", "compiler", "packages", "disk", "memory", "GPUs", "settings", "account", "network",
    "data", "images", "locks", "console", "path", "serving", "metadata", "clock",
]  # fmt: skip


def of(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def test_this_machine_can_run_it_and_is_told_so_in_one_screen(tmp_path: pathlib.Path) -> None:
    # As a user starts it; no packages are fetched, and no mirror is asked beyond a few seconds.
    process = subprocess.run(
        [sys.executable, "runner_local.py", "doctor", "--output", tmp_path, "--json", tmp_path / "result.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "https_proxy": "http://127.0.0.1:9"},
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, ""), process.stdout
    lines = process.stdout.splitlines()
    assert len(lines) <= 28
    assert lines[-1] == "This machine can run it."
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["can_run"] is True
    checks = {check["name"]: check for check in result["checks"]}
    assert list(checks) == NAMES
    assert {checks[name]["state"] for name in NAMES} <= {"ok", "warning"}
    assert checks["packages"]["result"] == "as locked"
    assert checks["data"]["result"] == "mnist is not cached, and no mirror answers"
    assert "--data-dir" in checks["data"]["advice"]


def test_without_any_package_it_says_what_is_missing(tmp_path: pathlib.Path) -> None:
    process = subprocess.run(
        [sys.executable, "-S", "runner_local.py", "doctor", "--output", tmp_path, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 3
    assert "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1] == "Something blocks: packages."
    checks = {check["name"]: check for check in json.loads(process.stdout)["checks"]}
    assert list(checks) == NAMES
    assert checks["packages"]["result"].startswith("missing: tensorflow, tfx")
    assert "make setup" in checks["packages"]["advice"]
    assert checks["GPUs"]["state"] == checks["data"]["state"] == "warning"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what starts processes."""
    monkeypatch.setattr(doctor, "_gpus", lambda _: Check("GPUs", OK, ""))
    monkeypatch.setattr(doctor, "_reachable_mirror", lambda _: None)


@pytest.mark.usefixtures("quick")
def test_a_run_that_is_going_on_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".lock").write_text("4711")
    assert of(doctor.examine(tmp_path), "locks").state == OK
    with (tmp_path / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        check = of(doctor.examine(tmp_path), "locks")
    assert (check.state, check.result) == (BLOCKED, f"process 4711 uses {tmp_path}")
    assert of(doctor.examine(tmp_path), "locks").state == OK


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("gigabytes", "state"), [(0.1, "blocked"), (1.0, "warning"), (50.0, "ok")])
def test_a_full_disk_blocks(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, gigabytes: float, state: str
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(gigabytes * 1e9))
    check = of(doctor.examine(tmp_path / "not" / "made" / "yet"), "disk")
    assert (check.state, str(tmp_path) in check.result) == (state, True)
    assert ("prune" in check.advice) == (state != "ok")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "files", [("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")]
)
@pytest.mark.parametrize(("limit", "used", "state"), [("3e9", "1.5e9", "blocked"), ("5e9", "2e9", "warning")])
def test_the_limit_of_a_container_counts(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    files: tuple[str, str],
    limit: str,
    used: str,
    state: str,
) -> None:
    folder = tmp_path if files[0] == "memory.max" else tmp_path / "memory"  # cgroup v2 and v1
    folder.mkdir(exist_ok=True)
    for name, number in zip(files, (limit, used), strict=True):
        (folder / name).write_text(number)
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    assert of(doctor.examine(tmp_path), "memory").state == state


@pytest.mark.usefixtures("quick")
def test_another_python_or_machine_or_library_blocks(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    monkeypatch.setitem(doctor._LANE, "_glibc", lambda: (2, 17))
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    checks = doctor.examine(tmp_path)
    assert {name: of(checks, name).state for name in ("Python", "glibc", "lane")} == dict.fromkeys(
        ("Python", "glibc", "lane"), BLOCKED
    )
    assert "riscv64" in of(checks, "lane").advice


@pytest.mark.usefixtures("quick")
def test_a_missing_compiler_blocks_only_where_something_is_to_be_built(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(doctor._LANE, "missing_tools", lambda: ["a C++ compiler (g++)"])
    assert of(doctor.examine(tmp_path), "compiler").state == WARNING
    monkeypatch.setattr(doctor, "_installed", set)
    check = of(doctor.examine(tmp_path), "compiler")
    assert (check.state, check.result) == (BLOCKED, "missing: a C++ compiler (g++)")


@pytest.mark.usefixtures("quick")
def test_packages_that_are_not_as_locked_are_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "requirements/run.lock").read_text().replace("\nkeras==", "\nkeras==99.")
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/run.lock").write_text(text)
    monkeypatch.setattr(doctor, "_ROOT", tmp_path)
    check = of(doctor.examine(tmp_path), "packages")
    assert check.state == WARNING
    assert check.result.startswith("1 not as locked: keras ")


@pytest.mark.usefixtures("quick")
def test_cached_data_are_found(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, mnist_dir: pathlib.Path
) -> None:
    assert of(doctor.examine(tmp_path), "data").state == WARNING
    (tmp_path / source.MNIST).symlink_to(mnist_dir)
    monkeypatch.setattr(source, "default_cache_dir", lambda: tmp_path)
    check = of(doctor.examine(tmp_path), "data")
    assert (check.state, check.result) == (
        OK,
        f"mnist is cached in {tmp_path / source.MNIST}; digits come with scikit-learn",
    )


def test_a_mirror_that_answers_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"")
    silent, mirror = (f"{folder.as_uri()}/" for folder in (tmp_path / "none", tmp_path))
    monkeypatch.setattr(download, "MIRRORS", (silent, mirror))
    monkeypatch.setattr(doctor, "_gpus", lambda _: Check("GPUs", OK, ""))
    assert of(doctor.examine(tmp_path), "data").result.startswith(f"mnist is available from {mirror}")


def test_a_tensorflow_that_does_not_start_blocks(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('libcuda is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = doctor._gpus(False)
    assert (check.state, "libcuda is broken" in check.result) == (BLOCKED, True)


@pytest.mark.usefixtures("quick")
def test_settings_for_keras_that_runs_ignore_are_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "ignored", ["KERAS_BACKEND", "/home/a/.keras/keras.json"])
    check = of(doctor.examine(tmp_path), "settings")
    assert check.state == OK
    assert check.result == "runs take no account of KERAS_BACKEND, /home/a/.keras/keras.json"


@pytest.mark.usefixtures("quick")
def test_variables_of_proxies_and_certificates_that_cannot_be_used_are_named_without_their_values(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@host:x")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none"))
    check = of(doctor.examine(tmp_path), "network")
    assert check.state == WARNING
    assert check.result == "HTTPS_PROXY: it is no address; AWS_CA_BUNDLE: no such file or directory"


@pytest.mark.usefixtures("quick")
def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert of(doctor.examine(tmp_path), "account").state == OK
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    check = of(doctor.examine(tmp_path), "account")
    assert (check.state, "XDG_CACHE_HOME" in check.advice) == (WARNING, True)
    assert f"the cache {tmp_path}/file/mnist-tfx cannot be written" in check.result


@pytest.mark.usefixtures("quick")
def test_json_that_cannot_be_written_is_wrong_usage(tmp_path: pathlib.Path, capsys: Any) -> None:
    assert commands.main(["doctor", "--output", str(tmp_path), "--json", "/proc/none/file"]) == 2
    assert capsys.readouterr().err.startswith("error: --json names a file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune"], "--keep"),
        (["prune", "--keep", "0"], "1 or more, not 0"),
        (["prune", "--keep", "2", "--output", "/proc/none"], "names the folder that runs have written"),
        (["rollback", "x"], "invalid int value"),
        (["rollback", "--output", "/proc/none"], "there is none in"),
        (["label", "1"], "NAME"),
        (["label", "1", "canary", "--output", "/proc/none"], "1 is none"),
        (["doctor", "--keep"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_of_a_command_is_one_line(capsys: Any, arguments: list[str], message: str) -> None:
    assert commands.main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors


@pytest.mark.parametrize(
    ("variables", "state", "expected"),
    [
        ({}, "ok", "no terminal, utf-8"),
        ({"PYTHONIOENCODING": "ascii"}, "warning", "no terminal, ascii: signs are spelt in ASCII"),
        ({"PYTHONSAFEPATH": "1"}, "warning", "does not look for modules in the folder"),
    ],
)
def test_console_and_encoding(variables: dict[str, str], state: str, expected: str, tmp_path: pathlib.Path) -> None:
    process = subprocess.run(
        [sys.executable, "-S", "runner_local.py", "doctor", "--output", tmp_path, "--json"],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, **variables},
        check=False,
    )
    check = next(check for check in json.loads(process.stdout)["checks"] if check["name"] == "console")
    assert check["state"] == state
    assert expected in check["result"]
    assert ("✓" in process.stderr.decode()) == (b"+ " not in process.stderr)


def test_a_clock_before_the_last_run_and_a_moved_folder_are_told(tmp_path: pathlib.Path) -> None:
    assert doctor._clock(tmp_path).state == doctor._metadata(tmp_path).state == OK
    folder = tmp_path / "runs" / "20260101-000000-aaaa"
    folder.mkdir(parents=True)
    (tmp_path / "metadata.db").touch()
    for at, state in (("2026-01-01T00:00:00+00:00", OK), ("9999-01-01T00:00:00+00:00", WARNING)):
        record = run_record.RunRecord(
            run_id="20260101-000000-aaaa", created_at=at, sequence=1, config={"output": "/elsewhere/output"}
        )
        run_record.write_record(record, folder)
        assert doctor._clock(tmp_path).state == state
    check = doctor._metadata(tmp_path)
    assert (check.state, "/elsewhere/output" in check.result) == (OK, True)


def test_models_that_the_images_are_too_small_for_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._images({"pydantic"}).state == OK
    monkeypatch.setattr(features, "IMAGE_SHAPE", (20, 23))
    assert doctor._images({"pydantic"})[1:3] == (WARNING, "20x23, too small for best")


def test_the_version_in_production_has_its_real_name_and_two_of_one_number_block(tmp_path: pathlib.Path) -> None:
    for name in ("1", "00000002"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    assert doctor._serving(str(tmp_path)).result.endswith("; in production: 00000002")
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "saved_model.pb").touch()
    assert doctor._serving(str(tmp_path)).state == BLOCKED
