# SPDX-License-Identifier: Apache-2.0
"""Arrays of one shape that are read again and again, by number: in memory, or in a file where they are too many."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from components.errors import ProjectError

# What is left free for whatever else a stage writes: the model, logs and checkpoints.
_ROOM_BYTES = 200 * 10**6


class Rows(Protocol):
    """Arrays of one shape one below the other: an array of them, a file, or several as one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]: ...


class OnDisk:
    """Rows in a file that nobody else sees and that goes with the process, however that ends.

    Read with `pread`: a map of the file would count as memory of the process. Several threads may read at a time.
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._file, self._shape, self._dtype = file, shape, np.dtype(dtype)

    def __del__(self) -> None:
        self._file.close()

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        found = np.empty((len(numbers), *self._shape[1:]), self._dtype)
        if not len(numbers):
            return found
        # Neighbours are read at once.
        starts = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
        for part, number in zip(np.split(found, starts[1:]), numbers[starts].tolist(), strict=True):
            if os.preadv(self._file.fileno(), [part.data], number * part[0].nbytes) != part.nbytes:
                raise OSError(f"the file of {len(self):,} rows ends within the {len(part):,} from {number:,} on")
        return found


def keep(blocks: Iterable[npt.NDArray[Any]], count: int, memory_bytes: int) -> Rows:
    """Keeps rows in memory up to a limit, else in a file in the folder for temporary files.

    Args:
        blocks: at least one of [k, ...], all of one type and of one shape but for k.
        count: rows in all of them.
        memory_bytes: the limit.

    Raises:
        ProjectError: if the disk has no room for them.
    """
    store: npt.NDArray[Any] | IO[bytes] | None = None
    done = 0
    for block in blocks:
        if store is None:
            shape, dtype = (count, *block.shape[1:]), block.dtype
            size = count * int(np.prod(shape[1:])) * dtype.itemsize
            store = np.empty(shape, dtype) if size <= memory_bytes else _file(count, size)
        if isinstance(store, np.ndarray):
            store[done : done + len(block)] = block
        else:
            store.write(np.ascontiguousarray(block).data)
        done += len(block)
    if store is None:
        raise ValueError("there must be at least one block")
    if isinstance(store, np.ndarray):
        return store
    store.flush()
    return OnDisk(store, shape, dtype)


def _file(count: int, size: int) -> IO[bytes]:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size + _ROOM_BYTES:
        raise ProjectError(
            f"{count:,} images need {(size + _ROOM_BYTES) / 1e9:.1f} GB of disk while they are worked on, but "
            f"{folder} has {free / 1e9:.1f} GB free; free some, or have that folder on a larger disk (--output of "
            "runner_local.py, elsewhere TMPDIR)"
        )
    return tempfile.TemporaryFile(dir=folder)
