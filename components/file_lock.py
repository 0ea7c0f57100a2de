# SPDX-License-Identifier: Apache-2.0
"""A lock on an open file, which the kernel frees when the process ends."""

from __future__ import annotations

import fcntl
import pathlib

from components.errors import BadInput


def acquire(file: int, operation: int, folder: pathlib.Path, way_out: str) -> bool:
    """Acquires a lock.

    Args:
        file: descriptor of the open file.
        operation: as of `fcntl.flock`; without LOCK_NB this waits.
        folder: the folder that the lock protects, for the message.
        way_out: a sentence of advice, for the message.

    Returns:
        False if another process holds the lock.

    Raises:
        BadInput: the file system has no locks, like some network and user-space file systems.
    """
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        raise BadInput(
            f"only one process may change {folder} at a time, which needs a file lock, but its file system has none "
            f"({(error.strerror or str(error)).lower()}). {way_out}"
        ) from None
    return True
