# SPDX-License-Identifier: Apache-2.0
"""Checks every image and label against the limits of the data-set profile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from components.findings import BLANK_IMAGE, INVERTED_PIXELS, Finding
from components.validate import classes, duplicates
from components.validate.images import Images, Pixels, blocks, build_finding, excess, first_ids, portion
from components.validate.limits import PixelLimits

_BLOCK = 4096  # images to measure at a time

Floats = npt.NDArray[np.floating[Any]]


def check(splits: Mapping[str, Images], limits: PixelLimits = PixelLimits()) -> list[Finding]:
    """Checks every image and label, in half a second for MNIST.

    Args:
        splits: images by the split's name, all of one height and width.
        limits: of the profile.

    Returns:
        At most one finding of each kind for a split (class balance: two); none when nothing is wrong.
    """
    findings: list[Finding] = []
    for split, images in splits.items():
        findings += classes.find_out_of_range(split, images)
        findings += classes.find_missing(split, images, limits.class_count)
        findings += _find_inverted(split, images, limits)
        findings += _find_blank(split, images, limits)
    findings += classes.find_uneven(splits, limits.class_ratio)
    findings += classes.find_shifted(splits, limits.class_distance)
    hashes = duplicates.hash_images(splits)
    findings += duplicates.find_duplicates(splits, hashes, limits.duplicates)
    findings += duplicates.find_leaks(splits, hashes, limits.leaked, limits.near_leaked, limits.near_distance)
    return findings


def _find_inverted(split: str, images: Images, limits: PixelLimits) -> Iterator[Finding]:
    """Finds images with a bright background."""
    wrong = np.flatnonzero((_each(images, _border) > limits.bright) & (_each(images, _mean) > limits.bright))
    if len(wrong) > limits.inverted * len(images):
        measured = len(wrong) / len(images)
        yield build_finding(
            INVERTED_PIXELS,
            f"{portion(len(wrong), split, images)} have a bright background (border and mean over "
            f"{limits.bright:g} on average), {excess(measured, limits.inverted)}",
            "the background must be 0, so store 255 minus each pixel of these images",
            measured,
            limits.inverted,
            len(wrong),
            first_ids(images, wrong),
        )


def _find_blank(split: str, images: Images, limits: PixelLimits) -> Iterator[Finding]:
    """Finds images of one colour, or nearly so."""
    wrong = np.flatnonzero(_each(images, _spread) < limits.spread)
    if len(wrong) > limits.blank * len(images):
        measured = len(wrong) / len(images)
        yield build_finding(
            BLANK_IMAGE,
            f"{portion(len(wrong), split, images)} are blank (standard deviation of the pixels below "
            f"{limits.spread:g}), {excess(measured, limits.blank)}",
            "remove these images, or read them again from their source",
            measured,
            limits.blank,
            len(wrong),
            first_ids(images, wrong),
        )


def _each(images: Images, measure: Callable[[Pixels], Floats]) -> Floats:
    """Applies a function of [k, height, width] to all images: float [n]."""
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
