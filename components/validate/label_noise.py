# SPDX-License-Identifier: Apache-2.0
"""Training labels that are probably wrong: confident disagreement of predictions made out of sample.

Each image is described by its strokes' directions on a coarse grid (in the manner of histograms of oriented gradients,
N. Dalal and B. Triggs, CVPR 2005) and by random cosine features of these (A. Rahimi and B. Recht, NIPS 2007). A ridge
regression on the one-hot labels is solved in closed form without one fold and scores the images of that fold. A label
is suspect where

- another class scores higher than the given one by more than 0.4, or
- the score of another class is at least what images labelled so have on average (confident learning: C. Northcutt,
  L. Jiang, I. Chuang, JAIR 70, 2021). This one finds half of a class relabelled as another: then the scores of both are
  close, but so are the averages.

`benchmarks/label_noise.py` measures how many of the wrong labels it finds.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from components.findings import Finding
from components.validate.images import Images, finding, over, percent

NAME = "label-noise"

# Precision 0.97 and recall 0.96 with 5 % of MNIST's labels flipped; 0.3 gives 0.94 and 0.98, 0.5 gives 0.98 and 0.92.
_MARGIN = 0.4
_GRID = 7  # rows and columns of cells: 4x4 pixels each in an image of 28x28
_WIDTH = 0.25  # of the kernel exp(-WIDTH |a - b|^2) that the cosine features stand for; the descriptions have length 1
_RIDGE = 10.0  # added to the Gram matrix's diagonal, which is about half the number of images; less overfits digits
_CHUNK = 512  # images whose gradients are worked on at a time: they stay in the processor's cache

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class LabelLimits:
    """What the suspect labels are held against.

    Attributes:
        suspects: share of all labels, 0 .. 1. Clean MNIST has 0.002, clean digits have 0.001, and half of one of ten
            classes relabelled has 0.03; the default lies between, three times from the latter.
        pair: share of the labels of one class that look like one other class, 0 .. 1: confusion of two classes is seen
            before it counts among all. Clean data has at most 0.007; a tenth of the 4s relabelled 9 makes 0.06 of the
            9s look like 4, half of them 0.16.
        pair_count: a pair of classes with fewer suspects than this is left alone: in a small class each is a percent.
    """

    suspects: float = 0.01
    pair: float = 0.03
    pair_count: int = 5


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


def find(images: Images, classes: int, folds: int = 5, features: int = 1200, seed: int = 0) -> LabelNoise:
    """Finds the labels that predictions from the other images contradict. MNIST takes 2 s and 8 KB an image.

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
    described = _cosines(_describe(images.pixels[known]), features, random)
    scores = _scores(described, labels, classes, _folds(labels, folds))
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


def check(
    images: Images, classes: int, limits: LabelLimits = LabelLimits(), noise: LabelNoise | None = None
) -> list[Finding]:
    """Holds the suspect labels of one split against the limits: [] or one finding "label-noise".

    Args:
        images: one split.
        classes: number of classes.
        limits: what is still fine.
        noise: what `find` says of these images, where that is known already.
    """
    noise = noise or find(images, classes)
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
    return [finding(NAME, what, advice, measured, limit, len(noise.index), noise.ids)]


def _describe(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Strokes by direction and place: uint8 [n, height, width] -> float32 [n, 8 * cells], each of length 1 or 0."""
    count, height, width = pixels.shape
    cells = _pooling(height, width)
    result = np.empty((count, 8 * cells.shape[1]), np.float32)
    half = np.float32(np.sqrt(0.5))
    for start in range(0, count, _CHUNK):
        padded = np.pad(pixels[start : start + _CHUNK], ((0, 0), (1, 1), (1, 1))).astype(np.float32)
        right = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
        down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
        slopes = (right, half * (right + down), down, half * (down - right))
        parts = []
        for slope in slopes:
            rise = np.maximum(slope, 0).reshape(len(padded), -1) @ cells
            # What falls in this direction is the rise in the opposite one.
            fall = rise - slope.reshape(len(padded), -1) @ cells
            parts += [rise, np.maximum(fall, 0)]
        # The root keeps one strong edge from outweighing the rest.
        part = np.sqrt(np.concatenate(parts, axis=1))
        part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), np.float32(1e-6))
        result[start : start + _CHUNK] = part
    return result


def _pooling(height: int, width: int) -> Floats:
    """Sums the pixels of each cell of the grid, as a matrix: float32 [height * width, rows * columns of cells]."""
    rows, columns = min(_GRID, height), min(_GRID, width)
    row = np.arange(height) * rows // height
    column = np.arange(width) * columns // width
    cell = (row[:, None] * columns + column[None, :]).ravel()
    return np.eye(rows * columns, dtype=np.float32)[cell]


def _cosines(vectors: Floats, features: int, random: np.random.Generator) -> Floats:
    """Random cosine features of a Gaussian kernel: float32 [n, d] -> float32 [n, features]."""
    directions = random.normal(0, np.sqrt(2 * _WIDTH), (vectors.shape[1], features)).astype(np.float32)
    result = vectors @ directions
    result += random.uniform(0, 2 * np.pi, features).astype(np.float32)
    return np.cos(result, out=result)


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


def _scores(described: Floats, labels: npt.NDArray[np.int64], classes: int, fold: npt.NDArray[np.int64]) -> Floats:
    """Scores of each image from a ridge regression on the other folds: float32 [n, classes], about 0 .. 1."""
    folds = int(fold.max()) + 1
    targets = np.eye(classes, dtype=np.float32)[labels]
    members = [np.flatnonzero(fold == k) for k in range(folds)]
    parts = [described[rows] for rows in members]
    grams = [part.T @ part for part in parts]
    products = [part.T @ targets[rows] for part, rows in zip(parts, members, strict=True)]
    whole, product = sum(grams), sum(products)
    scores = np.empty((len(labels), classes), np.float32)
    for rows, part, gram, own in zip(members, parts, grams, products, strict=True):
        matrix = (whole - gram).astype(np.float64)
        matrix[np.diag_indices_from(matrix)] += _RIDGE
        weights = np.linalg.solve(matrix, (product - own).astype(np.float64))
        scores[rows] = part @ weights.astype(np.float32)
    return scores
