# SPDX-License-Identifier: Apache-2.0
"""Strict reading and writing of IDX, the format of the MNIST files (http://yann.lecun.com/exdb/mnist/).

An IDX file is a header and then unsigned bytes: two zero bytes, the element type (8), the number of dimensions, one
big-endian uint32 for each dimension, and the elements row by row. A file may be gzipped, and then ends in ".gz".

The reader trusts nothing. A header is held against the shape that the caller expects, against `MAX_BYTES` and against
the size of the file before anything is allocated; gzip is decompressed in chunks and never further than one byte past
what the header promises. A file that breaks a rule is refused with one line: file, field, rule, value, way out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import os
import pathlib
import stat
import struct
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from components.errors import BadInput
from components.ingest import file_names

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
# The canonical order of the four files of a data set.
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)

# Most bytes that one file may hold, header included. A data set is held in memory, so this bounds what a file may cost;
# 1 GiB is 1.3 million images of 28x28.
MAX_BYTES = 2**30

_UNSIGNED_BYTE = 8
_ELEMENT_TYPES = {8: "unsigned byte", 9: "signed byte", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
_CHUNK_BYTES = 2**20
_GZIP_MAGIC = b"\x1f\x8b"
# Deflate's densest code is two bits for 258 bytes, so no stream grows by more (https://zlib.net/zlib_tech.html).
_MAX_DEFLATE_RATIO = 1032


@dataclasses.dataclass(frozen=True)
class Contents:
    """The contents of one IDX file.

    Attributes:
        path: the file that was read.
        array: uint8, [count, height, width] of an images file, [count] of a labels file.
        sha256: hex digest of the decompressed file, header included.
    """

    path: pathlib.Path
    array: npt.NDArray[np.uint8]
    sha256: str


def find(directory: str | os.PathLike[str], name: str) -> list[pathlib.Path]:
    """Finds an IDX file by its base name: plain, with ".gz", or both.

    Raises:
        BadInput: the folder cannot be read, or it holds neither of the two.
    """
    folder = pathlib.Path(directory)
    try:
        entries = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        refuse(folder, "folder", "a readable folder with the four IDX files", _reason(error), "Check --data-dir.")

    def below(path: str) -> list[str] | None:
        try:
            return sorted(entry.name for entry in (folder / path).iterdir())
        except OSError:
            return None

    return [folder / candidate for candidate in present(folder, name, entries, below)]


class Identity(NamedTuple):
    """A file in one state: changing or replacing it gives it another identity."""

    path: str
    size: int
    mtime_ns: int
    inode: int


def identities(directory: str | os.PathLike[str]) -> tuple[Identity, ...]:
    """Returns the identity of each IDX file that a folder holds, in the order of `FILES`."""
    identities = []
    for name in FILES:
        for path in (pathlib.Path(directory, name), pathlib.Path(directory, f"{name}.gz")):
            with contextlib.suppress(OSError):
                status = path.stat()
                identities.append(Identity(str(path), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(identities)


def present(
    directory: str | os.PathLike[str], name: str, entries: Collection[str], below: Callable[[str], list[str] | None]
) -> list[str]:
    """The entries of a folder or URL that are an IDX file: of its base name, plain or with ".gz", or both.

    Args:
        directory: the folder or URL, for the message.
        name: base name.
        entries: names of what is in it.
        below: lists what is in a folder in it, None for what is no folder.

    Raises:
        BadInput: neither is there.
    """

    def files_of(base: str) -> list[str]:
        return [entry for entry in (base, f"{base}.gz") if entry in entries and below(entry) is None]

    files = files_of(name)
    if not files:
        missing = [other for other in FILES if not files_of(other)]
        actual, way_out = file_names.file_name_advice(directory, missing, entries, below)
        refuse(directory, name, f"{name} or {name}.gz", actual, way_out)
    return files


def read_images(path: str | os.PathLike[str], image_shape: tuple[int, int]) -> Contents:
    """Reads an images file.

    Args:
        path: the file; gzipped where its name ends in ".gz".
        image_shape: height and width in pixels that every image must have.

    Raises:
        BadInput: anything is wrong with the file.
    """
    return _read(pathlib.Path(path), tuple(image_shape))


def read_labels(path: str | os.PathLike[str]) -> Contents:
    """Reads a labels file. A label may be any byte: whether there is such a class is the data gate's question.

    Raises:
        BadInput: anything is wrong with the file.
    """
    return _read(pathlib.Path(path), ())


def read_pair(
    directory: str | os.PathLike[str], images_name: str, labels_name: str, image_shape: tuple[int, int]
) -> tuple[Contents, Contents]:
    """Reads an images file and its labels from a folder.

    Raises:
        BadInput: one is missing or wrong, or they differ in number.
    """
    images_paths, labels_paths = find(directory, images_name), find(directory, labels_name)
    # The labels first: they are small, and where they are wrong nothing else needs to be read.
    labels = _same([read_labels(path) for path in labels_paths])
    images = _same([read_images(path, image_shape) for path in images_paths])
    if len(images.array) != len(labels.array):
        way_out = f"Take both files from the same data set: {images.path.name} holds {len(images.array)} images."
        refuse(labels.path, "count", f"{len(images.array)} labels", f"{len(labels.array)} labels", way_out)
    return images, labels


def _same(contents: Sequence[Contents]) -> Contents:
    """The first, where all are the same: a file may lie there plain and gzipped, as torchvision leaves it."""
    first = contents[0]
    for other in contents[1:]:
        if other.sha256 != first.sha256:
            way_out = "Remove the one that is wrong."
            refuse(first.path, "contents", f"those of {other.path.name} beside it", "different contents", way_out)
    return first


def write(path: str | os.PathLike[str], array: npt.NDArray[np.uint8]) -> None:
    """Writes an IDX file, gzipped where the name ends in ".gz". The same array gives the same bytes.

    Args:
        path: the file to write.
        array: uint8, of one dimension (labels) or three (images).
    """
    if array.dtype != np.uint8 or array.ndim not in (1, 3):
        raise ValueError(f"An IDX file here holds uint8 of 1 or 3 dimensions; received {array.dtype} of {array.ndim}.")
    data = header(array.shape) + np.ascontiguousarray(array).tobytes()
    target = pathlib.Path(path)
    target.write_bytes(gzip.compress(data, mtime=0) if target.name.endswith(".gz") else data)


def header(shape: tuple[int, ...]) -> bytes:
    """The IDX header of an array of unsigned bytes."""
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, _UNSIGNED_BYTE, len(shape), *shape)


def refuse(path: str | os.PathLike[str], field: str, expected: str, actual: str, way_out: str) -> NoReturn:
    """Raises `BadInput` with the one line that every refused file gets."""
    line = f"{os.fspath(path)}: {field}: expected {expected}, found {actual}. {way_out}"
    raise BadInput("".join(c if c.isprintable() else repr(c)[1:-1] for c in line)) from None


def _read(path: pathlib.Path, item_shape: tuple[int, ...]) -> Contents:
    with _open(path) as (stream, file_size, gzipped):
        magic = _take(path, stream, 4)
        _check_magic(path, magic, 1 + len(item_shape))
        sizes = _take(path, stream, 4 * (1 + len(item_shape)))
        if len(sizes) < 4 * (1 + len(item_shape)):
            expected, actual = f"{4 + 4 * (1 + len(item_shape))} bytes", f"{4 + len(sizes)} bytes, cut off"
            refuse(path, "header", expected, actual, "Fetch or write the file again.")
        count, *shape = struct.unpack(f">{1 + len(item_shape)}I", sizes)
        _check_shape(path, tuple(shape), item_shape)
        head = magic + sizes
        expected_size = len(head) + count * int(np.prod(item_shape, dtype=object))
        _check_count(path, count, expected_size, file_size, gzipped)
        data = bytearray(head)
        while len(data) <= expected_size:
            chunk = _take(path, stream, min(_CHUNK_BYTES, expected_size + 1 - len(data)))
            if not chunk:
                break
            data += chunk
    if len(data) != expected_size:
        actual = f"{len(data)} bytes, cut off" if len(data) < expected_size else "more bytes after them"
        refuse(path, "size", _size_words(count, expected_size), actual, "Fetch or write the file again.")
    array = np.frombuffer(data, np.uint8, offset=len(head)).reshape(count, *item_shape)
    return Contents(path, array, hashlib.sha256(data).hexdigest())


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[tuple[io.BufferedIOBase, int, bool]]:
    """Yields the file's (decompressed) bytes as a stream, its size on disk and whether it is gzipped."""
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer, for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        refuse(path, "file", "a readable regular file", _reason(error), "Check the file and its permissions.")
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        refuse(path, "file", "a regular file", _kind(status.st_mode), "Put the IDX file itself there.")
    with os.fdopen(descriptor, "rb") as raw:
        if status.st_size == 0:
            refuse(path, "size", "an IDX header", "an empty file (0 bytes)", "Fetch or write the file again.")
        if not path.name.endswith(".gz"):
            yield raw, status.st_size, False
            return
        start = raw.read(16)
        if start[:2] != _GZIP_MAGIC:
            way_out = f"If it is an IDX file as it is, name it {path.name.removesuffix('.gz')}; else fetch it again."
            refuse(path, "gzip magic", "bytes 1f 8b", _bytes_words(start), way_out)
        raw.seek(0)
        with gzip.GzipFile(fileobj=raw) as unzipped:
            yield unzipped, status.st_size, True


