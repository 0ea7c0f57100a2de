# SPDX-License-Identifier: Apache-2.0
"""One process at a time may change an output folder: it holds `.lock` there, which the kernel frees when it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
from collections.abc import Iterator

from components.errors import BadInput

# What a run writes below its output folder.
_WRITTEN = ("runs", "pipeline_root", "pipeline_root/*", "checkpoints", "metadata.db", "serving", "serving/*")


@contextlib.contextmanager
def held(output: pathlib.Path) -> Iterator[None]:
    """Makes the output folder and keeps it for this process alone.

    Raises:
        BadInput: it is not writable, or another process holds it.
    """
    place = output
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = os.open(output / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        for place in (path for name in _WRITTEN for path in output.glob(name)):
            if not os.access(place, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(
            f"the output folder must be writable, but {place}: {reason}; name another with --output"
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadInput(
                f"one run at a time may use an output folder, and process {_owner(lock)} is using {output}; wait for "
                "it, or name another with --output"
            ) from None
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)


def holder(output: pathlib.Path) -> str | None:
    """The id of the process that holds an output folder, "unknown" where it did not say, None where nobody does."""
    try:
        lock = os.open(output / ".lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _owner(lock)
    finally:
        os.close(lock)
    return None


def _owner(lock: int) -> str:
    return os.pread(lock, 100, 0).decode(errors="replace").strip() or "unknown"
