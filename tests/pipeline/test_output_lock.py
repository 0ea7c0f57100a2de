# SPDX-License-Identifier: Apache-2.0
"""The lock of an output folder and that of a serving folder: held, free, or not to be had."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from components.errors import BadInput
from components.push import history, versions
from components.push.local_folder import LocalFolder
from pipeline.cli import BLOCKED, OK, Check
from pipeline.local import commands, doctor, lock
from tests import mounts

# What a file system without locks answers, by what it is.
NONE = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO]


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(file: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def output(tmp_path: pathlib.Path) -> pathlib.Path:
    """An output folder that a process which has ended has left, with a version in it."""
    (tmp_path / "serving" / "mnist" / "1").mkdir(parents=True)
    (tmp_path / "serving" / "mnist" / "1" / "saved_model.pb").write_bytes(b"graph")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    (tmp_path / ".lock").write_text(str(ended.pid))
    return tmp_path


@pytest.mark.parametrize("number", NONE)
def test_a_file_system_without_locks_is_said_and_nobody_is_accused(
    output: pathlib.Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    without_locks(monkeypatch, number)
    signature = (output / ".lock").read_text()
    for use in (lock.exclusive, lock.shared):
        with pytest.raises(BadInput, match="its file system has none") as refused, use(output):
            pass
        assert os.strerror(number).lower() in str(refused.value)
        assert "--output" in str(refused.value)
        assert signature not in str(refused.value)
    with pytest.raises(BadInput, match="its file system has none"):
        lock.holder(output)
    with pytest.raises(BadInput, match="its file system has none"):
        lock.probe(output / "not" / "yet")
    with (
        pytest.raises(BadInput, match="its file system has none"),
        history.lock(LocalFolder(output / "serving" / "mnist")),
    ):
        pass


@pytest.mark.parametrize(
    "arguments", [["prune", "--keep", "1"], ["label", "1", "canary"], ["label", "1", "blue"]], ids=" ".join
)
def test_every_command_that_locks_ends_with_one_line(
    output: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments: list[str]
) -> None:
    without_locks(monkeypatch, errno.ENOLCK)
    assert commands.main([*arguments, "--output", str(output)]) == 2
    errors = capsys.readouterr().err
    assert "no locks available" in errors
    assert errors.count("\n") == 1
    assert not (output / "serving" / "mnist" / versions.LABELS_FILE).exists()


def test_doctor_tells_no_locks_from_a_lock_that_is_held(output: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_gpus", lambda _: Check("GPUs", OK, ""))
    assert doctor._locks(output).state == OK
    with lock.exclusive(output):
        assert doctor._locks(output).result == f"process {os.getpid()} uses {output}"
    without_locks(monkeypatch, errno.ENOLCK)
    for folder in (output, output / "not" / "yet"):
        check = doctor._locks(folder)
        assert (check.state, check.result) == (BLOCKED, "the file system has none")
        assert "no locks available" in check.advice


def test_the_holder_is_named_and_a_process_that_has_ended_is_not(output: pathlib.Path) -> None:
    with lock.exclusive(output):
        assert lock.holder(output) == f"process {os.getpid()}"
        with pytest.raises(BadInput, match=f"process {os.getpid()} is using"), lock.exclusive(output):
            pass
        ended = (output / ".lock").read_text().partition(" on ")[2].strip()
        with subprocess.Popen([sys.executable, "-c", ""]) as process:
            pass
        # As while a process that was started by one that has ended still has the lock.
        (output / ".lock").write_text(f"{process.pid} on {ended}")
        assert lock.holder(output) == "another process"
        (output / ".lock").write_text(f"{process.pid} on another-machine")
        assert lock.holder(output) == f"process {process.pid} on another-machine"
        (output / ".lock").write_text("")
        assert lock.holder(output) == "another process"
    assert lock.holder(output) is None


def test_whoever_reads_makes_nothing_and_keeps_runs_away(tmp_path: pathlib.Path) -> None:
    with lock.shared(tmp_path / "output"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".lock").touch()
    with lock.shared(tmp_path), pytest.raises(BadInput, match="is using"), lock.exclusive(tmp_path):
        pass
    refused = pytest.raises(BadInput, match=f"process {os.getpid()} is using")
    with lock.exclusive(tmp_path), refused, lock.shared(tmp_path):
        pass


def test_a_full_disk_can_still_be_emptied(tmp_path: pathlib.Path) -> None:
    with mounts.mounted(tmp_path / "full", "-t", "tmpfs", "-o", "size=8k", "tmpfs") as folder:
        (folder / "file").write_bytes(bytes(8192))
        with pytest.raises(BadInput, match="no space left on device"), lock.exclusive(folder):
            pass
        with lock.exclusive(folder, room=False):
            pass


@pytest.mark.parametrize("name", ["", "runs", "pipeline_root", "pipeline_root/train", "serving/mnist", "checkpoints"])
def test_a_folder_that_is_read_only_by_its_mount_is_named(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / "output" / name).mkdir(parents=True)
    message = "the output folder must be writable.*read-only file system; name another"
    with mounts.read_only(tmp_path / "output" / name) as folder, pytest.raises(BadInput, match=message) as refused:  # noqa: SIM117
        with lock.exclusive(tmp_path / "output"):
            pass
    assert f"but {folder}: " in str(refused.value)


def test_metadata_that_are_read_only_are_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "metadata.db").mkdir()
    with pytest.raises(BadInput, match=r"metadata\.db: it is a folder"), lock.exclusive(tmp_path):
        pass


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(BadInput, match="runs: not a directory"), lock.exclusive(tmp_path):
        pass
