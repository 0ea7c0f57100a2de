# SPDX-License-Identifier: Apache-2.0
"""Batch prediction."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.errors import BadInput
from components.ingest import encode, idx
from serving import batch, batch_pipeline


def test_all_formats_with_errors_of_single_items(push, digits, tmp_path, capsys):
    images, labels = digits
    push(tmp_path / "mnist", 1)
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
        for row in [*rows[:5], b"not an example", *rows[5:]]:
            writer.write(row)
    output = tmp_path / "out"
    summary = tmp_path / "summary.json"
    arguments = [str(inputs), "--output", str(output), "--model-dir", str(tmp_path / "mnist"), "--json", str(summary)]
    assert batch.main(arguments) == 0
    assert "63 images predicted by version 1, 4 errors" in capsys.readouterr().out
    document = json.loads(summary.read_text())
    assert (document["predicted"], document["errors"]) == (63, 4)
    (predictions,), (errors,) = output.glob("predictions*"), output.glob("errors*")
    rows_by_id = {row["id"]: row for row in map(json.loads, predictions.read_text().splitlines())}
    expected = {f"{inputs}/a-idx3-ubyte#{number}": labels[10 + number] for number in range(50)}
    assert np.mean([rows_by_id[name]["class"] == str(label) for name, label in expected.items()]) > 0.8
    assert sum(rows_by_id[f"{inputs}/c.tfrecord#0"]["probabilities"]) == pytest.approx(1, abs=1e-4)
    names = {row["id"].rsplit("/", 1)[1] for row in map(json.loads, errors.read_text().splitlines())}
    assert names == {"bad.jpg", "notes.txt", "b-idx3-ubyte", "c.tfrecord#5"}
    assert batch.main(arguments) == 2  # the folder is not empty


def test_progress(push, digits, tmp_path):
    version = push(tmp_path / "mnist", 1)
    idx.write(tmp_path / "a-idx3-ubyte", digits[0][:300])
    files = batch_pipeline.find_files(tmp_path / "a-idx3-ubyte")
    assert files.images == 300
    (tmp_path / "output").mkdir()
    pipeline = batch_pipeline.BatchPipeline(version, tmp_path / "output", [])
    assert pipeline.count_images() == 0
    assert pipeline.run(files) == (300, 0)
    assert pipeline.count_images() == 300


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(BadInput, match="INPUT takes PNG or JPEG pictures"):
        batch_pipeline.find_files(tmp_path)
