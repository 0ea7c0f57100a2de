# SPDX-License-Identifier: Apache-2.0
"""Arrays of one shape that are read again and again, by number: in memory, or in a file where they are too many."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from components.errors import ProjectError

# What is left free for whatever else a stage writes: the model, logs and checkpoints.
_ROOM_BYTES = 200 * 10**6


class ArrayRows(Protocol):
    """Arrays of one shape one below the other: an array of them, a file, or several as one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]: ...


class DiskArray:
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
            left, place = part.data.cast("B"), number * part[0].nbytes
            while left:
                if not (read := os.preadv(self._file.fileno(), [left], place)):
                    raise OSError(f"the file of {len(self):,} rows ends within the {len(part):,} from {number:,} on")
                left, place = left[read:], place + read
        return found


def store(blocks: Iterable[npt.NDArray[Any]], count: Callable[[], int], memory_bytes: int) -> ArrayRows:
    """Keeps rows in memory up to a limit, else in a file in the folder for temporary files.

    Args:
        blocks: at least one of [k, ...], of one type and of one shape but for k.
        count: says how many rows are in all of them; asked only where they are too many for memory.
        memory_bytes: the limit.

    Raises:
        ProjectError: if the disk has no room for them.
    """
    rest = iter(blocks)
    kept = next(rest, None)
    if kept is None:
        raise ValueError("there must be at least one block")
    kept = kept.copy(order="C")
    if kept.nbytes > memory_bytes:
        return _on_disk(kept, rest, count())
    for block in rest:
        if kept.nbytes + block.nbytes > memory_bytes:
            return _on_disk(kept, itertools.chain([block], rest), count())
        _expect(block, kept)
        # Grown in place: joining the blocks in the end would take all of them twice.
        done = len(kept)
        kept.resize((done + len(block), *block.shape[1:]), refcheck=False)
        kept[done:] = block
    return kept


def _on_disk(first: npt.NDArray[Any], rest: Iterable[npt.NDArray[Any]], count: int) -> DiskArray:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    needed = count * int(np.prod(first.shape[1:])) * first.itemsize + _ROOM_BYTES
    if free < needed:
        raise ProjectError(
            f"{count:,} images need {needed / 1e9:.1f} GB of disk while they are worked on, but {folder} has "
            f"{free / 1e9:.1f} GB free; free some, or have that folder on a larger disk (--output of runner_local.py, "
            "elsewhere TMPDIR)"
        )
    with contextlib.ExitStack() as undo:
        file = undo.enter_context(tempfile.TemporaryFile())
        file.write(first.data)
        first.resize((0, *first.shape[1:]), refcheck=False)  # it is on disk now
        for block in rest:
            _expect(block, first)
            file.write(np.ascontiguousarray(block).data)
        file.flush()
        undo.pop_all()
    return DiskArray(file, (count, *first.shape[1:]), first.dtype)


def _expect(block: npt.NDArray[Any], first: npt.NDArray[Any]) -> None:
    if (block.shape[1:], block.dtype) != (first.shape[1:], first.dtype):
        raise ValueError(
            f"all blocks must be {first.dtype} of {first.shape[1:]}, not {block.dtype} of {block.shape[1:]}"
        )
