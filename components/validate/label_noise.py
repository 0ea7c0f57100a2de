# SPDX-License-Identifier: Apache-2.0
"""Finds training labels that are probably wrong: those that out-of-sample predictions contradict.

The features of an image are the directions of its strokes (`stroke_features`). A ridge regression on the one-hot labels
is solved in closed form without one fold and scores the images of that fold. A label is suspect where

- another class scores higher than the label's by more than 0.4, or
- the score of another class is at least the average score of images with that label (confident learning: C. Northcutt,
  L. Jiang, I. Chuang, JAIR 70, 2021). This rule finds half of a class relabelled as another: then the scores of both
  are close, but so are the averages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from components.array_store import ArrayRows
from components.findings import LABEL_NOISE, Finding
from components.validate.images import Images, blocks, build_finding, excess, percent
from components.validate.limits import LabelLimits

# Precision 0.97 and recall 0.96 with 5 % of MNIST's labels flipped; 0.3 gives 0.94 and 0.98, 0.5 gives 0.98 and 0.92.
_MARGIN = 0.4
_RIDGE = 10.0  # added to the Gram matrix's diagonal, which is about half the number of images; less overfits digits
_BLOCK = 2048  # images whose features are computed at a time
_CACHE_BYTES = 320 * 2**20  # of features in memory; those of further images, beyond 67,000, are computed twice
_GRID = 7  # rows and columns of cells: 4x4 pixels each in an image of 28x28
_WIDTH = 0.25  # of the kernel exp(-WIDTH |a - b|^2) that the cosine features approximate; the descriptors have length 1
_CHUNK = 256  # images whose gradients are worked on at a time: they stay in the processor's cache

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class LabelNoise:
    """Labels that are probably wrong, the most confident first; k of n.

    Attributes:
        ids: k ids of the images.
        index: int64 [k], their positions.
        labels: int64 [k], their labels.
        likely: int64 [k], the classes that the images look like.
        confidence: float32 [k], score of the likely class less that of the label, about 0 .. 1.
        images: n, the number of labels that were checked.
        agreement: share of the labels that equal the prediction, 0 .. 1: the accuracy of the check itself.
    """

    ids: tuple[str, ...]
    index: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    likely: npt.NDArray[np.int64]
    confidence: Floats
    images: int
    agreement: float

    @property
    def share(self) -> float:
        """Suspects as a share of the labels, 0 .. 1."""
        return len(self.index) / self.images if self.images else 0.0

    def to_rows(self) -> list[dict[str, object]]:
        """Every suspect as JSON values: id, label, likely, confidence."""
        columns = zip(self.ids, self.labels.tolist(), self.likely.tolist(), self.confidence.tolist(), strict=True)
        return [
            {"id": name, "label": label, "likely": likely, "confidence": round(confidence, 4)}
            for name, label, likely, confidence in columns
        ]


def find_label_noise(images: Images, classes: int, folds: int = 5, features: int = 1200, seed: int = 0) -> LabelNoise:
    """Finds the labels that predictions from the other images contradict, with 320 MiB of memory at most.

    Labels outside 0 .. classes - 1 are skipped: they are a finding of their own.

    Args:
        images: one split, training images, in the order of their file.
        classes: number of classes.
        folds: parts, each predicted from the others; 2 or more.
        features: random cosine features.
        seed: draws the features; the same seed gives the same result.
    """
    valid = np.flatnonzero((images.labels >= 0) & (images.labels < classes))
    labels = images.labels[valid]
    count = len(valid)
    if count < folds:
        empty = np.zeros(0, np.int64)
        return LabelNoise((), empty, empty, empty, np.zeros(0, np.float32), count, 1.0)
    random = np.random.default_rng(seed)
    compute = stroke_features(images.pixels, valid, features, random)
    scores = _scores(compute, features, labels, classes, _folds(labels, folds))
    rows = np.arange(count)
    label_scores = scores[rows, labels]

    likely = scores.argmax(axis=1)
    suspect = scores[rows, likely] - label_scores > _MARGIN
    typical = np.array([scores[labels == c, c].mean() if (labels == c).any() else np.inf for c in range(classes)])
    confident = np.where(scores >= typical, scores, -np.inf)
    first = confident.argmax(axis=1)
    other = np.isfinite(confident[rows, first]) & (first != labels)
    likely = np.where(other & ~suspect, first, likely)
    suspect |= other

    agreement = float((scores.argmax(axis=1) == labels).mean())
    confidence = scores[rows, likely] - label_scores
    index = np.flatnonzero(suspect)
    index = index[np.argsort(-confidence[index], kind="stable")]
    ids = tuple(images.ids[position] for position in valid[index])
    return LabelNoise(ids, valid[index], labels[index], likely[index], confidence[index], count, agreement)


def check_label_noise(
    images: Images, classes: int, limits: LabelLimits = LabelLimits(), noise: LabelNoise | None = None
) -> list[Finding]:
    """Compares the suspect labels of one split with the limits: returns [] or one finding "label-noise".

    Args:
        images: one split.
        classes: number of classes.
        limits: of the profile.
        noise: result of `find_label_noise` for these images; computed where None.
    """
    noise = noise or find_label_noise(images, classes)
    pairs = np.zeros((classes, classes), np.int64)
    np.add.at(pairs, (noise.labels, noise.likely), 1)
    labelled = np.bincount(images.labels[(images.labels >= 0) & (images.labels < classes)], minlength=classes)
    shares = np.where(pairs >= limits.pair_count, pairs / np.maximum(labelled, 1)[:, None], 0)
    label, likely = np.unravel_index(shares.argmax(), shares.shape)
    most = float(shares[label, likely])
    worst = f"{pairs[label, likely]:,} of {labelled[label]:,} labels {label} ({percent(most)}) look like {likely}"
    if noise.share > limits.suspects:
        measured, limit = noise.share, limits.suspects
        fault = (
            f"{len(noise.index):,} of {noise.images:,} training labels ({percent(noise.share)}) are probably wrong, "
            f"{excess(noise.share, limits.suspects)}" + (f" (most of all, {worst})" if most else "")
        )
    elif most > limits.pair:
        measured, limit = most, limits.pair
        fault = f"{worst}, {excess(measured, limits.pair)} for two classes"
    else:
        return []
    advice = (
        f"look at these images and correct their labels (the check itself agrees with {percent(noise.agreement)} "
        "of all labels; if that is low it cannot separate the classes, and the limit may be raised)"
    )
    return [build_finding(LABEL_NOISE, fault, advice, measured, limit, len(noise.index), noise.ids)]


def _folds(labels: npt.NDArray[np.int64], folds: int) -> npt.NDArray[np.int64]:
    """Returns the fold of each image: int64 [n]. Each class is cut into runs of neighbours.

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
    compute: Callable[[npt.NDArray[np.int64]], Floats],
    features: int,
    labels: npt.NDArray[np.int64],
    classes: int,
    fold: npt.NDArray[np.int64],
) -> Floats:
    """Returns the scores of each image from a ridge regression on the other folds: float32 [n, classes], about 0 .. 1.

    The sums of products that the regression needs are few, whatever the number of images, and go block by block.
    """
    targets = np.eye(classes, dtype=np.float32)[labels]
    parts = []
    for members in (np.flatnonzero(fold == k) for k in range(int(fold.max()) + 1)):
        parts.append([members[positions] for positions in blocks(len(members), _BLOCK)])
    cache: dict[int, Floats] = {}  # by the number of the first image of the block
    free_bytes = _CACHE_BYTES
    grams = np.zeros((len(parts), features, features), np.float32)
    products = np.zeros((len(parts), features, classes), np.float32)
    for part, gram, product in zip(parts, grams, products, strict=True):
        for rows in part:
            vectors = compute(rows)
            gram += vectors.T @ vectors
            product += vectors.T @ targets[rows]
            free_bytes -= vectors.nbytes
            if free_bytes >= 0:
                cache[int(rows[0])] = vectors
    gram_of_all, product_of_all = grams.sum(axis=0), products.sum(axis=0)
    scores = np.empty((len(labels), classes), np.float32)
    for part, gram, product in zip(parts, grams, products, strict=True):
        matrix = (gram_of_all - gram).astype(np.float64)
        matrix[np.diag_indices_from(matrix)] += _RIDGE
        weights = np.linalg.solve(matrix, (product_of_all - product).astype(np.float64)).astype(np.float32)
        for rows in part:
            number = int(rows[0])
            scores[rows] = (cache.pop(number) if number in cache else compute(rows)) @ weights
    return scores


