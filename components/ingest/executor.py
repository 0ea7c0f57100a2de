# SPDX-License-Identifier: Apache-2.0
"""Writes IDX files as tf.Examples, on Beam: the worker's side of `IdxExampleGen`."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_component_specs

from components import features, progress
from components.errors import GateStopped
from components.findings import LABEL_OUT_OF_RANGE
from components.ingest import encode, idx, source

DATA_DIR_KEY, SPAN_KEY, DATASET_NAME_KEY = "data_dir", "span", "dataset_name"
DATA_SHA256_KEY, ALLOW_KEY = "data_sha256", "allow"
EXAMPLES_KEY = standard_component_specs.EXAMPLES_KEY

# One in this many of the training images is held out as val: 5,000 of MNIST's 60,000.
VAL_RATIO = 12
# Images in one output file, which is also the unit of work of a Beam worker; fewer where images are large.
SHARD_IMAGES, SHARD_BYTES = 8192, 2**27

_FILES_OF_SPLIT = {
    features.TRAIN: (idx.TRAIN_IMAGES, idx.TRAIN_LABELS),
    features.VAL: (idx.TRAIN_IMAGES, idx.TRAIN_LABELS),
    features.TEST: (idx.TEST_IMAGES, idx.TEST_LABELS),
}
# Folder of an Examples artifact for files that are not complete; removed in the end.
_PARTIAL = "partial"
_MAX_EXAMPLES = 20  # ids of images that were left out, of each split


@dataclasses.dataclass(frozen=True)
class Shard:
    """One output file: a run of the images of a split."""

    directory: str
    sha256: str
    split: str
    start: int
    stop: int
    number: int
    of: int
    uri: str
    only_classes: bool


class IngestExecutor(base_beam_executor.BaseBeamExecutor):
    """Reads the four IDX files of a data set and writes them as Examples in three splits.

    Output artifacts:
        examples: Examples with the splits train, val and test; uncompressed TFRecords of tf.Examples with the features
            of `components/features.py`. Custom properties: dataset (name), dataset_sha256, images (of the files), span
            (0 where the folder has no spans), and as JSON files (name -> SHA-256), splits (name -> count) and excluded
            (name of a split -> labels, label -> count, and examples, the first ids), empty where nothing was left out.

    Execution properties:
        data_dir: folder with the four IDX files or with spans, as this worker sees it, or its URL.
        span: number of the span to read; absent or negative: the newest.
        dataset_name: `mnist` or `digits`, which the contents must then be; or a name for contents that are neither.
        data_sha256: the SHA-256 that the contents must have; absent or empty: any.
        allow: names of findings with commas between them. With `label-out-of-range`, images whose label is no class are
            left out; the others keep their ids and their splits.

    Raises:
        BadInput: the files are refused; nothing is left in the output folder.
        GateStopped: every image of a split would be left out.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        self._log_startup(input_dict, output_dict, exec_properties)
        artifact = artifact_utils.get_single_instance(output_dict[EXAMPLES_KEY])
        dataset, contents = _load(exec_properties)
        only_classes = LABEL_OUT_OF_RANGE in exec_properties.get(ALLOW_KEY, "").replace(" ", "").split(",")
        counts = {split: len(rows) for split, rows in _indices(contents, only_classes).items()}
        excluded = _excluded(contents) if only_classes else {}
        _check_not_empty(counts, excluded)
        splits = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        progress.report(progress.Message(f"writing {splits}"))
        _describe(artifact, dataset, excluded)
        try:
            self._write(artifact, dataset, counts, only_classes)
        except BaseException:
            for name in (*(f"Split-{split}" for split in features.SPLITS), _PARTIAL):
                _remove(os.path.join(artifact.uri, name))
            raise
        finally:
            source.cache.clear()

    def _write(
        self, artifact: types.Artifact, dataset: source.Source, counts: dict[str, int], only_classes: bool
    ) -> None:
        shards = [
            shard
            for split, count in counts.items()
            for shard in _shards(artifact.uri, dataset, split, count, only_classes)
        ]
        fileio.makedirs(os.path.join(artifact.uri, _PARTIAL))
        for split in features.SPLITS:
            fileio.makedirs(artifact_utils.get_split_uri([artifact], split))
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(shards)
                | "Spread" >> beam.Reshuffle()
                | "Write" >> beam.Map(write_shard)
            )
        _remove(os.path.join(artifact.uri, _PARTIAL))
        # A file and no property: those are handed on from task to task, on Kubeflow in many copies.
        with fileio.open(os.path.join(artifact.uri, features.SOURCE_FILE), "w") as file:
            file.write(json.dumps({"files": dict(dataset.digests), "splits": counts}))


