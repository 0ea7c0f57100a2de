# SPDX-License-Identifier: Apache-2.0
"""Finds images that occur twice: exact copies, by a hash, and near copies, by a distance.

The distance is the L2 norm of the difference of two images with values in [0, 1], after two steps that remove noise and
preserve strokes: 16/255 is subtracted from every pixel, not below 0, and each 2x2 block becomes its sum / 2 (which
preserves the L2 norm of smooth areas). On a background of 0 noise only brightens, so that its mean adds up over the
image; the first step removes it. With noise of a standard deviation of 8/255:

| | MNIST | digits |
| --- | --- | --- |
| farthest noisy copy | 0.30 | 0.32 |
| closest test image to another file's image | 0.49 | 0.83 |

The plain L2 distance has 0.77 and 0.83 on MNIST. Perceptual hashes do not distinguish digits: most clean test images
are within 4 bits of some training image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import spatial

from components import features
from components.array_store import ArrayRows
from components.findings import DUPLICATE_IMAGES, NEAR_TEST_LEAK, TEST_LEAK, Finding
from components.validate.images import Images, Joined, Pixels, blocks, build_finding, excess, first_ids, portion

_NOISE = 16  # subtracted from every pixel: two standard deviations of the noise that a copy may have
_DIRECTIONS = 16  # of the first pass, which rules out all but 258 of the 10,000 test images of MNIST
_ROWS, _COLUMNS = 1024, 4096  # a block of distances takes 16 MiB
_SAMPLE = 512  # images in the estimate of a set's spacing
# A near copy is also closer than this part of the usual distance between neighbours, so that a set passes whose images
# are all alike, such as drawn symbols. The usual distance is 2.9 on MNIST and 1.9 on digits: there it changes nothing.
_RELATIVE = 0.5
_BLOCK = 4096  # images to hash at a time

Floats = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Near copies, nearest first; k of them.

    Attributes:
        images: int64 [k], index into the queried images.
        references: int64 [k], index of the nearest reference image.
        distances: float32 [k], in the measure of this module.
    """

    images: npt.NDArray[np.int64]
    references: npt.NDArray[np.int64]
    distances: Floats


