# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Data Validation's statistics of each split, from Examples that are read in batches.

TFX's own executor lets Beam hand over one record after the other, which takes as long as the statistics of all of them.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders import example_coder

from components import datasets, features

_BATCH = 1024


def compute(pipeline: beam.Pipeline, examples: str, schema: schema_pb2.Schema, folder: pathlib.Path) -> None:
    """Adds the statistics to a Beam pipeline; when that has run, they lie in `folder` as a StatisticsGen leaves them.

    Args:
        pipeline: an open pipeline.
        examples: URI of an Examples artifact with the splits of `features.SPLITS`, uncompressed.
        schema: says which features are categories. Of the ids, as of the images, only presence and size are looked at:
            each is there once.
        folder: of an ExampleStatistics artifact.
    """
    options = tfdv.StatsOptions(schema=_without_words(schema))
    for split in features.SPLITS:
        uri = folder / f"Split-{split}"
        uri.mkdir(parents=True)
        _ = (
            pipeline
            | f"Files of {split}" >> beam.Create(datasets.files(f"{examples}/Split-{split}"))
            | f"Read {split}" >> beam.FlatMap(_batches).with_output_types(pa.RecordBatch)
            | f"Measure {split}" >> tfdv.GenerateStatistics(options)
            | f"Write {split}" >> tfdv.WriteStatisticsToBinaryFile(str(uri / features.STATISTICS_FILE))
        )


def _without_words(schema: schema_pb2.Schema) -> schema_pb2.Schema:
    """The schema, with the ids as what has no words to count: in TFDV that is an image."""
    changed = schema_pb2.Schema()
    changed.CopyFrom(schema)
    for feature in changed.feature:
        if feature.name == features.ID:
            feature.image_domain.SetInParent()
    return changed


def _batches(file: str) -> Iterator[pa.RecordBatch]:
    decoder = example_coder.ExamplesToRecordBatchDecoder()
    for serialized in datasets.records([file]).batch(_BATCH).as_numpy_iterator():
        yield decoder.DecodeBatch(serialized.tolist())
