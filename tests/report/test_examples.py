# SPDX-License-Identifier: Apache-2.0
"""Images are read as ingest wrote them, and PNG files keep their pixels."""

import base64
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from pipeline.report import data, png


@pytest.fixture
def artifact(make_run) -> pathlib.Path:
    return pathlib.Path(make_run().artifacts["ingest.examples"])


def test_every_image_comes_back_in_order(artifact: pathlib.Path) -> None:
    images = list(data.read_images(artifact, "train"))
    assert [image.id for image in images] == [f"train-images-idx3-ubyte#{index}" for index in range(30)]
    assert [image.label for image in images] == [index % 10 for index in range(30)]
    assert {image.pixels.shape for image in images} == {(28, 28)}
    assert [int(image.pixels[0, 0]) for image in images] == list(range(30))
    assert images[3].pixels[7].tolist() == [0] * 4 + [255] * 20 + [0] * 4


def test_first_of_each_class(artifact: pathlib.Path) -> None:
    images = data.first_of_each_class(artifact, "train", 2)
    assert [[image.id.partition("#")[2] for image in row] for row in images] == [
        [str(n), str(n + 10)] for n in range(10)
    ]
    assert [len(row) for row in data.first_of_each_class(artifact, "val", 2)] == [1] * 10


def test_by_id_looks_through_the_splits(artifact: pathlib.Path) -> None:
    ids = ["train-images-idx3-ubyte#29", "t10k-images-idx3-ubyte#3", "train-images-idx3-ubyte#30"]
    images = data.images_by_id(artifact, ["train", "test"], ids)
    assert set(images) == set(ids[:2])
    assert images[ids[0]].label == 9
    assert int(images[ids[1]].pixels[0, 0]) == 3


def test_png_keeps_every_pixel() -> None:
    pixels = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5) * 8
    kind, _, content = png.data_uri(pixels).partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), pixels)
