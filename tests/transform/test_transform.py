# SPDX-License-Identifier: Apache-2.0
"""Transform through the stock executor, on a handful of images."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tfx.types import standard_artifacts
from tfx.types.channel import Channel

from components import features
from components.errors import BadInput
from components.transform import preprocessing
from components.transform.component import transform
from tests.transform import stages

IMAGES = np.random.default_rng(1).integers(0, 256, (6, *features.IMAGE_SHAPE), np.uint8)
LABELS = np.arange(6)


def build(**arguments):
    return transform(
        examples=Channel(type=standard_artifacts.Examples), schema=Channel(type=standard_artifacts.Schema), **arguments
    )


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    root = tmp_path_factory.mktemp("transform")
    # Only train is there: a Transform that looks at val or test fails.
    examples = stages.examples_artifact(root / "examples", {features.TRAIN: (IMAGES, LABELS)})
    schema = stages.schema_artifact(root / "schema")
    outputs = stages.run(build(), {"examples": examples, "schema": schema}, root)
    return outputs, tft.TFTransformOutput(outputs["transform_graph"].uri)


def raw(image, label=3):
    return {
        "id": tf.constant(["a"]),
        "image": tf.constant([image]),
        "ink_share": tf.constant([0.5]),
        "label": tf.constant([label], tf.int64),
    }


def test_pixels_become_floats_and_the_label_stays(output):
    transformed = output[1].transform_raw_features(raw(IMAGES[2].tobytes(), 7))
    assert set(transformed) == {"image", "label"}
    assert transformed["image"].dtype == tf.float32
    np.testing.assert_allclose(transformed["image"].numpy(), IMAGES[2][None, ..., None] / np.float32(255), rtol=1e-7)
    assert transformed["label"].dtype == tf.int64
    assert transformed["label"].numpy().tolist() == [7]


def test_the_graph_knows_the_shape(output):
    spec = output[1].transformed_feature_spec()
    assert spec["image"] == tf.io.FixedLenFeature([*features.IMAGE_SHAPE, 1], tf.float32)
    assert spec["label"] == tf.io.FixedLenFeature([], tf.int64)


@pytest.mark.parametrize("count", [56 * 56, 783, 0])
def test_an_image_of_another_size_is_an_error(output, count):
    with pytest.raises(tf.errors.InvalidArgumentError):
        output[1].transform_raw_features(raw(bytes(count)))


def test_it_computes_the_graph_only(output):
    assert set(output[0]) == {"transform_graph"}


def test_a_column_of_one_value_each_is_taken_too():
    inputs = {"image": tf.constant([[IMAGES[0].tobytes()], [IMAGES[1].tobytes()]]), "label": tf.constant([[1], [2]])}
    transformed = preprocessing.preprocessing_fn(inputs)
    assert transformed["image"].shape == (2, *features.IMAGE_SHAPE, 1)
    assert transformed["label"].numpy().tolist() == [1, 2]


def test_a_sparse_feature_is_refused():
    inputs = {"image": tf.sparse.from_dense(tf.constant([["a"]])), "label": tf.constant([1])}
    with pytest.raises(BadInput, match="'image' a fixed shape, but it arrives as SparseTensor"):
        preprocessing.preprocessing_fn(inputs)


def test_images_of_another_size_need_features_alone(monkeypatch):
    monkeypatch.setattr(features, "IMAGE_SHAPE", (32, 24))
    transformed = preprocessing.preprocessing_fn({"image": tf.constant([bytes(32 * 24)]), "label": tf.constant([1])})
    assert transformed["image"].shape == (1, 32, 24, 1)
