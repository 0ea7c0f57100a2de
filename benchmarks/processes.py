# SPDX-License-Identifier: Apache-2.0
"""Runs a command and takes its time."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import time
from collections.abc import Collection, Sequence

from components.errors import ProjectError

ROOT = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Timed:
    """A command that has ended; `cpu_seconds` are those of it and all its children."""

    seconds: float
    cpu_seconds: float
    stdout: str


def timed(command: Sequence[object], folder: pathlib.Path = ROOT, good: Collection[int] = (0,)) -> Timed:
    """Runs a command to its end; nothing else that this process started may end meanwhile.

    Args:
        command: program and arguments.
        folder: in which it runs.
        good: exit codes that are taken.

    Raises:
        ProjectError: it ended with another one.
    """
    before, started = os.times(), time.monotonic()
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True)
    seconds, after = time.monotonic() - started, os.times()
    if done.returncode not in good:
        told = " ".join(f"{done.stderr} {done.stdout}".split())[-1500:]
        words = " ".join(map(str, command))
        raise ProjectError(f"what is measured must run, but {words} ended with {done.returncode}: …{told}")
    cpu_seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return Timed(seconds, cpu_seconds, done.stdout)
