# SPDX-License-Identifier: Apache-2.0
"""Chooses and reads the data of a run: the folder, the span in it, and the data set that its contents are.

A data set is known by its contents: `mnist` and `digits` are names of SHA-256 digests, and anything else is `custom`
or bears the name of its profile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import platformdirs

from components import storage
from components.errors import BadInput
from components.ingest import digits, download, idx, remote

AUTO, MNIST, DIGITS, CUSTOM = "auto", "mnist", "digits", "custom"
_DIGESTS: Mapping[str, Mapping[str, str]] = {MNIST: download.DIGESTS, DIGITS: digits.DIGESTS}
_SPAN = re.compile(r"span-(\d+)")
_ABOUT_DIGITS = "the 1,797 digits that come with scikit-learn"
# Images and labels of a data set that stay in memory between `resolve` and ingest; MNIST takes 55 MB.
_CACHED_BYTES = 256 * 2**20

_CLOCK_NS = 2 * 10**9  # the coarsest resolution of a file system's modification times

Contents = Mapping[str, idx.Contents]  # by the base name of the file


@dataclasses.dataclass(frozen=True)
class Source:
    """One data set that was read and is valid.

    Attributes:
        name: `mnist`, `digits`, `custom` or the name of a profile.
        data_dir: the folder as configured, which may hold spans: an absolute path or a URL.
        span: number of the span that was read, None where the folder has none.
        directory: the folder with the four files, likewise.
        digests: base name of each file -> SHA-256 of its decompressed contents, in the order of `idx.FILES`.
        sha256: SHA-256 of the data set: of the four hex digests, one after the other in that order.
        train_images: number of images in the training files.
        test_images: number of images in the test files.
    """

    name: str
    data_dir: str
    span: int | None
    directory: str
    digests: Mapping[str, str]
    sha256: str
    train_images: int
    test_images: int

    @property
    def images(self) -> int:
        return self.train_images + self.test_images


class DatasetChoice(NamedTuple):
    """The data set that a run uses, and one plain sentence that names it and the reason."""

    source: Source
    sentence: str


class ContentsCache:
    """The data set that this process read last, so that a run reads and hashes its files once.

    Files count as unchanged while their paths, sizes, modification times and inodes are the same; not so in the first
    seconds after a change, when another may get the same time.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._key: object = None
        self._contents: Contents = {}

    def read(self, folder: pathlib.Path, image_shape: tuple[int, int]) -> Contents:
        """Returns the contents of the four files of a folder.

        Raises:
            BadInput: a file is refused.
        """
        with self._lock:
            files = idx.identities(folder)
            key = files, image_shape
            recent = any(abs(time.time_ns() - file.mtime_ns) < _CLOCK_NS for file in files)
            if not self._contents or self._key != key or recent:
                self.clear()
                contents: dict[str, idx.Contents] = {}
                for pair in ((idx.TRAIN_IMAGES, idx.TRAIN_LABELS), (idx.TEST_IMAGES, idx.TEST_LABELS)):
                    contents.update(zip(pair, idx.read_pair(folder, *pair, image_shape), strict=True))
                self._key, self._contents = key, contents
            return self._contents

    def find(self, sha256: str) -> Contents | None:
        """Returns the contents of a data set by its SHA-256, None where they are not cached."""
        with self._lock:
            return self._contents if self._contents and _sha256(self._contents) == sha256 else None

    def clear(self, limit: int = 0) -> None:
        """Drops the contents if they take more than so many bytes."""
        with self._lock:
            if sum(contents.array.nbytes for contents in self._contents.values()) > limit:
                self._key, self._contents = None, {}


cache = ContentsCache()


@contextlib.contextmanager
def _bounded_cache() -> Iterator[None]:
    """Leaves no large data set in the cache."""
    try:
        yield
    finally:
        cache.clear(_CACHED_BYTES)


