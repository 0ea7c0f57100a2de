# SPDX-License-Identifier: Apache-2.0
"""Checks of the labels alone: the range of the labels, the size of each class, and the balance of the classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from components import features, sampling_margin
from components.findings import CLASS_BALANCE, CLASS_MISSING, LABEL_OUT_OF_RANGE, Finding, excluded_words
from components.validate.images import Images, build_finding, first_ids, percent, points, portion


def find_out_of_range(split: str, images: Images) -> Iterator[Finding]:
    """Finds labels that are no class; none is allowed."""
    last = len(features.CLASSES) - 1
    wrong = np.flatnonzero((images.labels < 0) | (images.labels > last))
    if len(wrong):
        values = np.unique(images.labels[wrong])
        shown = ", ".join(str(value) for value in values[:5]) + (", …" if len(values) > 5 else "")
        yield build_finding(
            LABEL_OUT_OF_RANGE,
            f"{portion(len(wrong), split, images)} have a label outside 0 to {last} (such as {shown}); none is allowed",
            "correct these labels, or add the classes to the data contract",
            len(wrong),
            0,
            len(wrong),
            first_ids(images, wrong),
            ", which leaves these images out",
        )


def report_excluded(by_split: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Reports the labels that are no class of the images that ingest has left out, because that is allowed.

    Args:
        by_split: the custom property `excluded` of the Examples (`components.ingest.executor.IngestExecutor`).
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


def find_missing(split: str, images: Images, least: int) -> Iterator[Finding]:
    """Finds classes with fewer than `least` images in a split."""
    counts = _counts(images)
    small = np.flatnonzero(counts < least)
    if len(small):
        listed = ", ".join(f"{features.CLASSES[c]} ({counts[c]:,})" for c in small)
        fewest = int(counts.min())
        yield build_finding(
            CLASS_MISSING,
            f"{len(small)} of {len(counts)} classes have fewer images in {split} than the limit of {least:,}, by up to "
            f"{least - fewest:,}, namely {listed}",
            "add images of them, or take them out of the data contract",
            fewest,
            least,
        )


def find_uneven(splits: Mapping[str, Images], ratio: float) -> Iterator[Finding]:
    """Finds a largest class with over `ratio` times the images of the smallest, in train.

    The limit has a margin for chance (`sampling_margin.ratio_limit`). `find_shifted` compares the other splits.
    """
    counts = _counts(splits[features.TRAIN]) if features.TRAIN in splits else np.zeros(1, np.int64)
    present = np.flatnonzero(counts)
    if not len(present):
        return
    largest, smallest = present[counts[present].argmax()], present[counts[present].argmin()]
    most, fewest = int(counts[largest]), int(counts[smallest])
    measured = most / fewest
    limit = sampling_margin.ratio_limit(ratio, most, fewest)
    if measured > limit:
        yield build_finding(
            CLASS_BALANCE,
            f"In {features.TRAIN}, class {features.CLASSES[largest]} has {most:,} images and class "
            f"{features.CLASSES[smallest]} has {fewest:,}, a ratio of {measured:.2f}, {measured - limit:.2f} over the "
            f"limit of {limit:.2f} ({ratio:g} and a margin for chance)",
            "see whether images were lost or labelled wrongly; if the classes are meant to be so, raise the limit",
            measured,
            limit,
        )


def find_shifted(splits: Mapping[str, Images], distance: float) -> Iterator[Finding]:
    """Finds splits whose class shares differ from those of train, by the largest difference of any class (L-infinity).

    Args:
        splits: images by split; without train nothing is compared.
        distance: the largest difference allowed, 0 .. 1; four standard errors of it are added for chance.
    """
    train = _counts(splits[features.TRAIN]) if features.TRAIN in splits else np.zeros(1, np.int64)
    for split, images in splits.items():
        counts = _counts(images)
        if split == features.TRAIN or not train.sum() or not counts.sum():
            continue
        train_shares, shares = train / train.sum(), counts / counts.sum()
        limits = distance + sampling_margin.share_margin(train, counts)
        apart = np.abs(train_shares - shares)
        worst = int((apart - limits).argmax())
        if apart[worst] > limits[worst]:
            yield build_finding(
                CLASS_BALANCE,
                f"Class {features.CLASSES[worst]} is {percent(train_shares[worst])} of {features.TRAIN} and "
                f"{percent(shares[worst])} of {split}, {points(apart[worst])} apart, "
                f"{points(apart[worst] - limits[worst])} over the limit of {points(limits[worst])} ({points(distance)} "
                "and a margin for chance)",
                "see whether images were lost or labelled wrongly, and draw both splits from the same source",
                apart[worst],
                limits[worst],
            )


def _counts(images: Images) -> npt.NDArray[np.int64]:
    """Counts the images of each class: int64 [classes]; labels out of range are ignored."""
    inside = (images.labels >= 0) & (images.labels < len(features.CLASSES))
    return np.bincount(images.labels[inside], minlength=len(features.CLASSES))
