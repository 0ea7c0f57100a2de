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


class Run(Protocol):
    def __call__(self, *arguments: str | pathlib.Path, root: pathlib.Path = ROOT) -> Ended: ...


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs runner_local.py and fails if it tried to connect to another machine."""
    folder = tmp_path_factory.mktemp("guard")
    guard = folder / "refuse_connections.so"
    source = pathlib.Path(__file__).parent / "refuse_connections.c"
    subprocess.run([shutil.which("cc") or "g++", "-shared", "-fPIC", "-o", guard, source, "-ldl"], check=True)
    notes, home = folder / "refused", folder / "home"
    home.mkdir()

    def start(*arguments: str | pathlib.Path, root: pathlib.Path = ROOT) -> Ended:
        told = folder / "record.json"
        told.unlink(missing_ok=True)
        env = {
            "PATH": os.environ["PATH"], "HOME": str(home), "LD_PRELOAD": str(guard), "REFUSED_CONNECTIONS": str(notes)
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(root / "runner_local.py"), *map(str, arguments), "--json", str(told)],
            capture_output=True,
            text=True,
            env=env,
            cwd=root,
        )
        assert not notes.exists(), notes.read_text()
        record = json.loads(told.read_text()) if told.exists() else None
        return Ended(done.returncode, done.stdout, done.stderr, record)

    return start


def digest(folder: pathlib.Path) -> str:
    """SHA-256 over every path below a folder and every byte."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b""))
    return total.hexdigest()


@pytest.fixture(scope="session")
def serving_digest() -> Any:
    return digest