@_bounded_cache()
def resolve(
    dataset: str = AUTO,
    data_dir: str | os.PathLike[str] | None = None,
    span: int | None = None,
    production_dataset: str | None = None,
    *,
    image_shape: tuple[int, int],
    custom_name: str = CUSTOM,
    cache_dir: str | os.PathLike[str] | None = None,
    mirrors: Sequence[str] = download.MIRRORS,
    progress: download.Progress | None = None,
) -> DatasetChoice:
    """Chooses the data of a run and reads it, so that bad input is refused before any work.

    `auto` is the data set of the model in production; without one MNIST, if it is cached or a mirror responds within
    `download.RESPONSE_SECONDS`; else the digits.

    Args:
        dataset: `auto`, `mnist` or `digits`.
        data_dir: folder with the four IDX files or with spans, or its URL (`remote`); no connection is made for a
            folder.
        span: number of the span to read; the newest where None.
        production_dataset: name of the data set that the model in production was trained on, None without a model.
        image_shape: height and width in pixels that every image must have.
        custom_name: name for a data set that is neither `mnist` nor `digits`.
        cache_dir: folder for downloads and the digits; the user's cache folder where None.
        mirrors: base URLs for MNIST, tried in order.
        progress: called during a download with the bytes received and in total.

    Raises:
        BadInput: the files are refused or cannot be downloaded, or the arguments contradict each other.
    """
    if dataset not in (AUTO, *_DIGESTS):
        raise BadInput(f"--dataset takes auto, mnist or digits; received {dataset!r}. Name your own data by a profile.")
    if data_dir is not None:
        source, _ = load(data_dir, span, image_shape, dataset if dataset != AUTO else custom_name)
        span_text = f", span {source.span}" if source.span is not None else ""
        return DatasetChoice(source, f"Data set {source.name}: the files in {source.data_dir}{span_text}.")
    if span is not None:
        raise BadInput(f"--span chooses among the spans of a --data-dir; received --span {span} without --data-dir.")
    if image_shape != download.IMAGE_SHAPE:
        raise BadInput(
            f"mnist and digits have images of 28x28; components/features.py sets IMAGE_SHAPE to {image_shape}. "
            "Give your own files with --data-dir."
        )
    folder = pathlib.Path(cache_dir) if cache_dir is not None else default_cache_dir()
    if dataset == AUTO and production_dataset is not None:
        if production_dataset not in _DIGESTS:
            raise BadInput(
                f"auto uses the data set of the model in production, which is {production_dataset!r}: give its files "
                "with --data-dir, or name another data set with --dataset and --allow dataset-changed."
            )
        dataset, reason = production_dataset, "the model in production was trained on it"
    else:
        reason = "as requested"
    if dataset == DIGITS:
        return DatasetChoice(_digits(folder), f"Data set digits, {_ABOUT_DIGITS}: {reason}.")
    if (cached := _cached(folder, MNIST)) is not None:
        reason = "it is cached" if dataset == AUTO else reason
        return DatasetChoice(cached, f"Data set mnist, from {cached.directory}: {reason}.")
    if dataset == MNIST:
        download.fetch(folder / MNIST, mirrors=mirrors, progress=progress)
        return DatasetChoice(_load(folder, MNIST), f"Data set mnist, downloaded into {folder / MNIST}: {reason}.")
    try:
        download.fetch(folder / MNIST, mirrors=download.order_mirrors(mirrors), progress=progress)
    except download.MirrorsFailedError as error:
        return DatasetChoice(
            _digits(folder),
            f"Data set digits, {_ABOUT_DIGITS}, and NOT MNIST: it is not cached, and no mirror delivers it: "
            f"{error.reasons}. For MNIST, give --data-dir DIR or --dataset mnist.",
        )
    return DatasetChoice(_load(folder, MNIST), f"Data set mnist, downloaded into {folder / MNIST}.")


