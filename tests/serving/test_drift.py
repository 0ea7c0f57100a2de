# SPDX-License-Identifier: Apache-2.0
"""Samples of requests, and their comparison with the training data."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from components import features
from components.ingest import encode
from components.push import versions
from serving import drift, savedmodel
from serving.sampling import Sampler

PREDICT = "/v1/models/mnist:predict"
SCHEMA = """
feature { name: "image" type: BYTES presence { min_fraction: 1 } shape {} }
feature { name: "label" type: INT int_domain { min: 0 max: 9 is_categorical: true } shape {}
  drift_comparator { infinity_norm { threshold: 0.1 } } skew_comparator { infinity_norm { threshold: 0.1 } } }
feature { name: "mean_intensity" type: FLOAT shape {}
  drift_comparator { jensen_shannon_divergence { threshold: 0.1 } }
  skew_comparator { jensen_shannon_divergence { threshold: 0.1 } } }
"""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, push, digits):
    """A folder with a model and the statistics of its training data."""
    import pandas as pd
    import tensorflow_data_validation as tfdv

    folder = tmp_path_factory.mktemp("drift") / "mnist"
    extra = push(folder, 1, dataset={"name": "digits"}) / versions.EXTRA
    images, labels = digits
    table = pd.DataFrame({features.LABEL: labels, **encode.scalars(images)})
    (extra / versions.SCHEMA_FILE).write_text(SCHEMA)
    schema = tfdv.load_schema_text(str(extra / versions.SCHEMA_FILE))
    statistics = tfdv.generate_statistics_from_dataframe(table, tfdv.StatsOptions(schema=schema), n_jobs=1)
    (extra / versions.TRAIN_STATS_FILE).write_bytes(statistics.SerializeToString())
    return folder


@pytest.fixture(scope="module")
def model(model_dir):
    return savedmodel.load(model_dir / "1")


def sample(sampler: Sampler, model, images: np.ndarray) -> None:
    """Predicts images in requests of 100 and offers them to a sampler."""
    signature = model.signatures[features.SIGNATURE_PIXELS]
    for first in range(0, len(images), 100):
        inputs = {features.PIXELS_INPUT: images[first : first + 100]}
        sampler.offer(model, signature, inputs, signature.run(inputs))
    sampler.close()


def read_samples(folder: pathlib.Path) -> list[tf.train.Example]:
    (file,) = folder.iterdir()
    return [tf.train.Example.FromString(record) for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()]


def test_samples_of_a_server_are_like_the_training_data(model_dir, start, digits, tmp_path, capsys):
    samples = tmp_path / "samples"
    server = start(model_dir, "--sample-dir", str(samples), "--sample-share", "1")
    images = digits[0][:600]
    for first in range(0, 600, 100):
        body = {"signature_name": "serving_pixels", "instances": images[first : first + 100].tolist()}
        assert server.call(PREDICT, body).status == 200
    assert server.stop() == 0
    records = read_samples(samples)
    assert len(records) == 600
    assert features.IMAGE not in records[0].features.feature
    expected = encode.scalars(images[:1])[features.MEAN_INTENSITY][0]
    assert records[0].features.feature[features.MEAN_INTENSITY].float_list.value[0] == pytest.approx(expected)
    file = tmp_path / "a.json"
    arguments = [str(samples), "--model-dir", str(model_dir), "--at-least", "500", "--json", str(file)]
    assert drift.main(arguments) == 0
    output, document = capsys.readouterr().out, json.loads(file.read_text())
    assert "Images are like the training data of version 1" in output
    assert document["samples"] == 600
    assert {measure["kind"] for measure in document["measures"]} == {"skew", "drift"}


def test_inverted_images_have_drifted(model_dir, model, digits, tmp_path, capsys):
    sample(Sampler(tmp_path, 1.0, 10**9), model, 255 - digits[0][:600])
    assert drift.main([str(tmp_path), "--model-dir", str(model_dir), "--at-least", "500"]) == 3
    output = capsys.readouterr().out
    assert "✗ mean intensity has moved: Jensen-Shannon divergence " in output
    assert "Images have drifted from the training data of version 1, over 600 samples: mean intensity" in output


def test_a_comparison_needs_enough_samples(model_dir, model, digits, tmp_path, capsys):
    sample(Sampler(tmp_path, 1.0, 10**9), model, digits[0][:100])
    assert drift.main([str(tmp_path), "--model-dir", str(model_dir)]) == 2
    assert "at least 1000 samples" in capsys.readouterr().err


def test_samples_have_images_and_a_limit(model, digits, tmp_path):
    sample(Sampler(tmp_path, 1.0, 50_000, with_images=True), model, digits[0][:300])
    records = read_samples(tmp_path)
    assert 0 < len(records) < 300
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 200_000
    assert records[0].features.feature[features.IMAGE].bytes_list.value[0] == digits[0][0].tobytes()


def test_a_share_of_the_images_is_sampled(model, digits, tmp_path):
    sample(Sampler(tmp_path, 0.5, 10**9), model, digits[0][:1000])
    assert 400 < len(read_samples(tmp_path)) < 600
