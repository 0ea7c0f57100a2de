# SPDX-License-Identifier: Apache-2.0
"""Conversion of pictures to the format of MNIST."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.errors import BadInput
from serving import preprocess
from tests.serving.conftest import photograph


def test_photographs_become_like_the_drawing(digits):
    images, _ = digits
    for number in range(20):
        expected = np.asarray(preprocess.prepare(Image.fromarray(np.pad(images[number], 14)), (28, 28))).astype(float)
        pixels = preprocess.prepare(photograph(images[number], number), (28, 28)).astype(float)
        assert pixels.shape == (28, 28)
        correlation = np.corrcoef(pixels.ravel(), expected.ravel())[0, 1]
        other = np.corrcoef(pixels.ravel(), images[number + 20].ravel())[0, 1]
        assert correlation > 0.8 > other, number


@pytest.mark.parametrize("form", ["inverted", "colour", "alpha", "turned", "large", "jpeg", "sixteen bits"])
def test_any_kind_of_picture_gives_the_same(digits, tmp_path, form):
    image = np.pad(digits[0][4], 10)
    plain, path = Image.fromarray(image), tmp_path / "a.png"
    expected = preprocess.prepare(plain.copy(), (28, 28)).astype(int)
    other = {
        "inverted": Image.fromarray(255 - image),
        "colour": Image.merge("RGB", [plain] * 3),
        "alpha": Image.merge("LA", [Image.new("L", plain.size), plain]),  # black ink on a transparent background
        "turned": plain.transpose(Image.Transpose.ROTATE_90),
        "large": plain.resize((960, 960), Image.Resampling.NEAREST),
        "jpeg": plain,
        "sixteen bits": Image.fromarray(image.astype(np.uint16) * 257),
    }[form]
    options: dict[str, Any] = {}
    if form == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # from a phone that was held upright
        options["exif"] = exif
    if form == "jpeg":
        path = tmp_path / "a.jpg"
    other.save(path, **options)
    pixels = preprocess.read(path, (28, 28)).astype(int)
    assert np.abs(pixels - expected).mean() < 12
    assert np.abs(pixels - expected).mean() < np.abs(pixels[:, ::-1] - expected).mean() / 2


def test_the_digit_is_in_its_box_and_centred_by_mass(digits):
    for number in range(30):
        image = np.zeros((150, 200), np.uint8)
        image[10:38, 60:88] = digits[0][number]
        pixels = preprocess.prepare(Image.fromarray(image), (28, 28)).astype(float)
        rows, columns = np.flatnonzero((pixels > 60).any(axis=1)), np.flatnonzero((pixels > 60).any(axis=0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20, 21)
        y, x = np.indices(pixels.shape) + 0.5
        assert abs((pixels * y).sum() / pixels.sum() - 14) <= 1
        assert abs((pixels * x).sum() / pixels.sum() - 14) <= 1


def test_images_of_the_models_size_stay_unchanged(digits):
    for image in digits[0][:50]:
        assert np.array_equal(preprocess.prepare(Image.fromarray(image), (28, 28)), image)
        assert np.array_equal(preprocess.prepare(Image.fromarray(255 - image), (28, 28)), image)


def test_files_without_a_picture_are_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"not a picture")
    with pytest.raises(BadInput, match="PNG and JPEG"):
        preprocess.read(path, (28, 28))
    Image.new("L", (100, 100), 200).save(path)
    with pytest.raises(BadInput, match="shows nothing"):
        preprocess.read(path, (28, 28))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match=r"a\.png"):
        preprocess.read(path, (28, 28))
    Image.new("1", (12_000, 12_000)).save(path)
    with pytest.raises(BadInput, match="pixels"):
        preprocess.read(path, (28, 28))