def load(
    data_dir: str | os.PathLike[str], span: int | None, image_shape: tuple[int, int], name: str = CUSTOM
) -> tuple[Source, Contents]:
    """Reads the four files of a folder, or of a span in it, strictly.

    Files that this process read last and that are unchanged are not read again (`cache`).

    Args:
        data_dir: folder with the four IDX files, or with folders `span-N` that hold them; or the URL of one. A web
            server has no listing, so it cannot have spans.
        span: number of the span to read; the newest where None.
        image_shape: height and width in pixels that every image must have.
        name: `mnist` or `digits`, which the contents must then be; any other is for contents that are neither.

    Returns:
        The source, and the contents of each file by its base name.

    Raises:
        BadInput: the folder, the span or a file is refused, or the contents are not those of `name`.
    """
    url = remote.check_url(os.fspath(data_dir)) if storage.is_url(data_dir) else None
    base = url or str(pathlib.Path(data_dir).expanduser().absolute())
    number, folder = _choose_span(base, remote.entries(url) if url else _entries(pathlib.Path(base)), span)
    directory = f"{base}/{folder}" if folder else base
    with remote.local_copy(directory) if url else contextlib.nullcontext(pathlib.Path(directory)) as local:
        contents = cache.read(local, image_shape)
        digests = {file: contents[file].sha256 for file in idx.FILES}
        public_name = next((candidate for candidate, expected in _DIGESTS.items() if digests == expected), None)
        if name in _DIGESTS and public_name != name:
            file = next(file for file in idx.FILES if digests[file] != _DIGESTS[name][file])
            idx.refuse(
                contents[file].path,
                "SHA-256 of the contents",
                f"{_DIGESTS[name][file]}, that of {name}",
                digests[file],
                f"The name {name} is reserved for those very files: leave --dataset out.",
            )
    source = Source(
        name=public_name or name,
        data_dir=base,
        span=number,
        directory=directory,
        digests=digests,
        sha256=_sha256(contents),
        train_images=len(contents[idx.TRAIN_LABELS].array),
        test_images=len(contents[idx.TEST_LABELS].array),
    )
    return source, contents


def _sha256(contents: Contents) -> str:
    """Returns `Source.sha256`."""
    return hashlib.sha256("".join(contents[file].sha256 for file in idx.FILES).encode()).hexdigest()


def find_span(data_dir: pathlib.Path, span: int | None) -> tuple[int | None, pathlib.Path]:
    """Finds the folder of a span: its number, None without spans, and its path.

    Raises:
        BadInput: there is no such span, two folders have the same number, or files stand beside the spans.
    """
    number, folder = _choose_span(str(data_dir), _entries(data_dir), span)
    return number, data_dir / folder if folder else data_dir


def _entries(data_dir: pathlib.Path) -> list[str]:
    try:
        return sorted(entry.name for entry in data_dir.iterdir())
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        idx.refuse(data_dir, "folder", "a readable folder with the four IDX files", reason, "Check --data-dir.")


def _choose_span(base: str, entries: Sequence[str] | None, span: int | None) -> tuple[int | None, str | None]:
    """Number and name of a span's folder among the entries of a folder; neither where it has no spans."""
    if entries is None:
        if span is not None:
            way_out = "Give the address of the span's own folder."
            idx.refuse(base, "span", "a folder that can be listed", "a web server", way_out)
        return None, None
    spans: dict[int, str] = {}
    for entry in entries:
        if match := _SPAN.fullmatch(entry):
            number = int(match[1])
            if number in spans:
                idx.refuse(base, f"span {number}", "one folder", f"{spans[number]} and {entry}", "Remove one.")
            spans[number] = entry
    if not spans:
        if span is not None:
            idx.refuse(base, "span", f"a folder span-{span}", "no folder span-N", "Leave --span out.")
        return None, None
    beside = [entry for entry in entries if entry.removesuffix(".gz") in idx.FILES]
    if beside:
        mixture = f"{beside[0]} beside {', '.join(spans.values())}"
        idx.refuse(base, "folder", "either IDX files or spans", mixture, "Move the files into a span of their own.")
    number = max(spans) if span is None else span
    if number not in spans:
        listed = ", ".join(map(str, sorted(spans)))
        idx.refuse(base, "span", f"a folder span-{number}", f"spans {listed}", "Name one of them with --span.")
    return number, spans[number]


def default_cache_dir() -> pathlib.Path:
    """The user's cache folder for this project, such as ~/.cache/mnist-tfx."""
    return pathlib.Path(platformdirs.user_cache_dir("mnist-tfx"))


def _cached(folder: pathlib.Path, name: str) -> Source | None:
    """Returns a data set of the cache folder, None where it is missing or damaged."""
    try:
        return _load(folder, name)
    except BadInput:
        return None


def _load(folder: pathlib.Path, name: str) -> Source:
    return load(folder / name, None, download.IMAGE_SHAPE, name)[0]


def _digits(folder: pathlib.Path) -> Source:
    source = _cached(folder, DIGITS)
    if source is None:
        digits.write(folder / DIGITS)
        source = _load(folder, DIGITS)
    return source
