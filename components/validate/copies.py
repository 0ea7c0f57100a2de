# SPDX-License-Identifier: Apache-2.0
"""Images that are there more than once: within a split, of train in val, and of either in test, exact and near."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from components import features
from components.findings import Finding
from components.rows import Rows
from components.validate import near_duplicates
from components.validate.images import Images, Joined, blocks, finding, named, over, part_of

DUPLICATE_IMAGES = "duplicate-images"
TEST_LEAK = "test-leak"
NEAR_TEST_LEAK = "near-test-leak"

_BLOCK = 4096  # images that are looked at at a time

Hashes = npt.NDArray[np.int64]


def hashes_of(splits: Mapping[str, Images]) -> dict[str, Hashes]:
    """A hash of each image of each split, to compare within this process."""
    return {split: _hashes(images.pixels) for split, images in splits.items()}


def duplicates(splits: Mapping[str, Images], hashes: Mapping[str, Hashes], share: float) -> Iterator[Finding]:
    """Images that repeat an earlier one, pixel by pixel: of the same split or, in the others than test, of train.

    Args:
        splits: images by split.
        hashes: of `hashes_of`.
        share: of a split's images, 0 .. 1, that may do so.
    """
    for split, images in splits.items():
        alone = split in (features.TRAIN, features.TEST) or features.TRAIN not in splits
        among = [split] if alone else [features.TRAIN, split]
        own = np.arange(len(images)) + _start(splits, among, split)
        first = _first_of(splits, hashes, among, split)
        repeated = np.flatnonzero((first >= 0) & (first < own))
        if len(repeated) > share * len(images):
            where = split if split in (features.TRAIN, features.TEST) else f"{split} or {features.TRAIN}"
            measured = len(repeated) / len(images)
            yield finding(
                DUPLICATE_IMAGES,
                f"{part_of(len(repeated), split, images)} repeat another image of {where}, {over(measured, share)}",
                "keep one of each",
                measured,
                share,
                len(repeated),
                named(images, repeated),
            )


def leaks(
    splits: Mapping[str, Images], hashes: Mapping[str, Hashes], leaked: int, near_leaked: int, near_distance: float
) -> Iterator[Finding]:
    """Test images that are in another split too.

    Args:
        splits: images by split; without test nothing is compared.
        hashes: of `hashes_of`.
        leaked: how many may be there pixel by pixel.
        near_leaked: how many more may have a near copy there.
        near_distance: at most this far apart is a near copy, in the measure of `near_duplicates`.
    """
    others = [split for split in splits if split != features.TEST and len(splits[split])]
    if not others or features.TEST not in splits:
        return
    test = splits[features.TEST]
    sources = _first_of(splits, hashes, others, features.TEST)
    exact = np.flatnonzero(sources >= 0)
    where = " or ".join(others)
    if len(exact) > leaked:
        yield finding(
            TEST_LEAK,
            f"{part_of(len(exact), features.TEST, test)} are also in {where}, {len(exact) - leaked:,} over the limit "
            f"of {leaked:,} (such as {test.ids[exact[0]]}, which is {_called(splits, others, int(sources[exact[0]]))})",
            "take them out of one of the two, for the model would be tested on what it has learned by heart",
            len(exact),
            leaked,
            len(exact),
            named(test, exact),
        )
    rest = np.setdiff1d(np.arange(len(test)), exact)
    known = Joined([splits[split].pixels for split in others])
    pairs = near_duplicates.find(test.pixels[rest], known, near_distance)
    near = rest[pairs.images]
    if len(near) > near_leaked:
        yield finding(
            NEAR_TEST_LEAK,
            f"{part_of(len(near), features.TEST, test)} have a near copy in {where}, at a distance of at most "
            f"{near_distance:g}, {len(near) - near_leaked:,} over the limit of {near_leaked:,} (the nearest, at "
            f"{pairs.distances[0]:.2f}, are {test.ids[near[0]]} and {_called(splits, others, int(pairs.others[0]))})",
            "take them out of one of the two, for the model would be tested on what it has learned by heart",
            len(near),
            near_leaked,
            len(near),
            named(test, near),
        )


def _first_of(
    splits: Mapping[str, Images], hashes: Mapping[str, Hashes], among: Sequence[str], split: str
) -> npt.NDArray[np.int64]:
    """Where each image of a split is for the first time among some splits, one after the other, pixel by pixel.

    -1 where it is not: int64 [n].
    """
    known, images = Joined([splits[name].pixels for name in among]), splits[split].pixels
    found, places = np.unique(np.concatenate([hashes[name] for name in among]), return_index=True)
    wanted = hashes[split]
    nearest = np.minimum(np.searchsorted(found, wanted), len(found) - 1)
    first = np.where(found[nearest] == wanted, places[nearest], -1) if len(found) else np.full(len(images), -1)
    # Where an image is found to be itself there is nothing to compare.
    own = np.arange(len(images)) + _start(splits, among, split) if split in among else np.full(len(images), -1)
    for rows in blocks(len(images), _BLOCK):
        rows = rows[(first[rows] >= 0) & (first[rows] != own[rows])]
        other = (known[first[rows]] != images[rows]).any(axis=(1, 2))
        first[rows[other]] = -1  # the same hash by chance: once in ten million data sets of a million images
    return first


def _start(splits: Mapping[str, Images], among: Sequence[str], split: str) -> int:
    """Where a split begins among some, one after the other."""
    return sum(len(splits[name]) for name in among[: among.index(split)])


def _hashes(images: Rows) -> Hashes:
    """A hash of each image, which holds for this process: int64 [n]."""
    hashes = np.empty(len(images), np.int64)
    for rows in blocks(len(images), _BLOCK):
        hashes[rows] = [hash(image.tobytes()) for image in images[rows]]
    return hashes


def _called(splits: Mapping[str, Images], names: list[str], place: int) -> str:
    """An image by its place in several splits, one after the other."""
    for split in names:
        if place < len(splits[split]):
            return f"{splits[split].ids[place]} of {split}"
        place -= len(splits[split])
    raise ValueError("Only an image that was found has a place.")
