# SPDX-License-Identifier: Apache-2.0
"""Arrays of one shape that are read by number many times: in memory, or in a file if they are too large."""

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

# Disk space reserved for the other files of a stage: the model, logs and checkpoints.
_RESERVED_BYTES = 200 * 10**6


class ArrayRows(Protocol):
    """Stacked arrays of one shape: in an array, in a file, or in several of these."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]: ...


class DiskArray:
    """Rows in an unnamed file, which disappears with the process.

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
        rows = np.empty((len(numbers), *self._shape[1:]), self._dtype)
        if not len(numbers):
            return rows
        # Neighbours are read at once.
        starts = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
        for part, number in zip(np.split(rows, starts[1:]), numbers[starts].tolist(), strict=True):
            buffer, offset = part.data.cast("B"), number * part[0].nbytes
            while buffer:
                if not (read := os.preadv(self._file.fileno(), [buffer], offset)):
                    raise OSError(f"the file of {len(self):,} rows ends within the {len(part):,} from {number:,} on")
                buffer, offset = buffer[read:], offset + read
        return rows


def store(blocks: Iterable[npt.NDArray[Any]], count: Callable[[], int], memory_bytes: int) -> ArrayRows:
    """Stores rows in memory up to a limit, else in a file in the folder for temporary files.

    Args:
        blocks: at least one of [k, ...], of one type and, except for k, of one shape.
        count: returns the number of rows in all blocks; called only if memory does not suffice.
        memory_bytes: the limit.

    Raises:
        ProjectError: if the disk has no room for them.
    """
    rest = iter(blocks)
    first = next(rest, None)
    if first is None:
        raise ValueError("there must be at least one block")
    rows = first.copy(order="C")
    if rows.nbytes > memory_bytes:
        return _on_disk(rows, rest, count())
    for block in rest:
        if rows.nbytes + block.nbytes > memory_bytes:
            return _on_disk(rows, itertools.chain([block], rest), count())
        _expect(block, rows)
        # Grown in place: joining the blocks in the end would take twice the memory.
        count_before = len(rows)
        rows.resize((count_before + len(block), *block.shape[1:]), refcheck=False)
        rows[count_before:] = block
    return rows


def _on_disk(first: npt.NDArray[Any], rest: Iterable[npt.NDArray[Any]], count: int) -> DiskArray:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    needed = count * int(np.prod(first.shape[1:])) * first.itemsize + _RESERVED_BYTES
    if free < needed:
        raise ProjectError(
            f"{count:,} images need {needed / 1e9:.1f} GB of disk during the run, but {folder} has "
            f"{free / 1e9:.1f} GB free; free some, or move that folder to a larger disk (--output of "
            "runner_local.py, TMPDIR elsewhere)"
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
