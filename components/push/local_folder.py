# SPDX-License-Identifier: Apache-2.0
"""A destination that is a folder, be it of this machine or of a mounted volume.

The model is staged beside the versions under a name that no server looks at, written through to the disk, and becomes a
version by one rename. A rename onto a folder that is there fails, so two pushes cannot claim one number.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from components.push import destination, versions

STAGING_PREFIX = ".staging-"


class LocalFolder(NamedTuple):
    """`destination.Destination` for a path."""

    path: pathlib.Path

    @property
    def url(self) -> str:
        return str(self.path)

    def location(self, number: int) -> str:
        return str(self.path / str(number))

    def numbers(self) -> dict[int, bool]:
        if not self.path.is_dir():
            return {}
        folders = [path for path in self.path.iterdir() if path.name.isdecimal()]
        return {int(path.name): (path / destination.SAVED_MODEL).is_file() for path in folders}

    def digest(self, number: int) -> str:
        return versions.tree_digest(self.path / str(number))

    def read(self, name: str) -> bytes | None:
        file = self.path / name
        return file.read_bytes() if file.is_file() else None

    def write(self, name: str, data: bytes) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / f".{name}.part"
        partial.write_bytes(data)
        _sync(partial)
        partial.replace(self.path / name)
        _sync(self.path)

    def fetch(self, number: int, folder: pathlib.Path) -> None:
        shutil.copytree(self.path / str(number), folder, dirs_exist_ok=True)

    def remove(self, number: int) -> None:
        # Away from where servers look by one rename, as it came.
        with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=self.path) as removed:
            (self.path / str(number)).rename(pathlib.Path(removed) / "model")

    @contextlib.contextmanager
    def staged(self, files: Mapping[str, pathlib.Path]) -> Iterator[_Staged]:
        self.path.mkdir(parents=True, exist_ok=True)
        staging = pathlib.Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=self.path))
        try:
            for name, path in files.items():
                target = staging / "model" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            yield _Staged(self.path, staging / "model")
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def settle(self) -> None:
        # A rename is done or not done: there is nothing to finish.
        stagings = list(self.path.glob(f"{STAGING_PREFIX}*"))
        if not stagings:
            return
        # By the clock that the others' times are of, which may be a file server's.
        with tempfile.TemporaryFile(dir=self.path) as file:
            now = os.fstat(file.fileno()).st_mtime
        for path in stagings:
            with contextlib.suppress(FileNotFoundError):  # another push ended meanwhile
                # As far in the future, it is from before a clock was set back.
                if abs(path.stat().st_mtime - now) > destination.STALE_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)


class _Staged(NamedTuple):
    folder: pathlib.Path
    model: pathlib.Path

    def become(self, number: int, files: Mapping[str, bytes]) -> bool:
        for name, content in files.items():
            (self.model / name).parent.mkdir(parents=True, exist_ok=True)
            (self.model / name).write_bytes(content)
        _write_through(self.model)
        try:
            _rename(self.model, self.folder / str(number))
        except (FileExistsError, NotADirectoryError):
            return False
        _sync(self.folder)
        return True


def _rename(source: pathlib.Path, target: pathlib.Path) -> None:
    if target.exists():  # the kernel would let a folder replace an empty one
        raise FileExistsError(target)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(target) from error
        raise


def _write_through(folder: pathlib.Path) -> None:
    """Makes sure that a folder and all below it survive a power cut."""
    for path in [*folder.rglob("*"), folder, folder.parent]:
        _sync(path)


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
