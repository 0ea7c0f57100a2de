# SPDX-License-Identifier: Apache-2.0
"""A lock on an open file, which the kernel frees when the process ends."""

from __future__ import annotations

import fcntl
import pathlib

from components.errors import BadInput


def acquire(file: int, operation: int, folder: pathlib.Path, way_out: str) -> bool:
    """Takes a lock.

    Args:
        file: descriptor of the open file.
        operation: as of `fcntl.flock`; without LOCK_NB this waits.
        folder: that the lock is for, for the message.
        way_out: a sentence.

    Returns:
        False where somebody else holds the lock.

    Raises:
        BadInput: the file system has no locks, as some that are mounted over a network or from user space.
    """
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        raise BadInput(
            f"one process at a time may change {folder}, which takes a file lock, and its file system has none "
            f"({(error.strerror or str(error)).lower()}). {way_out}"
        ) from None
    return True
