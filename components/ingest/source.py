# SPDX-License-Identifier: Apache-2.0
"""Finds the data that is to be read: which folder, which span, and which data set it really is.

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
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import platformdirs

from components import storage
from components.errors import BadInput
from components.ingest import digits, download, idx, remote

AUTO, MNIST, DIGITS, CUSTOM = "auto", "mnist", "digits", "custom"
_KNOWN: Mapping[str, Mapping[str, str]] = {MNIST: download.DIGESTS, DIGITS: digits.DIGESTS}
_SPAN = re.compile(r"span-(\d+)")


@dataclasses.dataclass(frozen=True)
class Source:
    """One data set that was found and read without complaint.

    Attributes:
        name: `mnist`, `digits`, `custom` or the name of a profile.
        data_dir: the folder that was given, which may hold spans: an absolute path or a URL.
        span: number of the span that was taken, None where the folder has none.
        directory: the folder with the four files, likewise.
        digests: base name of each file -> SHA-256 of its decompressed contents, in the order of `idx.FILES`.
        sha256: SHA-256 of the whole data set: of the four hex digests, one after the other in that order.
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
    """What was chosen, and one plain sentence that says what and why."""

    source: Source
    sentence: str


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
    """Chooses the data of a run and reads it once, so that bad input is refused before any work.

    Args:
        dataset: `auto`, `mnist` or `digits`.
        data_dir: folder with the four IDX files or with spans, or its URL (`remote`); no connection is made for a
            folder.
        span: number of the span to take; the newest where None.
        production_dataset: name of the data set that the model in production was trained on, None without a model.
        image_shape: height and width in pixels that every image must have.
        custom_name: what a data set is called that is neither `mnist` nor `digits`.
        cache_dir: where downloads and the digits are kept; the user's cache folder where None.
        mirrors: base URLs for MNIST, tried in order.
        progress: called during a download with the bytes done and in total.

    Raises:
        BadInput: the files are refused or cannot be had, or the arguments contradict each other.
    """
    if dataset not in (AUTO, *_KNOWN):
        raise BadInput(f"--dataset takes auto, mnist or digits; received {dataset!r}. Name your own data by a profile.")
    if data_dir is not None:
        source, _ = load(data_dir, span, image_shape, dataset if dataset != AUTO else custom_name)
        which = f", span {source.span}" if source.span is not None else ""
        return DatasetChoice(source, f"Data set {source.name}: the files in {source.data_dir}{which}.")
    if span is not None:
        raise BadInput(f"--span chooses among the spans of a --data-dir; received --span {span} without --data-dir.")
    if image_shape != download.IMAGE_SHAPE:
        raise BadInput(
            f"mnist and digits have images of 28x28; components/features.py sets IMAGE_SHAPE to {image_shape}. "
            "Give your own files with --data-dir."
        )
    cache = pathlib.Path(cache_dir) if cache_dir is not None else default_cache_dir()
    if dataset == AUTO and production_dataset is not None and production_dataset not in _KNOWN:
        raise BadInput(
            f"The model in production was trained on {production_dataset!r}, and auto keeps to that: give its files "
            "with --data-dir, or name another data set with --dataset and --allow dataset-changed."
        )
    kept = dataset == AUTO and production_dataset is not None
    why = "as the model in production was trained on it" if kept else "as asked for"
    wanted = production_dataset if kept else dataset
    if wanted == DIGITS:
        return DatasetChoice(_digits(cache), f"Data set digits, the 1,797 digits that come with scikit-learn: {why}.")
    if (cached := _cached(cache, MNIST)) is not None:
        return DatasetChoice(
            cached, f"Data set mnist, from {cached.directory}: {why if wanted == MNIST else 'it is cached'}."
        )
    if wanted == MNIST:
        download.fetch(cache / MNIST, mirrors=mirrors, progress=progress)
        return DatasetChoice(_expect(cache, MNIST), f"Data set mnist, downloaded into {cache / MNIST}: {why}.")
    failure = download.fetch_within(cache / MNIST, mirrors=mirrors, progress=progress)
    if failure is None:
        return DatasetChoice(_expect(cache, MNIST), f"Data set mnist, downloaded into {cache / MNIST}.")
    return DatasetChoice(
        _digits(cache),
        f"Data set digits, the 1,797 digits that come with scikit-learn, and NOT MNIST: that is not cached, and "
        f"{failure}. For MNIST: --data-dir DIR, or --dataset mnist.",
    )


def load(
    data_dir: str | os.PathLike[str], span: int | None, image_shape: tuple[int, int], name: str = CUSTOM
) -> tuple[Source, dict[str, idx.Contents]]:
    """Reads the four files of a folder, or of a span in it, strictly.

    Args:
        data_dir: folder with the four IDX files, or with folders `span-N` that hold them; or the URL of one. A web
            server has no listing, so it cannot have spans.
        span: number of the span to take; the newest where None.
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
    with remote.local_copy(directory) if url else contextlib.nullcontext(pathlib.Path(directory)) as here:
        contents: dict[str, idx.Contents] = {}
        for pair in ((idx.TRAIN_IMAGES, idx.TRAIN_LABELS), (idx.TEST_IMAGES, idx.TEST_LABELS)):
            contents.update(zip(pair, idx.read_pair(here, *pair, image_shape), strict=True))
        digests = {file: contents[file].sha256 for file in idx.FILES}
        known = next((known for known, of_known in _KNOWN.items() if digests == of_known), None)
        if name in _KNOWN and known != name:
            file = next(file for file in idx.FILES if digests[file] != _KNOWN[name][file])
            idx.refuse(
                contents[file].path,
                "SHA-256 of the contents",
                f"{_KNOWN[name][file]}, that of {name}",
                digests[file],
                f"The name {name} is kept for those very files: leave --dataset out.",
            )
    source = Source(
        name=known or name,
        data_dir=base,
        span=number,
        directory=directory,
        digests=digests,
        sha256=hashlib.sha256("".join(digests.values()).encode()).hexdigest(),
        train_images=len(contents[idx.TRAIN_LABELS].array),
        test_images=len(contents[idx.TEST_LABELS].array),
    )
    return source, contents


def find_span(data_dir: pathlib.Path, span: int | None) -> tuple[int | None, pathlib.Path]:
    """Finds the folder of a span: its number, None without spans, and its path.

    Raises:
        BadInput: the span is not there, two folders have the same number, or files stand beside the spans.
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
        found = f"{beside[0]} beside {', '.join(spans.values())}"
        idx.refuse(base, "folder", "either IDX files or spans", found, "Move the files into a span of their own.")
    number = max(spans) if span is None else span
    if number not in spans:
        listed = ", ".join(map(str, sorted(spans)))
        idx.refuse(base, "span", f"a folder span-{number}", f"spans {listed}", "Name one of them with --span.")
    return number, spans[number]


def default_cache_dir() -> pathlib.Path:
    """The user's cache folder for this project, such as ~/.cache/mnist-tfx."""
    return pathlib.Path(platformdirs.user_cache_dir("mnist-tfx"))


def _cached(cache: pathlib.Path, name: str) -> Source | None:
    try:
        return _expect(cache, name)
    except BadInput:
        return None


def _expect(cache: pathlib.Path, name: str) -> Source:
    return load(cache / name, None, download.IMAGE_SHAPE, name)[0]


def _digits(cache: pathlib.Path) -> Source:
    cached = _cached(cache, DIGITS)
    if cached is None:
        digits.write(cache / DIGITS)
        cached = _expect(cache, DIGITS)
    return cached
