# SPDX-License-Identifier: Apache-2.0
"""The limits of the data gate on images and labels. No heavy imports: settings are read before anything else."""

from __future__ import annotations

from pydantic import Field

from components.table import Table


class PixelLimits(Table):
    """The limits of images and labels. Clean MNIST and clean digits pass the defaults."""

    # 1, no class is missing: a small validation split has only a few of each.
    class_count: int = Field(default=1, ge=0, description="fewest images of each class in each split")
    # MNIST has 1.24, digits have 1.1; with half of any class taken away it is 1.8 or more.
    class_ratio: float = Field(
        default=1.5, ge=1, description="images of the largest class over those of the smallest, in train, beyond chance"
    )
    # Those of MNIST's files differ by 0.005; half of a class missing from train moves its share by over 0.04.
    class_distance: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="difference of a class's share between train and another split, beyond chance",
    )
    # The background is 0. Clean images have no border over 0.04 and no mean over 0.4, negatives 0.96 and 0.6 at least.
    bright: float = Field(
        default=0.5, ge=0, le=1, description="an image is inverted if its border and all of it are brighter on average"
    )
    # A tenth of the 1 % that must be noticed.
    inverted: float = Field(default=0.001, ge=0, le=1, description="share of a split's images that may be inverted")
    # The faintest clean image has 0.12; a single white pixel on black has 0.04.
    spread: float = Field(
        default=0.05, ge=0, le=0.5, description="an image is blank if the standard deviation of its pixels is below"
    )
    # Clean data has none.
    blank: float = Field(default=0.0, ge=0, le=1, description="share of a split's images that may be blank")
    # MNIST and digits have none; this few can't move a figure that anyone reads.
    duplicates: float = Field(
        default=0.0002,
        ge=0,
        le=1,
        description="share of a split's images that may repeat one of that split, or of train where it is val",
    )
    # Each is an answer that the training has seen.
    leaked: int = Field(default=0, ge=0, description="test images that may also be in train or val, pixel by pixel")
    near_leaked: int = Field(
        default=0, ge=0, description="further test images that may have a near copy in train or val"
    )
    # In the measure of `find_leaks`, which grows with the size of the images. Copies with noise of 8/255 are within
    # 0.32, different digits at least 0.49 apart.
    near_distance: float = Field(default=0.4, ge=0, description="images at most this far apart are near copies")


class LabelLimits(Table):
    """The limits of suspect labels."""

    # Clean MNIST has 0.002, clean digits have 0.001, and half of one of ten classes relabelled has 0.03; the default
    # lies between, three times from the latter.
    suspects: float = Field(default=0.01, ge=0, le=1, description="share of all labels that may be suspect")
    # Confusion of two classes is seen before it counts among all. Clean data has at most 0.007; a tenth of the 4s
    # relabelled 9 makes 0.06 of the 9s look like 4, half of them 0.16.
    pair: float = Field(
        default=0.03, ge=0, le=1, description="share of the labels of one class that may look like one other class"
    )
    # In a small class each is a percent.
    pair_count: int = Field(default=5, ge=0, description="suspects from which a pair of classes is looked at")
