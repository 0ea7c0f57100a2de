# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from components import features
from components.ingest import encode


def drawn(*pixels, shape=(28, 28), value=255):
    image = np.zeros(shape, np.uint8)
    for row, column in pixels:
        image[row, column] = value
    return image


@pytest.mark.parametrize(
    ("image", "slant"),
    [
        pytest.param(drawn(*[(row, 9) for row in range(5, 20)]), 0, id="upright"),
        pytest.param(drawn(*[(row, 24 - row) for row in range(5, 20)]), math.pi / 4, id="leans-right"),
        pytest.param(drawn(*[(row, row) for row in range(5, 20)]), -math.pi / 4, id="leans-left"),
        pytest.param(drawn((0, 1), (2, 0)), math.atan(1 / 2), id="steep"),
        pytest.param(drawn(*[(7, column) for column in range(20)]), 0, id="lies-flat"),
        pytest.param(drawn((3, 4)), 0, id="dot"),
        pytest.param(drawn(), 0, id="blank"),
        pytest.param(np.full((28, 28), 255, np.uint8), 0, id="full"),
    ],
)
def test_slant(image, slant):
    assert encode.scalars(image[None])[features.SLANT][0] == pytest.approx(slant, abs=1e-6)


def test_brightness():
    image = np.zeros((4, 5), np.uint8)
    image[0] = [255, 128, 127, 51, 0]

    columns = encode.scalars(np.stack([image, image + 51 * (image == 0), np.zeros_like(image)]))

    total = 255 + 128 + 127 + 51
    np.testing.assert_allclose(
        columns[features.MEAN_INTENSITY], [total / 255 / 20, (total + 16 * 51) / 255 / 20, 0], rtol=1e-6
    )
    np.testing.assert_allclose(columns[features.INK_SHARE], [2 / 20, 2 / 20, 0], rtol=1e-6)
    np.testing.assert_allclose(columns[features.CONTRAST], [1, 204 / 255, 0], rtol=1e-6)
    assert all(column.dtype == np.float32 and column.shape == (3,) for column in columns.values())


def test_an_example_holds_every_feature():
    import tensorflow as tf

    images = np.random.default_rng(0).integers(0, 256, (3, 6, 4), dtype=np.uint8)

    encoded = encode.examples(images, np.array([7, 0, 200], np.uint8), "some-file", np.array([5, 0, 41]))

    messages = [tf.train.Example.FromString(example) for example in encoded]
    assert encoded == [message.SerializeToString(deterministic=True) for message in messages]
    parsed = [message.features.feature for message in messages]
    assert [set(example) for example in parsed] == [
        {
            features.IMAGE,
            features.LABEL,
            features.ID,
            features.HEIGHT,
            features.WIDTH,
            features.MEAN_INTENSITY,
            features.INK_SHARE,
            features.CONTRAST,
            features.SLANT,
        }
    ] * 3
    assert [example[features.IMAGE].bytes_list.value for example in parsed] == [[image.tobytes()] for image in images]
    assert [example[features.LABEL].int64_list.value for example in parsed] == [[7], [0], [200]]
    ids = [example[features.ID].bytes_list.value for example in parsed]
    assert ids == [[b"some-file#5"], [b"some-file#0"], [b"some-file#41"]]
    assert [example[features.HEIGHT].int64_list.value for example in parsed] == [[6]] * 3
    assert [example[features.WIDTH].int64_list.value for example in parsed] == [[4]] * 3
    for name, column in encode.scalars(images).items():
        assert [example[name].float_list.value for example in parsed] == [[value] for value in column.tolist()]


def test_nothing_gives_no_examples():
    assert encode.examples(np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.uint8), "f", np.zeros(0, np.int64)) == []


def test_splitmix64_gives_the_published_sequence():
    # The first outputs of the generator with seed 0 are the hashes of 0, g, 2 g with its increment g.
    steps = np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)

    assert [f"{value:016x}" for value in encode.splitmix64(steps).tolist()] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "06c45d188009454f",
    ]


@pytest.mark.parametrize(("count", "size"), [(60_000, 5_000), (11, 0), (1, 1)])
def test_a_sample_has_the_exact_size(count, size):
    indices = encode.lowest_ranks(count, size)

    assert len(indices) == size
    assert (np.diff(indices) > 0).all()
    assert ((indices >= 0) & (indices < count)).all()


def test_no_class_of_cyclic_data_is_favoured():
    sample = encode.lowest_ranks(60_000, 5_000)

    for period in (2, 10, 12):
        counts = np.bincount(sample % period, minlength=period)
        # Five standard deviations of a fair choice.
        assert np.abs(counts - 5_000 / period).max() < 5 * np.sqrt(5_000 / period)
