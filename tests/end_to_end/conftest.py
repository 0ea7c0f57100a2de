# SPDX-License-Identifier: Apache-2.0
"""Whole runs, as a user starts them: a process of its own, an empty home, no connection to another machine."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Arguments of the run that tests share.
WORK = ("--dataset", "digits", "--train-steps", "200")


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The exit code, output and record of a run; the record is None if the run was refused."""

    code: int
    stdout: str
    stderr: str
    record: dict[str, Any] | None


class Start(Protocol):
    def __call__(
        self, *arguments: str | pathlib.Path, root: pathlib.Path = ROOT, through: Sequence[str] = ()
    ) -> subprocess.Popen[str]: ...


class Run(Protocol):
    def __call__(
        self, *arguments: str | pathlib.Path, root: pathlib.Path = ROOT, through: Sequence[str] = ()
    ) -> RunResult: ...


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a run: an empty home, and a library that notes each attempt to reach another machine."""
    folder = tmp_path_factory.mktemp("guard")
    library = folder / "refuse_connections.so"
    source = pathlib.Path(__file__).parent / "refuse_connections.c"
    subprocess.run([shutil.which("cc") or "g++", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    (folder / "home").mkdir()
    (folder / "tmp").mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "LD_PRELOAD": str(library),
        "REFUSED_CONNECTIONS": str(folder / "refused"),
    }


@pytest.fixture(scope="session")
def start(guard: dict[str, str]) -> Start:
    """Starts runner_local.py, through another command where one is given."""

    def started(
        *arguments: str | pathlib.Path, root: pathlib.Path = ROOT, through: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*through, sys.executable, str(root / "runner_local.py"), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=guard,
            cwd=root,
        )

    return started


@pytest.fixture(scope="session")
def run(start: Start, guard: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs runner_local.py to its end and fails if it tried to connect to another machine."""
    path = tmp_path_factory.mktemp("records") / "record.json"
    notes = pathlib.Path(guard["REFUSED_CONNECTIONS"])

    def run_pipeline(
        *arguments: str | pathlib.Path, root: pathlib.Path = ROOT, through: Sequence[str] = ()
    ) -> RunResult:
        path.unlink(missing_ok=True)
        process = start(*arguments, "--json", path, root=root, through=through)
        stdout, stderr = process.communicate()
        assert not notes.exists(), notes.read_text()
        record = json.loads(path.read_text()) if path.exists() else None
        return RunResult(process.returncode, stdout, stderr, record)

    return run_pipeline


@pytest.fixture(scope="session")
def pushed_run(run: Run, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run with `WORK` that has pushed version 1 to an empty serving folder, in Tokyo.

    All processes of tests share it, so its output folder must not change: use `copy_output`.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    path = root / "pushed_run.json"
    with (root / "pushed_run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            result = run(*WORK, "--output", root / "pushed-run-ä" / "output", through=("env", "TZ=Asia/Tokyo"))
            path.write_text(json.dumps(dataclasses.asdict(result)))
    result = RunResult(**json.loads(path.read_text()))
    assert result.code == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="session")
def copy_output(pushed_run: RunResult) -> Callable[[pathlib.Path], pathlib.Path]:
    """Copies the output folder of the shared run to a path, and returns the path."""
    assert pushed_run.record is not None
    output = pathlib.Path(pushed_run.record["config"]["output"])
    return lambda path: shutil.copytree(output, path)


@pytest.fixture
def checkout(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of what a run needs of this project, to be edited."""
    copy = tmp_path / "checkout"
    for name in ("components", "pipeline"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "requirements").mkdir()
    for name in ("runner_local.py", "requirements/run.lock"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def digest(folder: pathlib.Path) -> str:
    """SHA-256 over every path below a folder and every byte."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b""))
    return total.hexdigest()


@pytest.fixture(scope="session")
def serving_digest() -> Any:
    return digest
