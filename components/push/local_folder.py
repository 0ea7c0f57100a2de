# SPDX-License-Identifier: Apache-2.0
"""A destination that is a folder, on this machine or on a mounted volume.

The model is staged beside the versions under a name that no server loads, flushed to the disk, and becomes a version by
one rename. Renaming onto an existing folder fails, so two pushes cannot claim one number. Where folders cannot be
renamed, `saved_model.pb`, without which there is no version, is written last and removed first.
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
from components.push.destination import SAVED_MODEL, STALE_SECONDS, folder_names

STAGING_PREFIX = ".staging-"
# A folder of a lower layer of an overlay, a mount point, and file systems that rename only files.
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
        return paths.tree_digest(self._version(number))

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
        # By one rename to a name that no server loads.
        with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=self.path) as removed:
            try:
                version.rename(pathlib.Path(removed) / "model")
            except OSError as error:
                if error.errno not in _CANNOT_RENAME:
                    raise
                _remove_unrenamed(version)

    @contextlib.contextmanager
    def stage(self, files: Mapping[str, pathlib.Path]) -> Iterator[_StagedFolder]:
        self.path.mkdir(parents=True, exist_ok=True)
        staging = pathlib.Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=self.path))
        try:
            for name, path in files.items():
                target = staging / "model" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            yield _StagedFolder(self.path, staging / "model")
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def probe(self) -> None:
        paths.refuse_patterns(self.path, "the serving folder")
        if fault := paths.fault(self.path):
            raise BadInput(f"the serving folder must be writable, but {fault}; name another with --serving-dir")

    def recover(self) -> None:
        # A rename is atomic: there is nothing to complete.
        stagings = list(self.path.glob(f"{STAGING_PREFIX}*"))
        if not stagings:
            return
        # By the clock of the file system, which may be a file server's.
        with tempfile.TemporaryFile(dir=self.path) as file:
            now = os.fstat(file.fileno()).st_mtime
        for path in stagings:
            with contextlib.suppress(FileNotFoundError):  # another push has ended meanwhile
                # A time as far in the future dates from before the clock was set back.
                if abs(path.stat().st_mtime - now) > STALE_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)

    def _version(self, number: int) -> pathlib.Path:
        """Returns the folder of a version, or the one that it would get."""
        return self.path / self._names()[0].get(number, str(number))

    def _names(self) -> tuple[dict[int, str], set[str]]:
        """Maps numbers to names of folders; also returns the names of those that hold a complete model."""
        try:
            names = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
            complete = {
                name
                for name in names
                if paths.version_number(name) is not None and (self.path / name / SAVED_MODEL).is_file()
            }
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise BadInput(
                f"the versions in {self.path} must be readable, but {error.filename}: {reason}; change its "
                "permissions, or name another folder"
            ) from None
        return folder_names(names, complete, self.url), complete


class _StagedFolder(NamedTuple):
    folder: pathlib.Path
    model: pathlib.Path

    def commit(self, number: int, files: Mapping[str, bytes]) -> bool:
        for name, content in files.items():
            (self.model / name).parent.mkdir(parents=True, exist_ok=True)
            (self.model / name).write_bytes(content)
        _flush(self.model)
        try:
            _rename(self.model, self.folder / str(number))
        except (FileExistsError, NotADirectoryError):
            return False
        _sync(self.folder)
        return True


def _rename(source: pathlib.Path, target: pathlib.Path) -> None:
    """Makes a staged folder a version; raises FileExistsError if the name is in use."""
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
    """Does the same file by file: the empty folder claims the number; the graph, which makes it a version, is last."""
    target.mkdir()
    try:
        graph = SAVED_MODEL
        shutil.copytree(
            source, target, ignore=lambda folder, _: [graph] if folder == str(source) else [], dirs_exist_ok=True
        )
        partial = target / f".{graph}.part"
        shutil.copyfile(source / graph, partial)
        _flush(target)
        partial.rename(target / graph)
        _sync(target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _remove_unrenamed(version: pathlib.Path) -> None:
    """Removes a version without a rename: its graph first, without which no server loads it."""
    (version / SAVED_MODEL).unlink(missing_ok=True)
    try:
        shutil.rmtree(version)
    except OSError as error:
        if error.errno != errno.EBUSY or any(version.iterdir()):  # the empty folder of a mount stays
            raise


def _flush(folder: pathlib.Path) -> None:
    """Flushes a folder and all below it to the disk."""
    for path in [*folder.rglob("*"), folder, folder.parent]:
        _sync(path)


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
