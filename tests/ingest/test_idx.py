# SPDX-License-Identifier: Apache-2.0
import gzip
import hashlib
import pathlib
import re
import tempfile
import zlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from components.errors import BadInput
from components.ingest import idx

SHAPE = (3, 2)
IMAGES = np.arange(5 * 3 * 2, dtype=np.uint8).reshape(5, *SHAPE)
LABELS = np.array([3, 1, 4, 1, 5], np.uint8)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_what_was_written_is_read(suffix, tmp_path):
    idx.write(tmp_path / f"{idx.TRAIN_IMAGES}{suffix}", IMAGES)
    idx.write(tmp_path / f"{idx.TRAIN_LABELS}{suffix}", LABELS)

    images, labels = idx.read_pair(tmp_path, idx.TRAIN_IMAGES, idx.TRAIN_LABELS, SHAPE)

    assert images.array.dtype == labels.array.dtype == np.uint8
    np.testing.assert_array_equal(images.array, IMAGES)
    np.testing.assert_array_equal(labels.array, LABELS)
    # The digest is that of the contents, gzipped or not.
    contents = bytes.fromhex("00000803 00000005 00000003 00000002") + bytes(range(30))
    assert images.sha256 == hashlib.sha256(contents).hexdigest()
    assert images.path == tmp_path / f"{idx.TRAIN_IMAGES}{suffix}"
    assert labels.sha256 == hashlib.sha256(bytes.fromhex("00000801 00000005 0301040105")).hexdigest()


def test_a_gzip_is_written_the_same_each_time(tmp_path, monkeypatch):
    idx.write(tmp_path / "a.gz", IMAGES)
    monkeypatch.setattr("time.time", lambda: 2e9)
    idx.write(tmp_path / "b.gz", IMAGES)

    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


@pytest.mark.parametrize("array", [np.zeros((2, 3), np.uint8), np.zeros(3, np.int64)])
def test_only_bytes_of_one_or_three_dimensions_are_written(array, tmp_path):
    with pytest.raises(ValueError, match="uint8 of 1 or 3 dimensions"):
        idx.write(tmp_path / "x", array)


def test_a_missing_file_names_what_is_there_instead(tmp_path):
    (tmp_path / "train-images.idx3-ubyte").write_bytes(b"")

    with pytest.raises(BadInput, match=r"found only train-images\.idx3-ubyte"):
        idx.find(tmp_path, idx.TRAIN_IMAGES)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"folder: expected a readable folder .* found no such file"):
        idx.find(tmp_path / "nowhere", idx.TRAIN_IMAGES)


# What a mutation does to the bytes of a file: overwrite some, mostly in the header; cut off; append; or nothing.
overwrite = st.tuples(
    st.just("overwrite"), st.one_of(st.integers(0, 16), st.integers(0, 80)), st.binary(min_size=1, max_size=4)
)
truncate = st.tuples(st.just("truncate"), st.integers(0, 80), st.just(b""))
append = st.tuples(st.just("append"), st.just(0), st.binary(max_size=8))
mutations = st.lists(st.one_of(overwrite, truncate, append), max_size=3)


def mutate(data: bytes, steps) -> bytes:
    for kind, position, new in steps:
        if kind == "overwrite":
            data = data[:position] + new + data[position + len(new) :]
        elif kind == "truncate":
            data = data[:position]
        else:
            data += new
    return data


def parse(data: bytes, dimensions: int) -> np.ndarray | None:
    """Reads a file by the definition of the format; None where it must be refused."""
    count = int.from_bytes(data[4:8], "big")
    shape = (count, *SHAPE)[:dimensions]
    if data[: 4 + 4 * dimensions] != idx.header(shape) or count == 0:
        return None
    body = data[4 + 4 * dimensions :]
    return np.frombuffer(body, np.uint8).reshape(shape) if len(body) == np.prod(shape) else None


@hypothesis.settings(max_examples=800, deadline=None)
@hypothesis.given(labels=st.booleans(), zipped=st.booleans(), inner=mutations, outer=mutations)
@hypothesis.example(labels=False, zipped=False, inner=[], outer=[])
@hypothesis.example(labels=True, zipped=True, inner=[], outer=[])
# Zeros after a gzip stream are padding, as gzip(1) has it.
@hypothesis.example(labels=True, zipped=True, inner=[], outer=[("append", 0, bytes(8))])
def test_a_mutated_file_is_refused_or_read_rightly(labels, zipped, inner, outer):
    dimensions, array = (1, LABELS) if labels else (3, IMAGES)
    data = mutate(idx.header(array.shape) + array.tobytes(), inner)
    stored = mutate(gzip.compress(data, mtime=0), outer) if zipped else data
    try:
        expected = parse(gzip.decompress(stored) if zipped else stored, dimensions)
    except (OSError, EOFError, zlib.error):
        expected = None

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "file.gz" if zipped else "file")
        path.write_bytes(stored)
        array_read, message = None, ""
        try:
            array_read = (idx.read_labels(path) if labels else idx.read_images(path, SHAPE)).array
        except BadInput as refusal:
            message = str(refusal)
    if expected is None:
        assert array_read is None, "a bad file is read"
        assert message.isprintable()
        assert message.startswith(str(path))
        assert re.search(r": expected .+, found .+\. ", message)
    else:
        assert array_read is not None, f"a good file is refused: {message}"
        np.testing.assert_array_equal(array_read, expected)
