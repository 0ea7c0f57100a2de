# SPDX-License-Identifier: Apache-2.0
"""One process at a time may change an output folder: it holds a lock on `.lock` there, which the kernel releases.

filelock's FileLock does not replace this: it is exclusive only and creates its file, while a reader here shares
the lock and creates nothing; it names no holder, and takes EACCES for a held lock. The doctor needs this without any
package.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import platform
import re
import tempfile
from collections.abc import Iterator

from components import file_lock, paths
from components.errors import BadInput

LOCK_FILE = ".lock"
# The folders that a run writes to; in the first two, also to the folders in them.
_FOLDERS = ("pipeline_root", "serving", "runs", "checkpoints", "tmp")
_DATABASE = "metadata.db"
NO_LOCKS = "Name a folder on a local disk with --output."
_SIGNATURE = re.compile(r"(\d+) on (.+)")
_SIGNATURE_BYTES = 100


@contextlib.contextmanager
def exclusive(output: pathlib.Path, *, room: bool = True) -> Iterator[None]:
    """Creates the output folder and locks it for this process alone.

    Args:
        output: an absolute path.
        room: whether to refuse a full disk too.

    Raises:
        BadInput: it is not writable, its file system has no locks, or another process holds it.
    """
    refuse_unwritable(output, room=room)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = os.open(output / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(f"{error.filename or output}: {(error.strerror or str(error)).lower()}") from None
    try:
        if not file_lock.acquire(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, output, NO_LOCKS):
            raise _in_use(lock, output)
        _refuse_unwritable_inside(output, room=room)
        with contextlib.suppress(OSError):  # a disk that is full: `prune` must still be able to empty it
            os.pwrite(lock, f"{os.getpid()} on {platform.node()}".ljust(_SIGNATURE_BYTES).encode(), 0)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def shared(output: pathlib.Path) -> Iterator[None]:
    """Locks an output folder against runs while this process reads it; creates nothing, not even a missing folder.

    Raises:
        BadInput: a process is changing it, or its file system has no locks.
    """
    with contextlib.ExitStack() as undo:
        lock = _open_lock(output)
        if lock is not None:
            undo.callback(os.close, lock)
            if not file_lock.acquire(lock, fcntl.LOCK_SH | fcntl.LOCK_NB, output, NO_LOCKS):
                raise _in_use(lock, output)
        yield


def holder(output: pathlib.Path) -> str | None:
    """Returns the process that holds an output folder, such as "process 4711"; None where it is free.

    Raises:
        BadInput: its file system has no locks.
    """
    lock = _open_lock(output)
    if lock is None:
        return None
    try:
        free = file_lock.acquire(lock, fcntl.LOCK_SH | fcntl.LOCK_NB, output, NO_LOCKS)
        return None if free else _owner(lock)
    finally:
        os.close(lock)


def probe(output: pathlib.Path) -> None:
    """Raises `BadInput` where the file system of an output folder has no locks; leaves no file."""
    with tempfile.TemporaryFile(dir=paths.nearest(output)) as file:
        file_lock.acquire(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, output, NO_LOCKS)


def refuse_unwritable(output: pathlib.Path, *, room: bool = True) -> None:
    """Raises `BadInput` where a run could not write to its output folder; creates nothing."""
    if fault := paths.fault(output, room=room):
        raise _unwritable(fault)


def _refuse_unwritable_inside(output: pathlib.Path, *, room: bool) -> None:
    """Does the same for the files of former runs; call it with the lock held, so that they do not change."""
    folders = [output / name for name in _FOLDERS]
    folders += (path for name in _FOLDERS[:2] for path in sorted((output / name).glob("*")) if path.is_dir())
    fault = next(filter(None, (paths.fault(folder, room=room) for folder in folders)), "")
    database = output / _DATABASE
    if not fault and database.exists() and (reason := paths.file_fault(database)):
        fault = f"{database}: {reason}"
    if fault:
        raise _unwritable(fault)


def _open_lock(output: pathlib.Path) -> int | None:
    """Opens the lock file for reading; returns None where there is none that can be read."""
    try:
        return os.open(output / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return None


def _unwritable(fault: str) -> BadInput:
    return BadInput(f"the output folder must be writable, but {fault}; name another with --output")


def _in_use(lock: int, output: pathlib.Path) -> BadInput:
    return BadInput(
        f"one run at a time may use an output folder, and {_owner(lock)} is using {output}; wait for it, or name "
        "another with --output"
    )


def _owner(lock: int) -> str:
    """Returns the process that signed the lock; "another process" where that has ended, and so is not the holder."""
    text = os.pread(lock, _SIGNATURE_BYTES, 0).decode(errors="replace").strip()
    signature = _SIGNATURE.fullmatch(text)
    if signature is None:
        return f"process {text}" if text.isdecimal() else "another process"
    if signature[2] != platform.node():  # the folder is shared between machines or containers
        return f"process {text}"
    try:
        os.kill(int(signature[1]), 0)
    except ProcessLookupError:
        return "another process"
    except OSError:  # another user's process
        pass
    return f"process {signature[1]}"