def stroke_features(
    pixels: ArrayRows, indices: npt.NDArray[np.int64], features: int, random: np.random.Generator
) -> Callable[[npt.NDArray[np.int64]], Floats]:
    """Returns a function from positions in `indices` to features, float32 [n, features].

    They are random cosine features of a Gaussian kernel.

    Args:
        pixels: all images.
        indices: int64, at least one: the images that the function numbers 0, 1, ….
        features: number of features.
        random: draws them.
    """
    import tensorflow as tf  # the command line, which reads `LabelLimits`, starts without TensorFlow

    size = len(_describe(pixels[indices[:1]]))
    directions = tf.constant(random.normal(0, np.sqrt(2 * _WIDTH), (size, features)), tf.float32)
    phases = random.uniform(0, 2 * np.pi, features).astype(np.float32)

    def compute(rows: npt.NDArray[np.int64]) -> Floats:
        # Twice as fast as NumPy where OpenBLAS does not know the processor and assumes an older one.
        result = tf.matmul(_describe(pixels[indices[rows]]), directions, transpose_a=True).numpy()
        result += phases
        return np.cos(result, out=result)

    return compute


def _describe(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Measures strokes by direction and cell: uint8 [n, height, width] -> float32 [8 * cells, n] of length 1 or 0."""
    count, height, width = pixels.shape
    of_row, of_column = _cells(height), _cells(width)
    result = np.empty((4, 2, of_row[-1] + 1, of_column[-1] + 1, count), np.float32)
    for start in range(0, count, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        # The images come last, so that every operation works on contiguous memory. Integer sums are exact.
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
    """Returns the row or column of the grid for each row or column of pixels."""
    return np.arange(size) * min(_GRID, size) // size