def _take(path: pathlib.Path, stream: io.BufferedIOBase, size: int) -> bytes:
    """Reads `size` bytes, fewer only at the end of the stream."""
    try:
        return stream.read(size)
    except EOFError:
        refuse(path, "gzip", "a complete stream", "one that is cut off", "Fetch the file again.")
    except gzip.BadGzipFile as error:
        reason = str(error)
        if reason.startswith("CRC"):
            refuse(path, "gzip CRC", "the checksum of the contents", "another one", "Fetch the file again.")
        if reason.startswith("Incorrect length"):
            refuse(path, "gzip length", "the length of the contents", "another one", "Fetch the file again.")
        if reason.startswith("Not a gzipped"):
            refuse(path, "gzip", "nothing after the stream", "other bytes after it", "Fetch the file again.")
        refuse(path, "gzip header", "a deflate stream", reason, "Fetch the file again.")
    except zlib.error as error:
        refuse(path, "gzip", "a valid deflate stream", f"a damaged one ({error})", "Fetch the file again.")
    except OSError as error:
        refuse(path, "file", "a readable regular file", _reason(error), "Check the file and its disk.")


def _check_magic(path: pathlib.Path, magic: bytes, dimensions: int) -> None:
    expected = f"00 00 08 {dimensions:02x} (unsigned bytes, {_dimensions(dimensions)})"
    if len(magic) < 4:
        actual, way_out = f"{len(magic)} bytes", "Fetch or write the file again."
    elif magic[:2] == _GZIP_MAGIC:
        actual, way_out = "a gzip file", f"Name it {path.name}.gz."
    elif magic[2:] == b"\0\0" and magic[1] == _UNSIGNED_BYTE:
        actual, way_out = f"{magic.hex(' ')}, a little-endian header", "Write the header in big-endian order."
    elif magic[:2] != b"\0\0":
        actual, way_out = _bytes_words(magic), "This is no IDX file; fetch it again."
    elif magic[2] != _UNSIGNED_BYTE:
        kind = _ELEMENT_TYPES.get(magic[2], "unknown")
        actual = f"{magic.hex(' ')}, element type {kind}, {_dimensions(magic[3])}"
        way_out = _as_bytes(magic[3], dimensions)
    elif magic[3] != dimensions:
        kind = {1: ", a labels file", 3: ", an images file"}.get(magic[3], "")
        actual, way_out = f"{magic.hex(' ')}, {_dimensions(magic[3])}{kind}", "Check which file has which name."
    else:
        return
    refuse(path, "magic number", expected, actual, way_out)


