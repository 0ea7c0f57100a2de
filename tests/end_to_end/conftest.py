# SPDX-License-Identifier: Apache-2.0
"""Whole runs, as a user starts them: a process of its own, an empty home, no connection to another machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Protocol

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Ended:
    """A run that has ended: its exit code, what it printed, and its record (None where it was refused before)."""

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
    ) -> Ended: ...


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
    told = tmp_path_factory.mktemp("records") / "record.json"
    notes = pathlib.Path(guard["REFUSED_CONNECTIONS"])

    def ended(*arguments: str | pathlib.Path, root: pathlib.Path = ROOT, through: Sequence[str] = ()) -> Ended:
        told.unlink(missing_ok=True)
        process = start(*arguments, "--json", told, root=root, through=through)
        stdout, stderr = process.communicate()
        assert not notes.exists(), notes.read_text()
        record = json.loads(told.read_text()) if told.exists() else None
        return Ended(process.returncode, stdout, stderr, record)

    return ended


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
