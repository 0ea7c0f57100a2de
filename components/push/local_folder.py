# SPDX-License-Identifier: Apache-2.0
"""A destination that is a folder, be it of this machine or of a mounted volume.

The model is staged beside the versions under a name that no server looks at, written through to the disk, and becomes a
version by one rename. A rename onto a folder that is there fails, so two pushes cannot claim one number. Where folders
cannot be renamed, `saved_model.pb`, without which there is no version, is the last to come and the first to go.
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

from components import paths
from components.errors import BadInput
from components.push import destination, versions

STAGING_PREFIX = ".staging-"
# A folder of a lower layer of an overlay, one where something is mounted, and file systems that rename files alone.
_CANNOT_RENAME = {errno.EXDEV, errno.EBUSY, errno.ENOSYS, errno.EOPNOTSUPP}


class LocalFolder(NamedTuple):
    """`destination.Destination` for a path."""

    path: pathlib.Path

    @property
    def url(self) -> str:
        return str(self.path)

    def location(self, number: int) -> str:
        return str(self._version(number))

    def numbers(self) -> dict[int, bool]:
        names, complete = self._names()
        return {number: name in complete for number, name in names.items()}

    def digest(self, number: int) -> str:
        return versions.tree_digest(self._version(number))

    def read(self, name: str, version: int | None = None) -> bytes | None:
        file = (self.path if version is None else self._version(version)) / name
        return file.read_bytes() if file.is_file() else None

    def write(self, name: str, data: bytes) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / f".{name}.part"
        partial.write_bytes(data)
        _sync(partial)
        partial.replace(self.path / name)
        _sync(self.path)

    def fetch(self, number: int, folder: pathlib.Path) -> None:
        shutil.copytree(self._version(number), folder, dirs_exist_ok=True)

    def remove(self, number: int) -> None:
        version = self._version(number)
        # Away from where servers look by one rename, as it came.
        with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=self.path) as removed:
            try:
                version.rename(pathlib.Path(removed) / "model")
            except OSError as error:
                if error.errno not in _CANNOT_RENAME:
                    raise
                _remove_in_place(version)

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

    def probe(self) -> None:
        paths.refuse_patterns(self.path, "the serving folder")
        if fault := paths.fault(self.path):
            raise BadInput(f"the serving folder must be writable, but {fault}; name another with --serving-dir")

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

    def _version(self, number: int) -> pathlib.Path:
        """The folder of a version, or the one that it would get."""
        return self.path / self._names()[0].get(number, str(number))

    def _names(self) -> tuple[dict[int, str], set[str]]:
        """Number -> name of its folder, and the names of those that hold a whole model."""
        try:
            names = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
            complete = {
                name
                for name in names
                if paths.version_number(name) is not None and (self.path / name / destination.SAVED_MODEL).is_file()
            }
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise BadInput(
                f"the versions in {self.path} must be readable, but {error.filename}: {reason}; change its "
                "permissions, or name another folder"
            ) from None
        return destination.folder_names(names, complete, self.url), complete


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
    """Makes a folder that was staged a version; raises FileExistsError where the name is taken."""
    if target.exists():  # the kernel would let a folder replace an empty one
        raise FileExistsError(target)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(target) from error
        if error.errno not in _CANNOT_RENAME:
            raise
        _copy(source, target)


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Does the same file by file: the empty folder takes the number; the graph, which makes it a version, is last."""
    target.mkdir()
    try:
        graph = destination.SAVED_MODEL
        shutil.copytree(
            source, target, ignore=lambda folder, _: [graph] if folder == str(source) else [], dirs_exist_ok=True
        )
        partial = target / f".{graph}.part"
        shutil.copyfile(source / graph, partial)
        _write_through(target)
        partial.rename(target / graph)
        _sync(target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _remove_in_place(version: pathlib.Path) -> None:
    """Removes a version where it is. Without its graph, which goes first, it is none, and no server loads it."""
    (version / destination.SAVED_MODEL).unlink(missing_ok=True)
    try:
        shutil.rmtree(version)
    except OSError as error:
        if error.errno != errno.EBUSY or any(version.iterdir()):  # where something is mounted, the empty folder stays
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
