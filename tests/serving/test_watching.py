# SPDX-License-Identifier: Apache-2.0
"""Batch prediction, sampling and drift: what a model said of many images, and whether it still sees what it learned."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components import features
from components.ingest import encode, idx
from components.push import versions
from serving import batch, drift

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
def watched(tmp_path_factory, put, start, digits):
    """A model with the statistics of its training data beside it."""
    import pandas as pd
    import tensorflow_data_validation as tfdv

    folder = tmp_path_factory.mktemp("watched") / "mnist"
    extra = put(folder, 1, dataset={"name": "digits"}) / versions.EXTRA
    images, labels = digits
    table = pd.DataFrame({features.LABEL: labels, **encode.scalars(images)})
    (extra / versions.SCHEMA_FILE).write_text(SCHEMA)
    schema = tfdv.load_schema_text(str(extra / versions.SCHEMA_FILE))
    statistics = tfdv.generate_statistics_from_dataframe(table, tfdv.StatsOptions(schema=schema), n_jobs=1)
    tfdv.write_stats_text(statistics, str(extra / "stats.pbtxt"))
    (extra / versions.TRAIN_STATS_FILE).write_bytes(statistics.SerializeToString())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["the same", "inverted"])
def test_drift_says_whether_the_model_sees_what_it_was_trained_on(watched, start, digits, tmp_path, capsys, seen):
    samples = tmp_path / "samples"
    server = start(watched, "--sample-dir", str(samples), "--sample-share", "1")
    images = digits[0][:600] if seen == "the same" else 255 - digits[0][:600]
    for first in range(0, 600, 100):
        body = {"signature_name": "serving_pixels", "instances": images[first : first + 100].tolist()}
        assert server.call(PREDICT, body).status == 200
    assert server.stop() == 0
    (file,) = samples.iterdir()
    records = [tf.train.Example.FromString(one) for one in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()]
    assert len(records) == 600
    assert features.IMAGE not in records[0].features.feature
    expected = encode.scalars(images[:1])[features.MEAN_INTENSITY][0]
    assert records[0].features.feature[features.MEAN_INTENSITY].float_list.value[0] == pytest.approx(expected)
    code = drift.main(
        [str(samples), "--model-dir", str(watched), "--at-least", "500", "--json", str(tmp_path / "a.json")]
    )
    said, document = capsys.readouterr().out, json.loads((tmp_path / "a.json").read_text())
    assert document["samples"] == 600
    assert {one["kind"] for one in document["measures"]} == {"skew", "drift"}
    if seen == "the same":
        assert code == 0
        assert "still sees what it was trained on" in said
    else:
        assert code == 3
        assert re.search(r"no longer sees .*mean intensity", said)
        assert drift.main([str(samples), "--model-dir", str(watched)]) == 2  # 600 are fewer than the default asks for


@pytest.mark.slow
def test_samples_are_off_capped_and_without_images_unless_asked_for(watched, start, digits, tmp_path):
    samples = tmp_path / "samples"
    options = ["--sample-dir", str(samples), "--sample-share", "1", "--sample-max-bytes", "50000", "--sample-images"]
    server = start(watched, *options)
    for first in range(0, 300, 100):
        body = {"signature_name": "serving_pixels", "instances": digits[0][first : first + 100].tolist()}
        assert server.call(PREDICT, body).status == 200
    assert server.stop() == 0
    (file,) = samples.iterdir()
    records = [tf.train.Example.FromString(one) for one in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()]
    assert 0 < len(records) < 300
    assert file.stat().st_size < 200_000
    assert records[0].features.feature[features.IMAGE].bytes_list.value[0] == digits[0][0].tobytes()


def test_batch_prediction_of_all_kinds_collects_what_is_wrong(watched, digits, tmp_path, capsys):
    images, labels = digits
    inputs = tmp_path / "in"
    (inputs / "pictures").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(images[number]).save(inputs / "pictures" / f"{number}.png")
    (inputs / "pictures" / "bad.jpg").write_bytes(b"x")
    (inputs / "notes.txt").write_text("x")
    idx.write(inputs / "a-idx3-ubyte", images[10:60])
    (inputs / "b-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    rows = encode.examples(images[60:70], labels[60:70].astype(np.uint8), "f", np.arange(10))
    with tf.io.TFRecordWriter(str(inputs / "c.tfrecord")) as writer:
        for row in [*rows[:5], b"no example", *rows[5:]]:
            writer.write(row)
    output = tmp_path / "out"
    summary = tmp_path / "summary.json"
    arguments = [str(inputs), "--output", str(output), "--model-dir", str(watched), "--json", str(summary)]
    assert batch.main(arguments) == 0
    assert "63 images predicted by version 1, 4 errors" in capsys.readouterr().out
    document = json.loads(summary.read_text())
    assert (document["predicted"], document["errors"]) == (63, 4)
    (predicted,), (wrong,) = output.glob("predictions*"), output.glob("errors*")
    found = {row["id"]: row for row in map(json.loads, predicted.read_text().splitlines())}
    truth = {f"{inputs}/a-idx3-ubyte#{number}": labels[10 + number] for number in range(50)}
    assert np.mean([found[name]["class"] == str(label) for name, label in truth.items()]) > 0.8
    assert sum(found[f"{inputs}/c.tfrecord#0"]["probabilities"]) == pytest.approx(1, abs=1e-4)
    names = {row["id"].rsplit("/", 1)[1] for row in map(json.loads, wrong.read_text().splitlines())}
    assert names == {"bad.jpg", "notes.txt", "b-idx3-ubyte", "c.tfrecord#5"}
    assert batch.main(arguments) == 2  # the folder is not empty any more
