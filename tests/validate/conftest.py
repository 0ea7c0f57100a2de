# SPDX-License-Identifier: Apache-2.0
"""Real images, split as ingest splits them."""

import numpy as np
import pytest

from components import features
from components.ingest import digits, encode, idx, source
from components.validate.images import Images


def split(folder):
    _, contents = source.load(folder, None, (28, 28))
    arrays = {name: content.array for name, content in contents.items()}
    held_out = encode.lowest_ranks(len(arrays[idx.TRAIN_LABELS]), len(arrays[idx.TRAIN_LABELS]) // 12)
    rest = np.setdiff1d(np.arange(len(arrays[idx.TRAIN_LABELS])), held_out)

    def images(pixels, labels, chosen):
        ids = [f"{pixels}#{index}" for index in chosen]
        return Images(ids, arrays[pixels][chosen], arrays[labels][chosen].astype(np.int64))

    return {
        features.TRAIN: images(idx.TRAIN_IMAGES, idx.TRAIN_LABELS, rest),
        features.VAL: images(idx.TRAIN_IMAGES, idx.TRAIN_LABELS, held_out),
        features.TEST: images(idx.TEST_IMAGES, idx.TEST_LABELS, np.arange(len(arrays[idx.TEST_LABELS]))),
    }


@pytest.fixture(scope="session")
def digit_splits(tmp_path_factory):
    """The embedded digits: 1,374, 124 and 299 images."""
    folder = tmp_path_factory.mktemp("digits")
    digits.write(folder)
    return split(folder)


@pytest.fixture(scope="session")
def mnist_splits(mnist_dir):
    """MNIST: 55,000, 5,000 and 10,000 images."""
    return split(mnist_dir)
