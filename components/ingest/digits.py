# SPDX-License-Identifier: Apache-2.0
"""The embedded data set: the 1,797 handwritten digits that come with scikit-learn, brought into the form of MNIST.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49 (8x8 pixels of 0 to 16; CC BY 4.0). As in MNIST, a digit is scaled into a box of 20x20,
and its centre of mass is put on the centre of a 28x28 image. All arithmetic is in integers, so every machine writes
the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import os
import pathlib
import tempfile

import numpy as np
import numpy.typing as npt

from components.errors import BadInput, ProjectError
from components.ingest import encode, idx

TRAIN_COUNT, TEST_COUNT = 1498, 299
# SHA-256 of the four files: the definition of the data set.
DIGESTS = {
    idx.TRAIN_IMAGES: "7e2c8883bda2edac63b740e0301c8a60705e122bb8f4a8d866973e4fa2152924",
    idx.TRAIN_LABELS: "1244e9bb9ad81a97deb350380f5228cafd928bf49272959fe7d36ed575a099d0",
    idx.TEST_IMAGES: "69eb1f0f37ed311eeb141d49b4c5386d073a9695920602297b94fc5e59155ef1",
    idx.TEST_LABELS: "56bc6dba6e98e75e038187421480e2bfbc0ae5d49c418f3e17f62d3715201557",
}

_SIDE, _BOX, _SOURCE_SIDE, _SOURCE_MAX = 28, 20, 8, 16
_KERNEL_UNIT = 2000  # the cubic's weights below are exact in 1/2000 at the phases of an 8-to-20 scaling


def write(directory: str | os.PathLike[str]) -> None:
    """Writes the four IDX files into a folder, which is made where it is missing; no file is ever incomplete.

    Raises:
        BadInput: the folder cannot be written.
        ProjectError: scikit-learn is missing, or its digits are not the expected ones.
    """
    folder = pathlib.Path(directory)
    images, labels = _load()
    images = to_mnist_form(images)
    # By rank of a hash: the source is ordered by writer and runs through the classes in turn.
    test = encode.lowest_ranks(len(images), TEST_COUNT)
    train = np.setdiff1d(np.arange(len(images)), test)
    parts = {
        idx.TRAIN_IMAGES: images[train],
        idx.TRAIN_LABELS: labels[train],
        idx.TEST_IMAGES: images[test],
        idx.TEST_LABELS: labels[test],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
            for name, array in parts.items():
                idx.write(pathlib.Path(partial, name), array)
                pathlib.Path(partial, name).replace(folder / name)
    except OSError as error:
        raise BadInput(
            f"The digits are written into the cache folder; {folder} cannot be written ({error.strerror}). "
            "Set XDG_CACHE_HOME to a folder that can, or give --data-dir."
        ) from error


def to_mnist_form(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Scales digits of 8x8 pixels, 0 to 16, into 28x28 of 0 to 255 in the manner of MNIST.

    Args:
        images: uint8 [n, 8, 8].

    Returns:
        uint8 [n, 28, 28].
    """
    weights = _weights()
    # Separable cubic interpolation, rows then columns; at most 16 * 2000 * 2000 * 1.3, exact in int64.
    scaled = weights @ images.astype(np.int64) @ weights.T
    unit = _SOURCE_MAX * _KERNEL_UNIT**2
    boxes = np.clip((scaled * 255 * 2 + unit) // (2 * unit), 0, 255)
    result = np.zeros((len(images), _SIDE, _SIDE), np.uint8)
    for box, target in zip(boxes, result, strict=True):
        row, column = (_offset(box.sum(axis=axis)) for axis in (1, 0))
        target[row : row + _BOX, column : column + _BOX] = box
    return result


def _weights() -> npt.NDArray[np.int64]:
    """Keys' cubic (a = -1/2) from 8 samples to 20, in units of 1/2000: int64 [20, 8]. Outside the source is zero."""
    # Output i lies at (i + 1/2) * 8/20 - 1/2 = (4 i - 3) / 10 of the source; distances in tenths.
    outputs, sources = np.arange(_BOX)[:, None], np.arange(_SOURCE_SIDE)[None, :]
    d = np.abs(4 * outputs - 3 - 10 * sources)
    near = 3 * d**3 - 50 * d**2 + 2000  # (1.5 x^3 - 2.5 x^2 + 1) * 2000, with x = d / 10
    far = -(d**3) + 50 * d**2 - 800 * d + 4000  # (-0.5 x^3 + 2.5 x^2 - 4 x + 2) * 2000
    return np.where(d <= 10, near, np.where(d < 20, far, 0))


def _offset(profile: npt.NDArray[np.int64]) -> int:
    """Returns the start of a box, 0 .. 8, that centres its mass in the image, from its sums by row or column [20]."""
    total = int(profile.sum())
    doubled = int((profile * (2 * np.arange(_BOX) + 1)).sum())  # twice the centre of mass, times the total
    start = (_SIDE * total - doubled + total) // (2 * total) if total else (_SIDE - _BOX) // 2
    return min(max(start, 0), _SIDE - _BOX)


def _load() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Reads the data file of `sklearn.datasets.load_digits`: images uint8 [1797, 8, 8], labels uint8 [1797].

    The file is read without importing scikit-learn, which takes a second.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise ProjectError("The digits come with scikit-learn, which is not installed. Run `make setup`.")
    path = pathlib.Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    try:
        with gzip.open(path, "rt", encoding="ascii", newline="") as lines:
            table = np.array([[int(float(cell)) for cell in row] for row in csv.reader(lines)])
    except (OSError, ValueError) as error:
        raise ProjectError(f"The digits of scikit-learn cannot be read: {path}: {error}. Run `make setup`.") from error
    if table.shape != (TRAIN_COUNT + TEST_COUNT, _SOURCE_SIDE**2 + 1):
        raise ProjectError(f"Expected 1797 rows of 65 numbers in {path}, found {table.shape}. Run `make setup`.")
    return table[:, :-1].reshape(-1, _SOURCE_SIDE, _SOURCE_SIDE).astype(np.uint8), table[:, -1].astype(np.uint8)
