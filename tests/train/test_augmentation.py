# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from components.train.models import Distort

STILL = {"rotation": 0, "zoom": 0, "shear": 0, "shift": 0, "bend": 0}


def squares(count):
    """Images of a bright square a little right of and above the centre, float32 [count, 28, 28, 1]."""
    images = np.zeros((count, 28, 28, 1), np.float32)
    images[:, 8:16, 12:20] = 1
    return images


def centres(images):
    """Rows and columns of the centres of the ink."""
    rows, columns = np.mgrid[:28, :28]
    ink = images[..., 0]
    mass = ink.sum(axis=(1, 2))
    return (ink * rows).sum(axis=(1, 2)) / mass, (ink * columns).sum(axis=(1, 2)) / mass


def distorted(images, **options):
    return np.asarray(Distort(**{**STILL, "seed": 1, **options})(images, training=True))


def test_it_does_nothing_outside_of_training():
    images = np.random.default_rng(1).random((4, 28, 28, 1), np.float32)
    layer = Distort(rotation=90, zoom=0.5, shear=1, shift=10, bend=5)
    np.testing.assert_array_equal(np.asarray(layer(images, training=False)), images)
    np.testing.assert_array_equal(np.asarray(layer(images)), images)


def test_without_distances_images_stay_as_they_are():
    images = np.random.default_rng(1).random((4, 28, 28, 1), np.float32)
    np.testing.assert_allclose(distorted(images), images, atol=1e-5)


def test_each_image_is_moved_by_itself_and_not_too_far():
    rows, columns = centres(distorted(squares(500), shift=2))
    assert len({*rows.round(4)}) > 400
    for moved, still in ((rows, 11.5), (columns, 15.5)):
        assert np.abs(moved - still).max() <= 2.001
        assert (moved - still).max() > 1.9
        assert (moved - still).min() < -1.9


def test_it_turns_around_the_centre():
    image = np.zeros((300, 28, 28, 1), np.float32)
    image[:, 4:6, 13:15] = 1  # 9 pixels above the centre
    rows, columns = centres(distorted(image, rotation=30))
    np.testing.assert_allclose(np.hypot(rows - 13.5, columns - 13.5), 9, atol=0.1)
    angles = np.degrees(np.arctan2(columns - 13.5, 13.5 - rows))
    assert angles.max() == pytest.approx(30, abs=1.5)
    assert angles.min() == pytest.approx(-30, abs=1.5)


def test_height_and_width_change_by_themselves():
    ink = distorted(squares(500), zoom=0.2)[..., 0]
    assert ink.sum(axis=(1, 2)).min() / 64 == pytest.approx(1 / 1.2**2, abs=0.05)
    assert ink.sum(axis=(1, 2)).max() / 64 == pytest.approx(1 / 0.8**2, abs=0.1)
    heights, widths = (ink.max(axis=axis).sum(axis=1) for axis in (2, 1))
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.2


def test_shear_moves_rows_to_the_side_by_their_distance():
    image = np.zeros((300, 28, 28, 1), np.float32)
    image[:, 3:5, 13:15] = 1  # 10 pixels above the centre
    rows, columns = centres(distorted(image, shear=0.3))
    np.testing.assert_allclose(rows, 3.5, atol=0.01)
    assert np.abs(columns - 13.5).max() == pytest.approx(3, abs=0.1)


def test_bending_moves_each_pixel_so_far_and_neighbours_alike():
    ramp = np.broadcast_to(np.arange(28, dtype=np.float32)[None, None, :, None], (400, 28, 28, 1))
    moved = (distorted(ramp, bend=0.5) - ramp)[:, :, 4:-4, 0]
    assert moved.std(axis=0) == pytest.approx(0.5, abs=0.1)
    assert np.abs(np.diff(moved, axis=2)).mean() < 0.2


@pytest.mark.parametrize("kind", STILL)
def test_a_seed_gives_the_same_again_and_each_call_others(kind):
    options: Any = {**STILL, kind: 10 if kind == "rotation" else 0.5, "seed": 3}
    layer, same = Distort(**options), Distort(**options)
    images = squares(4)
    first, second = (np.asarray(layer(images, training=True)) for _ in range(2))
    np.testing.assert_array_equal(first, np.asarray(same(images, training=True)))
    assert np.abs(first - second).max() > 0.1
    assert np.abs(first[0] - first[1]).max() > 0.1
    assert np.abs(distorted(images, **options) - distorted(images, **options | {"seed": 4})).max() > 0.1


def test_its_random_numbers_are_state_that_a_checkpoint_has():
    network = keras.Sequential([keras.Input((28, 28, 1)), Distort(**STILL | {"shift": 2})])
    (state,) = network.variables
    before = np.asarray(state)
    images = squares(2)
    moved = np.asarray(network(images, training=True))
    state.assign(before)
    np.testing.assert_array_equal(np.asarray(network(images, training=True)), moved)


def test_it_is_saved_and_loaded(tmp_path):
    layer = Distort(rotation=1, zoom=0.2, shear=0.3, shift=4, bend=0.5, seed=6)
    keras.Sequential([keras.Input((28, 28, 1)), layer]).save(tmp_path / "network.keras")
    (loaded,) = keras.saving.load_model(tmp_path / "network.keras").layers
    told = {name: loaded.get_config()[name] for name in (*STILL, "seed")}
    assert told == {"rotation": 1, "zoom": 0.2, "shear": 0.3, "shift": 4, "bend": 0.5, "seed": 6}


def test_images_need_not_be_square():
    images = np.random.default_rng(1).random((3, 20, 32, 1), np.float32)
    np.testing.assert_allclose(distorted(images), images, atol=1e-5)
    assert distorted(images, rotation=20, bend=1).shape == (3, 20, 32, 1)


def test_it_computes_in_float32_whatever_the_others_do():
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        images = squares(2)
        np.testing.assert_allclose(distorted(images), images, atol=1e-6)
    finally:
        keras.config.set_dtype_policy(before)
