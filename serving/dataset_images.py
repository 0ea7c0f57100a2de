# SPDX-License-Identifier: Apache-2.0
"""The test images of the data set that a served model names, from the user's cache or a folder; no download."""

from __future__ import annotations

import pathlib

import numpy as np
import numpy.typing as npt

from components.errors import BadInput
from components.ingest import idx, source

Images = npt.NDArray[np.uint8]


def read(dataset: str, data_dir: pathlib.Path | None, image_shape: tuple[int, int]) -> tuple[Images, Images]:
    """Reads the test images of a data set and their labels.

    Args:
        dataset: its name, empty where the model does not say.
        data_dir: folder with its four IDX files; the user's cache folder where None.
        image_shape: height and width in pixels that the images must have.

    Returns:
        uint8 [n, height, width] and uint8 [n].

    Raises:
        BadInput: they are not there, or are no IDX files.
    """
    if data_dir is None:
        data_dir = _cached(dataset)
    _, directory = source.find_span(data_dir.expanduser().absolute(), None)
    images, labels = idx.read_pair(directory, idx.TEST_IMAGES, idx.TEST_LABELS, image_shape)
    return images.array, labels.array


def _cached(dataset: str) -> pathlib.Path:
    if not dataset:
        raise BadInput(
            "--index needs a data set, and this server does not name the one of its model: give --data-dir DIR"
        )
    if dataset == source.DIGITS:  # made from what is installed, where it is not there yet
        return pathlib.Path(source.resolve(source.DIGITS, image_shape=(28, 28)).source.directory)
    folder = source.default_cache_dir() / dataset
    if not folder.is_dir():
        raise BadInput(
            f"--index reads the data set {dataset} from the cache, and it is not in {folder}: give --data-dir DIR"
        )
    return folder
