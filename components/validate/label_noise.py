# SPDX-License-Identifier: Apache-2.0
"""Training labels that are probably wrong: confident disagreement of predictions made out of sample.

Each image is described by the directions of its strokes (`strokes`). A ridge regression on the one-hot labels is solved
in closed form without one fold and scores the images of that fold. A label is suspect where

- another class scores higher than the given one by more than 0.4, or
- the score of another class is at least what images labelled so have on average (confident learning: C. Northcutt,
  L. Jiang, I. Chuang, JAIR 70, 2021). This one finds half of a class relabelled as another: then the scores of both are
  close, but so are the averages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from components.array_store import ArrayRows
from components.findings import Finding
from components.validate.images import Images, blocks, build_finding, over, percent
from components.validate.limits import LabelLimits

NAME = "label-noise"

# Precision 0.97 and recall 0.96 with 5 % of MNIST's labels flipped; 0.3 gives 0.94 and 0.98, 0.5 gives 0.98 and 0.92.
_MARGIN = 0.4
_RIDGE = 10.0  # added to the Gram matrix's diagonal, which is about half the number of images; less overfits digits
_BLOCK = 2048  # images that are described at a time
_KEPT_BYTES = 320 * 2**20  # of descriptions that stay in memory; those of more images, 67,000, are computed twice

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class LabelNoise:
    """Labels that are probably wrong, the most certain first; k of n.

    Attributes:
        ids: k ids of the images.
        index: int64 [k], their positions.
        given: int64 [k], the labels as they came.
        likely: int64 [k], the classes that the images look like.
        confidence: float32 [k], by how much the likely class scores higher than the given one, about 0 .. 1.
        images: n, how many labels were checked.
        agreement: share of the labels that equal the prediction, 0 .. 1: how well the check can tell the classes apart.
    """

    ids: tuple[str, ...]
    index: npt.NDArray[np.int64]
    given: npt.NDArray[np.int64]
    likely: npt.NDArray[np.int64]
    confidence: Floats
    images: int
    agreement: float

    @property
    def share(self) -> float:
        """Suspects as a share of the labels, 0 .. 1."""
        return len(self.index) / self.images if self.images else 0.0

    def to_rows(self) -> list[dict[str, object]]:
        """Every suspect as JSON values: id, given, likely, confidence."""
        columns = zip(self.ids, self.given.tolist(), self.likely.tolist(), self.confidence.tolist(), strict=True)
        return [
            {"id": name, "given": given, "likely": likely, "confidence": round(confidence, 4)}
            for name, given, likely, confidence in columns
        ]


def find_label_noise(images: Images, classes: int, folds: int = 5, features: int = 1200, seed: int = 0) -> LabelNoise:
    """Finds the labels that predictions from the other images contradict, with 320 MiB of memory at most.

    Labels outside 0 .. classes - 1 are left out: they are wrong for certain, and another check's.

    Args:
        images: one split, training images, in the order of their file.
        classes: number of classes.
        folds: parts, each predicted from the others; 2 or more.
        features: random cosine features.
        seed: draws the features; the same seed gives the same answer.
    """
    known = np.flatnonzero((images.labels >= 0) & (images.labels < classes))
    labels = images.labels[known]
    count = len(known)
    if count < folds:
        nothing = np.zeros(0, np.int64)
        return LabelNoise((), nothing, nothing, nothing, np.zeros(0, np.float32), count, 1.0)
    random = np.random.default_rng(seed)
    described = stroke_features(images.pixels, known, features, random)
    scores = _scores(described, features, labels, classes, _folds(labels, folds))
    rows = np.arange(count)
    given = scores[rows, labels]

    likely = scores.argmax(axis=1)
    suspect = scores[rows, likely] - given > _MARGIN
    typical = np.array([scores[labels == c, c].mean() if (labels == c).any() else np.inf for c in range(classes)])
    confident = np.where(scores >= typical, scores, -np.inf)
    first = confident.argmax(axis=1)
    other = np.isfinite(confident[rows, first]) & (first != labels)
    likely = np.where(other & ~suspect, first, likely)
    suspect |= other

    agreement = float((scores.argmax(axis=1) == labels).mean())
    confidence = scores[rows, likely] - given
    index = np.flatnonzero(suspect)
    index = index[np.argsort(-confidence[index], kind="stable")]
    ids = tuple(images.ids[position] for position in known[index])
    return LabelNoise(ids, known[index], labels[index], likely[index], confidence[index], count, agreement)


def check_label_noise(
    images: Images, classes: int, limits: LabelLimits = LabelLimits(), noise: LabelNoise | None = None
) -> list[Finding]:
    """Holds the suspect labels of one split against the limits: [] or one finding "label-noise".

    Args:
        images: one split.
        classes: number of classes.
        limits: what is still fine.
        noise: what `find` says of these images, where that is known already.
    """
    noise = noise or find_label_noise(images, classes)
    pairs = np.zeros((classes, classes), np.int64)
    np.add.at(pairs, (noise.given, noise.likely), 1)
    labelled = np.bincount(images.labels[(images.labels >= 0) & (images.labels < classes)], minlength=classes)
    shares = np.where(pairs >= limits.pair_count, pairs / np.maximum(labelled, 1)[:, None], 0)
    given, likely = np.unravel_index(shares.argmax(), shares.shape)
    most = float(shares[given, likely])
    worst = f"{pairs[given, likely]:,} of {labelled[given]:,} labels {given} ({percent(most)}) look like {likely}"
    if noise.share > limits.suspects:
        measured, limit = noise.share, limits.suspects
        what = (
            f"{len(noise.index):,} of {noise.images:,} training labels ({percent(noise.share)}) are probably wrong, "
            f"{over(noise.share, limits.suspects)}" + (f" (most of all, {worst})" if most else "")
        )
    elif most > limits.pair:
        measured, limit = most, limits.pair
        what = f"{worst}, {over(measured, limits.pair)} for two classes"
    else:
        return []
    advice = (
        f"look at these images and correct their labels (the check agrees with {percent(noise.agreement)} of all; "
        "where that is low it cannot tell the classes apart, and the limit may be raised)"
    )
    return [build_finding(NAME, what, advice, measured, limit, len(noise.index), noise.ids)]


def _folds(labels: npt.NDArray[np.int64], folds: int) -> npt.NDArray[np.int64]:
    """The fold of each image: int64 [n]. Each class is cut into runs of neighbours.

    Neighbours in a file tend to come from one source, such as a writer, and to be wrong together: with some of them in
    the training folds their error would be learned and confirmed. Where the first half of the 4s of digits, those of
    the first writers, is relabelled 9, over 0.013 of the labels are suspect; with folds drawn at random, 0.004.
    """
    order = np.argsort(labels, kind="stable")
    _, start, count = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(start, count)
    fold = np.empty(len(labels), np.int64)
    fold[order] = rank * folds // np.repeat(count, count)
    return fold


def _scores(
    described: Callable[[npt.NDArray[np.int64]], Floats],
    features: int,
    labels: npt.NDArray[np.int64],
    classes: int,
    fold: npt.NDArray[np.int64],
) -> Floats:
    """Scores of each image from a ridge regression on the other folds: float32 [n, classes], about 0 .. 1.

    The sums of products that the regression needs are few, whatever the number of images, and go block by block.
    """
    targets = np.eye(classes, dtype=np.float32)[labels]
    parts = []
    for members in (np.flatnonzero(fold == k) for k in range(int(fold.max()) + 1)):
        parts.append([members[places] for places in blocks(len(members), _BLOCK)])
    kept: dict[int, Floats] = {}  # by the number of the first image of the block
    left = _KEPT_BYTES
    grams = np.zeros((len(parts), features, features), np.float32)
    products = np.zeros((len(parts), features, classes), np.float32)
    for part, gram, product in zip(parts, grams, products, strict=True):
        for rows in part:
            vectors = described(rows)
            gram += vectors.T @ vectors
            product += vectors.T @ targets[rows]
            left -= vectors.nbytes
            if left >= 0:
                kept[int(rows[0])] = vectors
    gram_of_all, product_of_all = grams.sum(axis=0), products.sum(axis=0)
    scores = np.empty((len(labels), classes), np.float32)
    for part, gram, product in zip(parts, grams, products, strict=True):
        matrix = (gram_of_all - gram).astype(np.float64)
        matrix[np.diag_indices_from(matrix)] += _RIDGE
        weights = np.linalg.solve(matrix, (product_of_all - product).astype(np.float64)).astype(np.float32)
        for rows in part:
            number = int(rows[0])
            scores[rows] = (kept.pop(number) if number in kept else described(rows)) @ weights
    return scores


_GRID = 7  # rows and columns of cells: 4x4 pixels each in an image of 28x28
_WIDTH = 0.25  # of the kernel exp(-WIDTH |a - b|^2) that the cosine features stand for; the descriptions have length 1
_CHUNK = 256  # images whose gradients are worked on at a time: they stay in the processor's cache


def stroke_features(
    pixels: ArrayRows, known: npt.NDArray[np.int64], features: int, random: np.random.Generator
) -> Callable[[npt.NDArray[np.int64]], Floats]:
    """A function from the numbers of some of the known images to their features, float32 [n, features].

    They are random cosine features of a Gaussian kernel.

    Args:
        pixels: all images.
        known: which of them are numbered 0, 1, …; at least one.
        features: how many there shall be.
        random: draws them.
    """
    import tensorflow as tf  # not for all who import this module: the command line reads the names of findings

    size = len(_describe(pixels[known[:1]]))
    directions = tf.constant(random.normal(0, np.sqrt(2 * _WIDTH), (size, features)), tf.float32)
    phases = random.uniform(0, 2 * np.pi, features).astype(np.float32)

    def described(rows: npt.NDArray[np.int64]) -> Floats:
        # In half of NumPy's time where OpenBLAS does not know the processor, which it then takes for an older one.
        result = tf.matmul(_describe(pixels[known[rows]]), directions, transpose_a=True).numpy()
        result += phases
        return np.cos(result, out=result)

    return described


def _describe(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Strokes by direction and place: uint8 [n, height, width] -> float32 [8 * cells, n], each of length 1 or 0."""
    count, height, width = pixels.shape
    of_row, of_column = _cells(height), _cells(width)
    result = np.empty((4, 2, of_row[-1] + 1, of_column[-1] + 1, count), np.float32)
    for start in range(0, count, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        # The images come last: what is done to one pixel is done to that of all images, which are neighbours then.
        # In whole numbers no sum is rounded.
        padded = np.pad(pixels[chunk].transpose(1, 2, 0), ((1, 1), (1, 1), (0, 0))).astype(np.int32)
        # Slopes to the right and down, and the sizes of the slopes in all four directions.
        slopes = np.empty((6, width, padded.shape[2]), np.int32)
        right, down = slopes[:2]
        by_row = np.zeros((6, of_row[-1] + 1, *slopes.shape[1:]), np.int32)
        for row, cell in enumerate(of_row):
            np.subtract(padded[row + 1, 2:], padded[row + 1, :-2], out=right)
            np.subtract(padded[row + 2, 1:-1], padded[row, 1:-1], out=down)
            slopes[2], slopes[4] = right, down
            np.add(right, down, out=slopes[3])
            np.subtract(down, right, out=slopes[5])
            np.abs(slopes[2:], out=slopes[2:])
            by_row[:, cell] += slopes
        sums = np.zeros((*by_row.shape[:2], of_column[-1] + 1, padded.shape[2]), np.int32)
        for column, cell in enumerate(of_column):
            sums[:, :, cell] += by_row[:, :, column]
        right, down, *sizes = sums
        # The size is rise and fall together, the slope is rise less fall: these are twice the rise and the fall.
        for part, slope, size in zip(result, (right, right + down, down, down - right), sizes, strict=True):
            np.add(size, slope, out=part[0, ..., chunk])
            np.subtract(size, slope, out=part[1, ..., chunk])
    result[1::2] *= np.float32(np.sqrt(0.5))  # the slopes across the pixels
    flat = result.reshape(-1, count)
    # The root keeps one strong edge from outweighing the rest.
    flat /= np.maximum(flat.sum(axis=0), 1)
    return np.sqrt(flat, out=flat)


def _cells(size: int) -> npt.NDArray[np.int64]:
    """Which row or column of the grid each row or column of pixels is in."""
    return np.arange(size) * min(_GRID, size) // size
