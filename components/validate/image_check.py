# SPDX-License-Identifier: Apache-2.0
"""The check of every image and label, by limits that a data-set profile can set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from components.findings import LABEL_OUT_OF_RANGE, Finding
from components.validate import classes, duplicates
from components.validate.images import Images, Pixels, blocks, build_finding, named, over, part_of
from components.validate.limits import PixelLimits

INVERTED_PIXELS = "inverted-pixels"
BLANK_IMAGE = "blank-image"
# Every kind of finding of `check`.
NAMES = (
    LABEL_OUT_OF_RANGE,
    classes.CLASS_MISSING,
    classes.CLASS_BALANCE,
    INVERTED_PIXELS,
    BLANK_IMAGE,
    duplicates.DUPLICATE_IMAGES,
    duplicates.TEST_LEAK,
    duplicates.NEAR_TEST_LEAK,
)

_BLOCK = 4096  # images that are looked at at a time

Floats = npt.NDArray[np.floating[Any]]


def check(splits: Mapping[str, Images], limits: PixelLimits = PixelLimits()) -> list[Finding]:
    """Looks at every image and label. Half a second for MNIST.

    Args:
        splits: images by the split's name, all of one height and width.
        limits: what is still fine.

    Returns:
        At most one finding of each kind for a split (class balance: two); none when nothing is wrong.
    """
    found: list[Finding] = []
    for split, images in splits.items():
        found += classes.out_of_range(split, images)
        found += classes.missing(split, images, limits.class_count)
        found += _inverted(split, images, limits)
        found += _blank(split, images, limits)
    found += classes.uneven(splits, limits.class_ratio)
    found += classes.shifted(splits, limits.class_distance)
    hashes = duplicates.hashes_of(splits)
    found += duplicates.find_duplicates(splits, hashes, limits.duplicates)
    found += duplicates.find_leaks(splits, hashes, limits.leaked, limits.near_leaked, limits.near_distance)
    return found


def _inverted(split: str, images: Images, limits: PixelLimits) -> Iterator[Finding]:
    """Images with a bright background."""
    wrong = np.flatnonzero((_each(images, _border) > limits.bright) & (_each(images, _mean) > limits.bright))
    if len(wrong) > limits.inverted * len(images):
        measured = len(wrong) / len(images)
        yield build_finding(
            INVERTED_PIXELS,
            f"{part_of(len(wrong), split, images)} have a bright background (border and whole image over "
            f"{limits.bright:g} on average), {over(measured, limits.inverted)}",
            "the background must be 0, so store 255 minus each pixel of these images",
            measured,
            limits.inverted,
            len(wrong),
            named(images, wrong),
        )


def _blank(split: str, images: Images, limits: PixelLimits) -> Iterator[Finding]:
    """Images of one colour, or nearly so."""
    wrong = np.flatnonzero(_each(images, _spread) < limits.spread)
    if len(wrong) > limits.blank * len(images):
        measured = len(wrong) / len(images)
        yield build_finding(
            BLANK_IMAGE,
            f"{part_of(len(wrong), split, images)} are blank (standard deviation of the pixels below "
            f"{limits.spread:g}), {over(measured, limits.blank)}",
            "take these images out, or read them again from their source",
            measured,
            limits.blank,
            len(wrong),
            named(images, wrong),
        )


def _each(images: Images, measure: Callable[[Pixels], Floats]) -> Floats:
    """What a function of [k, height, width] says of each image: float [n]."""
    parts = (measure(images.pixels[rows]) for rows in blocks(len(images), _BLOCK))
    return np.concatenate([np.zeros(0, np.float32), *parts])


def _mean(pixels: Pixels) -> Floats:
    """Mean of each image in 0 .. 1: float64 [k]."""
    return pixels.mean(axis=(1, 2)) / 255


def _border(pixels: Pixels) -> Floats:
    """Mean of the outermost rows and columns of each image in 0 .. 1: float64 [k]."""
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1)
    return border.mean(axis=1) / 255


def _spread(pixels: Pixels) -> Floats:
    """Standard deviation of the pixels of each image, 0 .. 0.5: float32 [k]."""
    return pixels.reshape(len(pixels), -1).std(axis=1, dtype=np.float32) / 255
