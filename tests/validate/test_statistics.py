# SPDX-License-Identifier: Apache-2.0
"""The statistics, compared with those of TFX's own StatisticsGen on the same Examples."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format
from tfx.components.statistics_gen import executor as stock
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_artifacts

from components import features
from components.ingest import encode
from components.validate import component, data_check
from pipeline import beam, settings
from tests.values import differences

SCHEMA = (settings.PROFILES / "mnist.pbtxt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Examples whose training images lie in two files and are more than one batch; and their schema."""
    folder = tmp_path_factory.mktemp("inputs")
    random = np.random.default_rng(0)
    examples, schema = standard_artifacts.Examples(), standard_artifacts.Schema()
    examples.uri, schema.uri = str(folder / "examples"), str(folder / "schema")
    examples.split_names = artifact_utils.encode_split_names(list(features.SPLITS))
    examples.span = 3
    for split, count in zip(features.SPLITS, (2500, 300, 0), strict=True):
        pixels = random.integers(0, 256, (count, *features.IMAGE_SHAPE), np.uint8)
        labels = random.integers(0, 10, count, np.uint8)
        (folder / f"examples/Split-{split}").mkdir(parents=True)
        for number, part in enumerate(np.array_split(np.arange(count), 2)):
            with tf.io.TFRecordWriter(str(folder / f"examples/Split-{split}/data-{number}")) as writer:
                for example in encode.examples(pixels[part], labels[part], split, part):
                    writer.write(example)
    (folder / "schema").mkdir()
    (folder / "schema/schema.pbtxt").write_text(SCHEMA, encoding="utf-8")
    return {"examples": [examples], "schema": [schema]}


def run(executor_class, inputs, folder):
    statistics, schema = standard_artifacts.ExampleStatistics(), standard_artifacts.Schema()
    statistics.uri, schema.uri = str(folder), f"{folder}-schema"
    pathlib.Path(schema.uri).mkdir()
    context = base_beam_executor.BaseBeamExecutor.Context(beam_pipeline_args=beam.arguments([]))
    properties = {"schema_file": str(settings.PROFILES / "mnist.pbtxt")}
    executor_class(context).Do(inputs, {"statistics": [statistics], "schema": [schema]}, properties)
    return statistics, {
        split: by_feature(data_check.load_statistics(statistics.uri)[split].datasets[0]) for split in features.SPLITS
    }


def by_feature(statistics):
    """Feature -> its statistics, as `differences` takes them; and the number of examples."""
    by_name = {feature.path.step[0]: json_format.MessageToDict(feature) for feature in statistics.features}
    return {**by_name, "examples": statistics.num_examples}


def test_they_are_those_of_tfx_but_for_the_words_of_the_ids(inputs, tmp_path):
    ours_artifact, ours = run(component.Statistics.EXECUTOR_SPEC.executor_class, inputs, tmp_path / "ours")
    assert (tmp_path / "ours-schema" / "schema.pbtxt").read_text(encoding="utf-8") == SCHEMA
    theirs_artifact, theirs = run(stock.Executor, inputs, tmp_path / "theirs")
    assert ours_artifact.split_names == theirs_artifact.split_names
    assert ours_artifact.span == theirs_artifact.span == 3
    assert [ours[split]["examples"] for split in features.SPLITS] == [2500, 300, 0]
    for split in features.SPLITS:
        if ours[split]["examples"]:
            ids, their_ids = ours[split].pop(features.ID), theirs[split].pop(features.ID)
            assert ids["bytesStats"]["commonStats"] == their_ids["stringStats"]["commonStats"]
            assert "unique" not in ids["bytesStats"]
        # Quantiles are those of a sketch, which depends a little on how the examples came in batches.
        assert list(differences(ours[split], theirs[split], 0.01, 1e-4, split)) == []
