# SPDX-License-Identifier: Apache-2.0
"""Images that are there more than once: within a split, of train in val, and of either in test, exact and near."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from components import features
from components.findings import Finding
from components.validate import near_duplicates
from components.validate.images import Images, finding, named, over, part_of

DUPLICATE_IMAGES = "duplicate-images"
TEST_LEAK = "test-leak"
NEAR_TEST_LEAK = "near-test-leak"

Place = tuple[str, int]  # a split and the position in it


def duplicates(splits: Mapping[str, Images], share: float) -> Iterator[Finding]:
    """Images that repeat an earlier one, pixel by pixel: of the same split or, in the others than test, of train.

    Args:
        splits: images by split.
        share: of a split's images, 0 .. 1, that may do so.
    """
    train = _places(splits, [features.TRAIN] if features.TRAIN in splits else [])
    for split, images in splits.items():
        seen = dict(train) if split not in (features.TRAIN, features.TEST) else {}
        repeated = np.array(
            [i for i, image in enumerate(images.pixels) if seen.setdefault(image.tobytes(), (split, i)) != (split, i)],
            np.int64,
        )
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


def leaks(splits: Mapping[str, Images], leaked: int, near_leaked: int, near_distance: float) -> Iterator[Finding]:
    """Test images that are in another split too.

    Args:
        splits: images by split; without test nothing is compared.
        leaked: how many may be there pixel by pixel.
        near_leaked: how many more may have a near copy there.
        near_distance: at most this far apart is a near copy, in the measure of `near_duplicates`.
    """
    others = [split for split in splits if split != features.TEST and len(splits[split])]
    if not others or features.TEST not in splits:
        return
    test = splits[features.TEST]
    known = _places(splits, others)
    sources = [known.get(image.tobytes()) for image in test.pixels]
    exact = np.array([i for i, source in enumerate(sources) if source is not None], np.int64)
    where = " or ".join(others)
    if len(exact) > leaked:
        yield finding(
            TEST_LEAK,
            f"{part_of(len(exact), features.TEST, test)} are also in {where}, {len(exact) - leaked:,} over the limit "
            f"of {leaked:,} (such as {test.ids[exact[0]]}, which is {_called(splits, sources[exact[0]])})",
            "take them out of one of the two, for the model would be tested on what it has learned by heart",
            len(exact),
            leaked,
            len(exact),
            named(test, exact),
        )
    rest = np.setdiff1d(np.arange(len(test)), exact)
    compared = np.concatenate([splits[split].pixels for split in others])
    pairs = near_duplicates.find(test.pixels[rest], compared, near_distance)
    near = rest[pairs.images]
    if len(near) > near_leaked:
        places = [(split, i) for split in others for i in range(len(splits[split]))]
        yield finding(
            NEAR_TEST_LEAK,
            f"{part_of(len(near), features.TEST, test)} have a near copy in {where}, at a distance of at most "
            f"{near_distance:g}, {len(near) - near_leaked:,} over the limit of {near_leaked:,} (the nearest, at "
            f"{pairs.distances[0]:.2f}, are {test.ids[near[0]]} and {_called(splits, places[pairs.others[0]])})",
            "take them out of one of the two, for the model would be tested on what it has learned by heart",
            len(near),
            near_leaked,
            len(near),
            named(test, near),
        )


def _places(splits: Mapping[str, Images], names: list[str]) -> dict[bytes, Place]:
    """Where each image is, the first place that has it."""
    # In reverse, so that the first place is the last to be written.
    places = [(name, i) for name in names for i in range(len(splits[name]))]
    return {splits[name].pixels[i].tobytes(): (name, i) for name, i in reversed(places)}


def _called(splits: Mapping[str, Images], place: Place | None) -> str:
    if place is None:
        raise ValueError("Only an image that was found elsewhere has a place there.")
    split, index = place
    return f"{splits[split].ids[index]} of {split}"