def _as_bytes(dimensions: int, expected: int) -> str:
    """The way out for elements that are no unsigned bytes, by the dimensions of the file and those it must have."""
    if dimensions != expected and dimensions in (1, 3):
        return "Check which file has which name."
    if expected == 3:
        return "Write the pixels as unsigned bytes, 0 to 255."
    if dimensions == 2:  # as in QMNIST: class, series, writer, and more
        return "Write the labels alone, the first number of each image, as unsigned bytes."
    return "Write the labels as unsigned bytes, one for each image."


def _check_shape(path: pathlib.Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape == expected:
        return
    way_out = "Rescale the images, or set IMAGE_SHAPE in components/features.py to your own."
    actual = " rows x ".join(map(str, shape)) + " columns"
    if 0 in shape:
        actual, way_out = actual + ", an image without pixels", "Write the file again."
    elif tuple(map(_swapped, shape)) == expected:
        actual, way_out = actual + ", a little-endian header", "Write the header in big-endian order."
    refuse(path, "image shape", " rows x ".join(map(str, expected)) + " columns", actual, way_out)


def _check_count(path: pathlib.Path, count: int, expected_size: int, file_size: int, gzipped: bool) -> None:
    """Holds the promised count against the file before anything is allocated for it."""
    again = "Fetch or write the file again."
    if _swapped(count) < count and _swapped(count) < 2**24:
        again = f"A little-endian header would say {_swapped(count)}: if so, write it in big-endian order."
    if count == 0:
        refuse(path, "count", "at least 1", "0", again)
    if expected_size > MAX_BYTES:
        refuse(path, "count", f"a file of at most {MAX_BYTES} bytes", f"{count} items, {expected_size} bytes", again)
    if not gzipped and file_size != expected_size:
        kind = "cut off" if file_size < expected_size else "with trailing bytes"
        refuse(path, "size", _size_words(count, expected_size), f"{file_size} bytes, {kind}", again)
    if gzipped and expected_size > _MAX_DEFLATE_RATIO * file_size:
        actual = f"{count} promised in a .gz of {file_size} bytes, cut off"
        refuse(path, "count", f"at most {_MAX_DEFLATE_RATIO * file_size} bytes of contents", actual, again)


def _size_words(count: int, size: int) -> str:
    return f"{size} bytes for the {count} items of the header"


def _dimensions(number: int) -> str:
    return f"{number} dimension" if number == 1 else f"{number} dimensions"


def _bytes_words(data: bytes) -> str:
    if data.lstrip()[:1] == b"<":
        return f"{data[:16]!r}, a web page (a mirror's error page, or a network's login page)"
    return f"{data[:4].hex(' ')}"


def _swapped(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "little"), "big")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
