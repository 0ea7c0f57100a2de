# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import tempfile

import numpy as np
import pytest

from components import array_store
from components.errors import ProjectError
from tests import memory

ARRAY = np.random.default_rng(1).random((50, 4, 3, 1), np.float32)
# Keeps 200 MB on disk, and says by how much the process has grown at its peak.
KEEPS = """
import numpy as np
from components import array_store
block = np.zeros((1000, 100, 100), np.uint8)
before = peak()
rows = array_store.store((block + number for number in range(20)), lambda: 20000, 0)
order = np.random.default_rng(1).permutation(20000)
for start in range(0, 20000, 100):
    part = rows[order[start : start + 100]]
    assert (part[:, 50, 50] == order[start : start + 100] // 1000).all()
print(type(rows).__name__, peak() - before)
"""


def blocks(size=16):
    return (ARRAY[start : start + size] for start in range(0, 50, size))


@pytest.fixture(params=[10**9, 1000, 0], ids=["memory", "begun in memory", "disk"])
def rows(request, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = array_store.store(blocks(), lambda: 50, request.param)
    assert isinstance(result, np.ndarray if request.param == 10**9 else array_store.DiskArray)
    assert list(tmp_path.iterdir()) == []  # nobody has to clear it away
    return result


@pytest.mark.parametrize(
    "numbers", [[49, 0, 7, 7, 31], [3, 4, 5, 9, 10, 2], [48, 49], []], ids=["any", "neighbours", "last", "none"]
)
def test_every_row_is_what_it_was(rows, numbers):
    indices = np.array(numbers, np.int64)
    assert (len(rows), rows.shape) == (50, ARRAY.shape)
    np.testing.assert_array_equal(rows[indices], ARRAY[indices], strict=True)


def test_a_row_that_is_not_there_is_no_row_of_something_else():
    rows = array_store.store(blocks(), lambda: 50, 0)
    with pytest.raises(OSError, match="the file of 50 rows ends within the 2 from 49 on"):
        rows[np.array([49, 50])]


def test_rows_of_another_kind_are_refused():
    for limit in (10**9, 0):
        with pytest.raises(ValueError, match=r"all blocks must be float32 of \(4, 3, 1\), not float64 of \(4, 3, 1\)"):
            array_store.store([ARRAY, ARRAY.astype(np.float64)], lambda: 100, limit)


def test_a_disk_without_room_is_said_before_anything_is_written(monkeypatch):
    monkeypatch.setattr(array_store, "_RESERVED_BYTES", 10**18)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: pytest.fail("a file was begun"))
    with pytest.raises(ProjectError, match=r"50 images need .* GB of disk .* GB free; free some, or .* TMPDIR"):
        array_store.store(blocks(), lambda: 50, 0)


def test_on_disk_the_process_does_not_grow_with_them():
    kind, grown = memory.measure(KEEPS)
    assert kind == "DiskArray"
    assert float(grown) < 60  # MB, of 200