def find_near_duplicates(images: Pixels, references: ArrayRows, distance: float) -> Pairs:
    """Finds the images that have a near copy among the references.

    A first pass in a few principal directions, where every distance is at most the true one, rules out nearly all
    images of a clean set; a tree finds neighbours there without comparing all pairs. The remaining images are compared
    with all references, by blocks of matrix products. References are read block by block and take 200 bytes each.

    Args:
        images: uint8 [n, height, width], the queries.
        references: uint8 [m, height, width], the images to compare them with.
        distance: at most this far apart is a near copy, in the measure of this module.
    """
    none = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    if not len(images) or not len(references):
        return none
    queries = _reduce(images)
    middle = queries.mean(axis=0)
    queries -= middle
    directions = np.linalg.eigh(queries.T @ queries)[1][:, -_DIRECTIONS:].astype(np.float32)
    tree = spatial.cKDTree(
        np.concatenate(
            [(_reduce(references[rows]) - middle) @ directions for rows in blocks(len(references), _COLUMNS)]
        )
    )
    # The margin is for the rounding of float32.
    bounds, _ = tree.query(queries @ directions, distance_upper_bound=distance * 1.01 + 1e-4, workers=-1)
    candidates = np.flatnonzero(np.isfinite(bounds))
    if not len(candidates):
        return none
    distances, nearest = _nearest(queries[candidates], references, middle)
    if distances.min() > distance:
        return none
    near = np.flatnonzero(distances <= min(distance, _RELATIVE * _spacing(references, middle)))
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
    vectors: Floats, references: ArrayRows, middle: Floats, excluded: npt.NDArray[np.int64] | None = None
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Returns the distance to, and the index of, the nearest reference: float32 [n], int64 [n].

    `vectors` are reduced images less `middle`; of the references, each vector skips the one that `excluded` [n] names.
    """
    # |a - b|^2 in one matrix product: (-2 a, |a|^2, 1) . (b, 1, |b|^2)
    rows = _extend(vectors, -2, squares_first=True)
    best = np.full(len(rows), np.inf, np.float32)
    index = np.zeros(len(rows), np.int64)
    for columns in blocks(len(references), _COLUMNS):
        column = int(columns[0])
        part = np.ascontiguousarray(_extend(_reduce(references[columns]) - middle, 1, squares_first=False).T)
        for row in range(0, len(rows), _ROWS):
            squares = rows[row : row + _ROWS] @ part
            if excluded is not None:
                own = excluded[row : row + _ROWS] - column
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


def _spacing(references: ArrayRows, middle: Floats) -> float:
    """The median distance of an image to its nearest neighbour in the same set, from an even sample."""
    sample = np.unique(np.linspace(0, len(references) - 1, min(_SAMPLE, len(references))).astype(np.int64))
    distances, _ = _nearest(_reduce(references[sample]) - middle, references, middle, excluded=sample)
    return float(np.median(distances))


def hash_images(splits: Mapping[str, Images]) -> dict[str, Hashes]:
    """Returns a hash of each image of each split, for comparison within this process."""
    return {split: _hashes(images.pixels) for split, images in splits.items()}


def find_duplicates(splits: Mapping[str, Images], hashes: Mapping[str, Hashes], share: float) -> Iterator[Finding]:
    """Finds images that repeat an earlier one, pixel by pixel: of the same split or, for val, of train.

    Args:
        splits: images by split.
        hashes: of `hash_images`.
        share: share of a split's images, 0 .. 1, that is allowed.
    """
    for split, images in splits.items():
        alone = split in (features.TRAIN, features.TEST) or features.TRAIN not in splits
        among = [split] if alone else [features.TRAIN, split]
        own = np.arange(len(images)) + _start(splits, among, split)
        first = _first_of(splits, hashes, among, split)
        repeated = np.flatnonzero((first >= 0) & (first < own))
        if len(repeated) > share * len(images):
            sets = split if alone else f"{split} or {features.TRAIN}"
            measured = len(repeated) / len(images)
            yield build_finding(
                DUPLICATE_IMAGES,
                f"{portion(len(repeated), split, images)} repeat another image of {sets}, {excess(measured, share)}",
                "keep one of each",
                measured,
                share,
                len(repeated),
                first_ids(images, repeated),
            )


def find_leaks(
    splits: Mapping[str, Images], hashes: Mapping[str, Hashes], leaked: int, near_leaked: int, near_distance: float
) -> Iterator[Finding]:
    """Finds test images that are in another split too.

    Args:
        splits: images by split; without test nothing is compared.
        hashes: of `hash_images`.
        leaked: number of exact copies that is allowed.
        near_leaked: number of further near copies that is allowed.
        near_distance: largest distance of a near copy, in the measure of this module.
    """
    sources = [split for split in splits if split != features.TEST and len(splits[split])]
    if not sources or features.TEST not in splits:
        return
    test = splits[features.TEST]
    positions = _first_of(splits, hashes, sources, features.TEST)
    exact = np.flatnonzero(positions >= 0)
    names = " or ".join(sources)
    if len(exact) > leaked:
        original = _name(splits, sources, int(positions[exact[0]]))
        yield build_finding(
            TEST_LEAK,
            f"{portion(len(exact), features.TEST, test)} are also in {names}, {len(exact) - leaked:,} over the limit "
            f"of {leaked:,} (such as {test.ids[exact[0]]}, which is {original})",
            "remove them from one of the two: the model would be tested on images that it was trained on",
            len(exact),
            leaked,
            len(exact),
            first_ids(test, exact),
        )
    rest = np.setdiff1d(np.arange(len(test)), exact)
    references = Joined([splits[split].pixels for split in sources])
    pairs = find_near_duplicates(test.pixels[rest], references, near_distance)
    near = rest[pairs.images]
    if len(near) > near_leaked:
        original = _name(splits, sources, int(pairs.references[0]))
        yield build_finding(
            NEAR_TEST_LEAK,
            f"{portion(len(near), features.TEST, test)} have a near copy in {names}, at a distance of at most "
            f"{near_distance:g}, {len(near) - near_leaked:,} over the limit of {near_leaked:,} (the nearest, at "
            f"{pairs.distances[0]:.2f}, are {test.ids[near[0]]} and {original})",
            "remove them from one of the two: the model would be tested on images that it was trained on",
            len(near),
            near_leaked,
            len(near),
            first_ids(test, near),
        )


def _first_of(
    splits: Mapping[str, Images], hashes: Mapping[str, Hashes], among: Sequence[str], split: str
) -> npt.NDArray[np.int64]:
    """Returns the first position of each image of a split among some concatenated splits: int64 [n], -1 without one."""
    joined, images = Joined([splits[name].pixels for name in among]), splits[split].pixels
    values, positions = np.unique(np.concatenate([hashes[name] for name in among]), return_index=True)
    queries = hashes[split]
    nearest = np.minimum(np.searchsorted(values, queries), len(values) - 1)
    first = np.where(values[nearest] == queries, positions[nearest], -1) if len(values) else np.full(len(images), -1)
    # An image at its own position needs no comparison.
    own = np.arange(len(images)) + _start(splits, among, split) if split in among else np.full(len(images), -1)
    for rows in blocks(len(images), _BLOCK):
        rows = rows[(first[rows] >= 0) & (first[rows] != own[rows])]
        other = (joined[first[rows]] != images[rows]).any(axis=(1, 2))
        first[rows[other]] = -1  # the same hash by chance: once in ten million data sets of a million images
    return first


def _start(splits: Mapping[str, Images], among: Sequence[str], split: str) -> int:
    """Returns the position of a split's first image among some concatenated splits."""
    return sum(len(splits[name]) for name in among[: among.index(split)])


def _hashes(images: ArrayRows) -> Hashes:
    """Returns a hash of each image, valid in this process: int64 [n]."""
    hashes = np.empty(len(images), np.int64)
    for rows in blocks(len(images), _BLOCK):
        hashes[rows] = [hash(image.tobytes()) for image in images[rows]]
    return hashes


def _name(splits: Mapping[str, Images], names: Sequence[str], position: int) -> str:
    """Names the image at a position of several concatenated splits."""
    for split in names:
        if position < len(splits[split]):
            return f"{splits[split].ids[position]} of {split}"
        position -= len(splits[split])
    raise ValueError(f"position {position} is behind the last image")