@functools.lru_cache(maxsize=2)
def split_indices(train_images: int, test_images: int) -> dict[str, npt.NDArray[np.int64]]:
    """Returns the images of each split: int64, ascending indices into the training or test files.

    val is exactly floor(train_images / VAL_RATIO), chosen by a hash of the index, so the same in every run.
    """
    val = encode.lowest_ranks(train_images, train_images // VAL_RATIO)
    return {
        features.TRAIN: np.setdiff1d(np.arange(train_images), val, assume_unique=True),
        features.VAL: val,
        features.TEST: np.arange(test_images),
    }


def _indices(contents: source.Contents, only_classes: bool) -> dict[str, npt.NDArray[np.int64]]:
    """`split_indices` of the files; without those images whose label is no class, where they are to be left out."""
    indices = split_indices(len(contents[idx.TRAIN_LABELS].array), len(contents[idx.TEST_LABELS].array))
    if not only_classes:
        return indices
    return {split: rows[_labels(contents, split)[rows] < len(features.CLASSES)] for split, rows in indices.items()}


def _excluded(contents: source.Contents) -> dict[str, dict[str, Any]]:
    """The images to leave out, in the form of the custom property `excluded`."""
    excluded = {}
    for split, rows in _indices(contents, only_classes=False).items():
        labels = _labels(contents, split)[rows]
        outside = np.flatnonzero(labels >= len(features.CLASSES))
        if len(outside):
            values, counts = np.unique(labels[outside], return_counts=True)
            excluded[split] = {
                "labels": dict(zip(map(str, values.tolist()), counts.tolist(), strict=True)),
                "examples": [f"{_FILES_OF_SPLIT[split][0]}#{index}" for index in rows[outside[:_MAX_EXAMPLES]]],
            }
    return excluded


def _labels(contents: source.Contents, split: str) -> npt.NDArray[np.uint8]:
    """The labels of the file that a split comes from."""
    return contents[_FILES_OF_SPLIT[split][1]].array


def _check_not_empty(counts: Mapping[str, int], excluded: Mapping[str, Any]) -> None:
    for split in excluded:
        if not counts[split]:
            raise GateStopped(
                f"Every image of {split} has a label outside 0 to {len(features.CLASSES) - 1}, so with --allow "
                f"{LABEL_OUT_OF_RANGE} none remains: correct the labels in {_FILES_OF_SPLIT[split][1]}, or add the "
                "classes to the data contract."
            )


def write_shard(shard: Shard) -> int:
    """Writes one output file, under its final name only when it is complete. Returns its number of images.

    Raises:
        BadInput: the data folder of this worker has other contents than that of the executor.
    """
    contents = _contents_of(shard)
    images_name, labels_name = _FILES_OF_SPLIT[shard.split]
    images, labels = contents[images_name].array, contents[labels_name].array
    chosen = _indices(contents, shard.only_classes)[shard.split][shard.start : shard.stop]
    partial = os.path.join(shard.uri, _PARTIAL, uuid.uuid4().hex)
    with tf.io.TFRecordWriter(partial) as writer:
        for example in encode.examples(images[chosen], labels[chosen], images_name, chosen):
            writer.write(example)
    name = f"data_tfrecord-{shard.number:05d}-of-{shard.of:05d}"
    fileio.rename(partial, os.path.join(shard.uri, f"Split-{shard.split}", name), overwrite=True)
    return len(chosen)


def _load(exec_properties: dict[str, Any]) -> tuple[source.Source, source.Contents]:
    data_dir, span = exec_properties[DATA_DIR_KEY], exec_properties.get(SPAN_KEY)
    progress.report(progress.Message(f"reading {data_dir}"))
    dataset, contents = source.load(
        data_dir,
        None if span is None or span < 0 else int(span),
        features.IMAGE_SHAPE,
        exec_properties[DATASET_NAME_KEY],
    )
    expected = exec_properties.get(DATA_SHA256_KEY) or dataset.sha256
    _check_unchanged(dataset, expected)
    return dataset, contents


def _contents_of(shard: Shard) -> source.Contents:
    """Returns the contents of the data set of a shard, which a worker process of its own reads itself."""
    contents = source.cache.find(shard.sha256)
    if contents is None:
        dataset, contents = source.load(shard.directory, None, features.IMAGE_SHAPE)
        _check_unchanged(dataset, shard.sha256)
    return contents


def _check_unchanged(dataset: source.Source, expected: str) -> None:
    if dataset.sha256 != expected:
        way_out = "The files were changed after the run was started: run again."
        idx.refuse(dataset.directory, "SHA-256 of the data set", expected, dataset.sha256, way_out)


def _shards(uri: str, dataset: source.Source, split: str, count: int, only_classes: bool) -> Iterator[Shard]:
    height, width = features.IMAGE_SHAPE
    size = max(1, min(SHARD_IMAGES, SHARD_BYTES // (height * width)))
    # At least one file, also of an empty split: readers refuse a split without any.
    of = max(1, -(-count // size))
    for number in range(of):
        start, stop = number * size, min((number + 1) * size, count)
        yield Shard(dataset.directory, dataset.sha256, split, start, stop, number, of, uri, only_classes)


def _describe(artifact: types.Artifact, dataset: source.Source, excluded: Mapping[str, Any]) -> None:
    artifact.split_names = artifact_utils.encode_split_names(list(features.SPLITS))
    artifact.span = dataset.span or 0
    # Set by name: tfx.components.util, which has a function for it, imports every component of TFX.
    artifact.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
    artifact.set_string_custom_property("dataset", dataset.name)
    artifact.set_string_custom_property("dataset_sha256", dataset.sha256)
    artifact.set_int_custom_property("images", dataset.images)
    artifact.set_string_custom_property("excluded", json.dumps(excluded))
    artifact.set_int_custom_property("span", dataset.span or 0)


def _remove(uri: str) -> None:
    if fileio.exists(uri):
        fileio.rmtree(uri)
