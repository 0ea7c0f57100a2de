# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from components.validate import label_noise


def described(image):
    """The same, pixel by pixel, as one would write it down."""
    height, width = image.shape
    rows, columns = min(7, height), min(7, width)
    padded = np.pad(image.astype(float), 1)
    sums = np.zeros((4, 2, rows, columns))
    for y in range(height):
        for x in range(width):
            right = padded[y + 1, x + 2] - padded[y + 1, x]
            down = padded[y + 2, x + 1] - padded[y, x + 1]
            slopes = (right, (right + down) / np.sqrt(2), down, (down - right) / np.sqrt(2))
            for direction, slope in enumerate(slopes):
                sums[direction, int(slope < 0), y * rows // height, x * columns // width] += abs(slope)
    roots = np.sqrt(sums.ravel())
    return roots / max(np.linalg.norm(roots), 1e-6)


@pytest.mark.parametrize("shape", [(28, 28), (5, 9), (30, 13), (1, 1)])
def test_strokes_are_summed_by_direction_and_cell(shape, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (7, *shape), np.uint8)
    images[3] = 0
    monkeypatch.setattr(label_noise, "_CHUNK", 3)

    found = label_noise._describe(images)

    assert found.dtype == np.float32
    np.testing.assert_allclose(found.T, [described(image) for image in images], atol=1e-6)
