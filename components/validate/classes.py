# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the labels as numbers: out of range, a class missing, a shifted balance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from components import features, sampling_margin
from components.findings import LABEL_OUT_OF_RANGE, Finding, excluded_words
from components.validate.images import Images, build_finding, named, part_of, percent, points

CLASS_MISSING = "class-missing"
CLASS_BALANCE = "class-balance"


def out_of_range(split: str, images: Images) -> Iterator[Finding]:
    """Labels that are no class; not one is allowed."""
    last = len(features.CLASSES) - 1
    wrong = np.flatnonzero((images.labels < 0) | (images.labels > last))
    if len(wrong):
        values = np.unique(images.labels[wrong])
        shown = ", ".join(str(value) for value in values[:5]) + (", …" if len(values) > 5 else "")
        yield build_finding(
            LABEL_OUT_OF_RANGE,
            f"{part_of(len(wrong), split, images)} have a label outside 0 to {last} ({shown}), {len(wrong):,} over the "
            "limit of 0",
            "correct these labels, or add the classes to the data contract",
            len(wrong),
            0,
            len(wrong),
            named(images, wrong),
            ", which leaves these images out",
        )


def excluded(by_split: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Labels that are no class, of images that ingest has left out because that is allowed.

    Args:
        by_split: the custom property `excluded` of the Examples (`components.ingest.executor.Executor`).
    """
    for split, row in by_split.items():
        count = sum(row["labels"].values())
        yield Finding(
            LABEL_OUT_OF_RANGE,
            f"Left out of every stage, as their label is none of 0 to {len(features.CLASSES) - 1}: "
            f"{excluded_words({split: row['labels']})}; correct these labels, or add the classes to the data contract.",
            count,
            0,
            count,
            tuple(row["examples"]),
        )


def missing(split: str, images: Images, least: int) -> Iterator[Finding]:
    """Classes with fewer than `least` images in a split."""
    counts = _counts(images)
    few = np.flatnonzero(counts < least)
    if len(few):
        listed = ", ".join(f"{features.CLASSES[c]} ({counts[c]:,})" for c in few)
        fewest = int(counts.min())
        yield build_finding(
            CLASS_MISSING,
            f"{len(few)} of {len(counts)} classes have fewer images in {split} than the limit of {least:,}, by up to "
            f"{least - fewest:,}, namely {listed}",
            "add images of them, or take them out of the data contract",
            fewest,
            least,
        )


def uneven(splits: Mapping[str, Images], ratio: float) -> Iterator[Finding]:
    """A largest class that has over `ratio` times the images of the smallest, in train.

    Room is left for chance (`chance.ratio`). The other splits are held against train.
    """
    counts = _counts(splits[features.TRAIN]) if features.TRAIN in splits else np.zeros(1, np.int64)
    there = np.flatnonzero(counts)
    if not len(there):
        return
    largest, smallest = there[counts[there].argmax()], there[counts[there].argmin()]
    most, fewest = int(counts[largest]), int(counts[smallest])
    measured = most / fewest
    limit = sampling_margin.ratio_limit(ratio, most, fewest)
    if measured > limit:
        yield build_finding(
            CLASS_BALANCE,
            f"In {features.TRAIN}, class {features.CLASSES[largest]} has {most:,} images and class "
            f"{features.CLASSES[smallest]} has {fewest:,}, a ratio of {measured:.2f}, {measured - limit:.2f} over the "
            f"limit of {limit:.2f} ({ratio:g} and room for chance)",
            "see whether images were lost or labelled wrongly; if the classes are meant to be so, raise the limit",
            measured,
            limit,
        )


def shifted(splits: Mapping[str, Images], distance: float) -> Iterator[Finding]:
    """Splits whose class shares differ from those of train, by the largest difference of any class (L-infinity).

    Args:
        splits: images by split; without train nothing is compared.
        distance: what is fine, 0 .. 1; four standard errors of the difference are added for chance.
    """
    train = _counts(splits[features.TRAIN]) if features.TRAIN in splits else np.zeros(1, np.int64)
    for split, images in splits.items():
        other = _counts(images)
        if split == features.TRAIN or not train.sum() or not other.sum():
            continue
        shares, others = train / train.sum(), other / other.sum()
        limits = distance + sampling_margin.share_margin(train, other)
        apart = np.abs(shares - others)
        worst = int((apart - limits).argmax())
        if apart[worst] > limits[worst]:
            yield build_finding(
                CLASS_BALANCE,
                f"Class {features.CLASSES[worst]} is {percent(shares[worst])} of {features.TRAIN} and "
                f"{percent(others[worst])} of {split}, {points(apart[worst])} apart, "
                f"{points(apart[worst] - limits[worst])} over the limit of {points(limits[worst])} ({points(distance)} "
                "and room for chance)",
                "see whether images were lost or labelled wrongly, and draw both splits from the same source",
                apart[worst],
                limits[worst],
            )


def _counts(images: Images) -> npt.NDArray[np.int64]:
    """Images of each class: int64 [classes]; labels out of range count nowhere."""
    inside = (images.labels >= 0) & (images.labels < len(features.CLASSES))
    return np.bincount(images.labels[inside], minlength=len(features.CLASSES))
