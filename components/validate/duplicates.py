# SPDX-License-Identifier: Apache-2.0
"""Which images of one set are near copies of images of another.

The measure is the L2 distance of two images with values in [0, 1], after two steps that noise does not survive and
strokes do: 16/255 is taken from every pixel, not below 0, and each 2x2 block becomes its sum / 2 (which keeps the L2
norm of what is smooth). On a background of 0 noise can only go up, so that its mean adds up over the image; the first
step removes it. Measured, with noise of a standard deviation of 8/255:

| | MNIST | digits |
| --- | --- | --- |
| farthest noisy copy | 0.30 | 0.32 |
| closest test image to another file's image | 0.49 | 0.83 |

The plain L2 distance has 0.77 and 0.83 on MNIST. Perceptual hashes don't tell digits apart at all: most clean test
images are within 4 bits of some training image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import spatial

from components import features
from components.array_store import ArrayRows
from components.findings import Finding
from components.validate.images import Images, Joined, Pixels, blocks, build_finding, named, over, part_of

_NOISE = 16  # taken from every pixel: two standard deviations of the noise that a copy may have
_DIRECTIONS = 16  # of the first pass: they rule out all but 258 of the 10,000 test images of MNIST
_ROWS, _COLUMNS = 1024, 4096  # a block of distances takes 16 MiB
_SAMPLE = 512  # images that the spacing of a set is measured with
# A near copy is also closer than this part of the usual distance between neighbours, so that a set passes whose images
# are all alike, such as drawn symbols. The usual distance is 2.9 on MNIST and 1.9 on digits: there it changes nothing.
_RELATIVE = 0.5

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Near copies, nearest first; k of them.

    Attributes:
        images: int64 [k], index into the images that were looked up.
        others: int64 [k], index of the nearest image among the others.
        distances: float32 [k], in the measure of this module.
    """

    images: npt.NDArray[np.int64]
    others: npt.NDArray[np.int64]
    distances: Floats


def find_near_duplicates(images: Pixels, others: ArrayRows, distance: float) -> Pairs:
    """Finds the images that have a near copy among the others.

    A first pass in a few principal directions, where every distance is at most the true one, rules out nearly all
    images of a clean set; a tree finds neighbours there without comparing all pairs. Those that are left are compared
    with all others, by blocks of matrix products. The others are read block by block and take 200 bytes of memory each.

    Args:
        images: uint8 [n, height, width], the images to look up.
        others: uint8 [m, height, width], what they are compared with.
        distance: at most this far apart is a near copy, in the measure of this module.
    """
    none = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    if not len(images) or not len(others):
        return none
    looked_up = _reduce(images)
    middle = looked_up.mean(axis=0)
    looked_up -= middle
    directions = np.linalg.eigh(looked_up.T @ looked_up)[1][:, -_DIRECTIONS:].astype(np.float32)
    tree = spatial.cKDTree(
        np.concatenate([(_reduce(others[rows]) - middle) @ directions for rows in blocks(len(others), _COLUMNS)])
    )
    # The margin is for the rounding of float32.
    bounds, _ = tree.query(looked_up @ directions, distance_upper_bound=distance * 1.01 + 1e-4, workers=-1)
    candidates = np.flatnonzero(np.isfinite(bounds))
    if not len(candidates):
        return none
    distances, nearest = _nearest(looked_up[candidates], others, middle)
    if distances.min() > distance:
        return none
    near = np.flatnonzero(distances <= min(distance, _RELATIVE * _spacing(others, middle)))
    near = near[np.argsort(distances[near], kind="stable")]
    return Pairs(candidates[near], nearest[near], distances[near])


def _reduce(pixels: npt.NDArray[np.uint8]) -> Floats:
    """uint8 [n, height, width] -> float32 [n, blocks]: the vectors whose L2 distance is the measure."""
    count, height, width = pixels.shape
    ink = np.maximum(pixels, _NOISE) - np.uint8(_NOISE)
    if height % 2 or width % 2:
        ink = np.pad(ink, ((0, 0), (0, height % 2), (0, width % 2)))
    neighbours = np.ascontiguousarray(ink).view(np.uint16)  # two pixels of a row in one number
    sums = (neighbours & 255) + (neighbours >> 8)
    total = sums[:, 0::2] + sums[:, 1::2]
    return np.divide(total.reshape(count, total[0].size), np.float32(2 * 255), dtype=np.float32)


def _nearest(
    vectors: Floats, others: ArrayRows, middle: Floats, not_self: npt.NDArray[np.int64] | None = None
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Distance to, and index of, the nearest of the others: float32 [n], int64 [n]. `not_self` [n] are left out.

    `vectors` are reduced and have `middle` taken off, the others are images.
    """
    # |a - b|^2 in one matrix product: (-2 a, |a|^2, 1) . (b, 1, |b|^2)
    left = _extend(vectors, -2, squares_first=True)
    best = np.full(len(left), np.inf, np.float32)
    index = np.zeros(len(left), np.int64)
    for columns in blocks(len(others), _COLUMNS):
        column = int(columns[0])
        part = np.ascontiguousarray(_extend(_reduce(others[columns]) - middle, 1, squares_first=False).T)
        for row in range(0, len(left), _ROWS):
            squares = left[row : row + _ROWS] @ part
            if not_self is not None:
                own = not_self[row : row + _ROWS] - column
                inside = np.flatnonzero((own >= 0) & (own < squares.shape[1]))
                squares[inside, own[inside]] = np.inf
            smallest = squares.min(axis=1)
            better = np.flatnonzero(smallest < best[row : row + _ROWS])
            best[row + better] = smallest[better]
            index[row + better] = column + squares[better].argmin(axis=1)
    return np.sqrt(np.maximum(best, 0)), index


def _extend(vectors: Floats, factor: int, squares_first: bool) -> Floats:
    squares = np.einsum("nd,nd->n", vectors, vectors)[:, None]
    ones = np.ones_like(squares)
    extra = (squares, ones) if squares_first else (ones, squares)
    return np.hstack([np.float32(factor) * vectors, *extra], dtype=np.float32)


def _spacing(others: ArrayRows, middle: Floats) -> float:
    """The median distance of an image to its nearest neighbour in the same set, from an even sample."""
    sample = np.unique(np.linspace(0, len(others) - 1, min(_SAMPLE, len(others))).astype(np.int64))
    distances, _ = _nearest(_reduce(others[sample]) - middle, others, middle, not_self=sample)
    return float(np.median(distances))


DUPLICATE_IMAGES = "duplicate-images"
TEST_LEAK = "test-leak"
NEAR_TEST_LEAK = "near-test-leak"

_BLOCK = 4096  # images that are looked at at a time

Hashes = npt.NDArray[np.int64]


def hashes_of(splits: Mapping[str, Images]) -> dict[str, Hashes]:
    """A hash of each image of each split, to compare within this process."""
    return {split: _hashes(images.pixels) for split, images in splits.items()}


def find_duplicates(splits: Mapping[str, Images], hashes: Mapping[str, Hashes], share: float) -> Iterator[Finding]:
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
            yield build_finding(
                DUPLICATE_IMAGES,
                f"{part_of(len(repeated), split, images)} repeat another image of {where}, {over(measured, share)}",
                "keep one of each",
                measured,
                share,
                len(repeated),
                named(images, repeated),
            )


def find_leaks(
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
        yield build_finding(
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
    pairs = find_near_duplicates(test.pixels[rest], known, near_distance)
    near = rest[pairs.images]
    if len(near) > near_leaked:
        yield build_finding(
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


def _hashes(images: ArrayRows) -> Hashes:
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
