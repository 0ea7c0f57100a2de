# SPDX-License-Identifier: Apache-2.0
"""File systems of their own, for tests of what a file system may do; skipped where this user may not mount any."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def mounted(folder: pathlib.Path, *arguments: str) -> Iterator[pathlib.Path]:
    """Mounts what `mount ARGUMENTS FOLDER` does, and unmounts it in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if process.returncode:
        pytest.skip(f"needs the right to mount a file system: {process.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def overlay(lower: pathlib.Path, scratch: pathlib.Path) -> Iterator[pathlib.Path]:
    """Mounts an overlay of which `lower` is the lower layer."""
    with mounted(scratch / "layers", "-t", "tmpfs", "tmpfs") as layers:  # an overlay as upper layer is refused
        for name in ("upper", "work"):
            (layers / name).mkdir()
        options = f"lowerdir={lower},upperdir={layers / 'upper'},workdir={layers / 'work'}"
        with mounted(scratch / "overlay", "-t", "overlay", "-o", options, "overlay") as folder:
            yield folder


@contextlib.contextmanager
def read_only(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a folder that is there read-only by a mount, which holds for root too."""
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield folder
