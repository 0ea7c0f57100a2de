# SPDX-License-Identifier: Apache-2.0
"""The images of one split in the form that the checks read, and the wording of their findings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from components import array_store, features
from components.array_store import ArrayRows
from components.findings import Finding

Pixels = npt.NDArray[np.uint8]
MAX_EXAMPLES = 20  # ids that a finding names
# Pixels of one split in memory; more go to the disk. MNIST's training images take 43 MB.
_MEMORY_BYTES = 64 * 2**20
_BATCH = 8192


class Joined:
    """Several sets of images as one, without a copy.

    Args:
        sets: uint8 [n, height, width] each.
        order: int64 [all], the position in the concatenated sets of each image; in their order where None.
    """

    def __init__(self, sets: Sequence[ArrayRows], order: npt.NDArray[np.int64] | None = None) -> None:
        self._sets = sets
        self._starts = np.cumsum([0, *map(len, sets)])
        self._order = order

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self._sets[0].shape[1:])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> Pixels:
        positions = rows if self._order is None else self._order[rows]
        result = np.empty((len(positions), *self.shape[1:]), np.uint8)
        for images, start in zip(self._sets, self._starts, strict=False):
            inside = np.flatnonzero((positions >= start) & (positions < start + len(images)))
            result[inside] = images[positions[inside] - start]
        return result


def blocks(count: int, size: int) -> Iterator[npt.NDArray[np.int64]]:
    """The numbers 0 .. count - 1, in order, in blocks of at most `size`."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of one split, in one order.

    Attributes:
        ids: n ids of the images in findings (features.ID).
        pixels: uint8 [n, height, width], 0 is the background.
        labels: int64 [n], any value.
    """

    ids: Sequence[str]
    pixels: ArrayRows
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pixels)


def build_finding(
    name: str,
    fault: str,
    advice: str,
    measured: float,
    limit: float,
    count: int = 0,
    examples: Sequence[str] = (),
    consequence: str = "",
) -> Finding:
    """Builds a finding of one sentence: the fault with its limit, and the advice.

    Args:
        name: one of `findings.NAMES`.
        fault: the first part of the sentence: the figure, the limit, and by how much it is exceeded.
        advice: the way out.
        measured: the figure.
        limit: in the same unit.
        count: number of images concerned.
        examples: their ids.
        consequence: the fate of these images where the finding is allowed, as the end of the sentence.
    """
    sentence = f"{fault}: {advice}, or run with --allow {name}{consequence}."
    return Finding(name, sentence, float(measured), float(limit), count, tuple(examples[:MAX_EXAMPLES]))


def first_ids(images: Images, concerned: npt.NDArray[np.int64]) -> list[str]:
    """Returns the ids of the first of the images concerned, as many as a finding names."""
    return [images.ids[index] for index in concerned[:MAX_EXAMPLES]]


def portion(count: int, split: str, images: Images) -> str:
    """Returns text such as "550 of 55,000 train images (1%)"."""
    return f"{count:,} of {len(images):,} {split} images ({percent(count / len(images))})"


def excess(share: float, limit: float) -> str:
    """Returns the excess over a limit, such as "0.9 points over the limit of 0.1%"."""
    return f"{points(share - limit)} over the limit of {percent(limit)}"


def percent(share: float) -> str:
    """A share to three digits, such as "10.2%" or "0.00182%"."""
    return f"{100 * share:.3g}%"


def points(share: float) -> str:
    """A difference of shares, such as "0.9 points"."""
    return f"{100 * share:.3g} points"


def load_images(examples: str, split: str) -> Images:
    """Reads all of one split: into memory, or its pixels into a file if they are over 64 MiB.

    Args:
        examples: folder of the artifact, with uncompressed TFRecords.
        split: name of the split.

    Raises:
        ProjectError: if the images fit neither into memory nor onto the disk.
    """
    import tensorflow as tf  # here, as the command line imports the names of findings

    from components import datasets

    spec = {
        features.IMAGE: tf.io.FixedLenFeature([], tf.string),
        features.LABEL: tf.io.FixedLenFeature([], tf.int64),
        features.ID: tf.io.FixedLenFeature([], tf.string),
    }
    ids: list[str] = []
    labels = [np.zeros(0, np.int64)]
    records = datasets.records(datasets.files(f"{examples}/Split-{split}"))

    def pixels() -> Iterator[Pixels]:
        yield np.zeros((0, *features.IMAGE_SHAPE), np.uint8)
        for serialized in records.batch(_BATCH):
            parsed = tf.io.parse_example(serialized, spec)
            ids.extend(name.decode() for name in parsed[features.ID].numpy())
            labels.append(parsed[features.LABEL].numpy())
            flat = tf.io.decode_raw(parsed[features.IMAGE], tf.uint8)
            yield tf.reshape(flat, [-1, *features.IMAGE_SHAPE]).numpy()

    stored = array_store.store(pixels(), lambda: datasets.count(records), _MEMORY_BYTES)
    return Images(ids, stored, np.concatenate(labels))


def in_file_order(first: Images, second: Images) -> Images:
    """Joins two splits of one file in the order of that file, without a copy of the images."""
    ids = [*first.ids, *second.ids]
    order = np.argsort([int(name.rpartition("#")[2]) for name in ids], kind="stable")
    return Images(
        [ids[row] for row in order],
        Joined([first.pixels, second.pixels], order),
        np.concatenate([first.labels, second.labels])[order],
    )
