# SPDX-License-Identifier: Apache-2.0
"""Ingest, statistics and Transform, each by the real executor in this process, against the least that it could take."""

from __future__ import annotations

import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tfx.dsl.components.base import base_beam_executor
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.types import artifact, standard_artifacts
from tfx.types.channel import Channel

from benchmarks import plain_keras
from benchmarks.measurement import Measurement, Options
from components import datasets, features
from components.errors import ProjectError
from components.ingest import encode, executor, idx, source
from components.ingest.component import ingest
from components.transform.component import transform
from components.validate.component import validate
from components.validate.image_check import PixelLimits
from components.validate.label_noise import LabelLimits
from pipeline import beam, settings

Pixels = npt.NDArray[np.uint8]
Encode = Callable[[Pixels, Pixels, str, npt.NDArray[np.int64]], list[bytes]]


def measure(options: Options, say: Callable[[str], None]) -> list[Measurement]:
    """Runs each stage and its floor once for each round."""
    found = source.resolve(data_dir=options.data_dir, image_shape=features.IMAGE_SHAPE).source
    profile = found.name if found.name in ("mnist", "digits") else "mnist"
    schema = standard_artifacts.Schema()
    schema.uri = str(options.scratch / "schema")
    pathlib.Path(schema.uri).mkdir()
    shutil.copy(settings.PROFILES / f"{profile}.pbtxt", pathlib.Path(schema.uri) / "schema.pbtxt")
    examples_channel, schema_channel = Channel(standard_artifacts.Examples), Channel(standard_artifacts.Schema)
    ingest_node = ingest(data_dir=str(options.data_dir), dataset_name=found.name)
    statistics_node = validate(
        examples=examples_channel,
        baseline=Channel(standard_artifacts.Model),
        schema_file=str(settings.PROFILES / f"{profile}.pbtxt"),
        pixel_limits=PixelLimits(),
        label_limits=LabelLimits(),
        allow="",
    ).statistics_node
    transform_node = transform(examples=examples_channel, schema=schema_channel)

    rows: list[dict[str, float]] = []
    for number in range(1, options.rounds + 1):
        folder = options.scratch / f"stages-{number}"
        row = {}
        started = time.monotonic()
        examples = _run(ingest_node, {}, folder / "ingest")["examples"]
        row["ingest"] = time.monotonic() - started
        for name, how in (("encoder", encode.examples), ("messages", _messages)):
            started = time.monotonic()
            _write_alone(options.data_dir, folder / name, how)
            row[name] = time.monotonic() - started
            _expect_same(pathlib.Path(examples.uri), folder / name)
        inputs = {"examples": examples, "schema": schema}
        for name, node in (("statistics", statistics_node), ("transform", transform_node)):
            started = time.monotonic()
            _run(node, inputs, folder / name)
            row[name] = time.monotonic() - started
        started = time.monotonic()
        _read_alone(examples.uri)
        row["read"] = time.monotonic() - started
        rows.append(row)
        shutil.rmtree(folder)
        told = ", ".join(f"{name} {value:.2f}" for name, value in row.items())
        say(f"  round {number} of {options.rounds}, seconds: {told}")

    each = {name: [1e6 * row[name] / found.images for row in rows] for name in rows[0]}
    unit = "µs per image"
    return [
        Measurement(
            "ingest / reading the IDX files and writing the same TFRecords", unit, each["ingest"], each["encoder"]
        ),
        Measurement(
            "ingest / the same with TensorFlow's own messages for each image", unit, each["ingest"], each["messages"]
        ),
        Measurement("statistics / reading and parsing the records once", unit, each["statistics"], each["read"]),
        Measurement("Transform / reading and parsing the records once", unit, each["transform"], each["read"]),
    ]


def _run(
    node: BaseComponent, inputs: Mapping[str, artifact.Artifact], folder: pathlib.Path
) -> dict[str, artifact.Artifact]:
    """Runs a node's executor; each output gets a folder of its own below `folder`."""
    outputs = {}
    for key, channel in node.outputs.items():
        outputs[key] = channel.type()
        outputs[key].uri = str(folder / key)
        (folder / key).mkdir(parents=True)
    context = base_beam_executor.BaseBeamExecutor.Context(
        beam_pipeline_args=beam.arguments([]), tmp_dir=str(folder / "tmp"), unique_id="1"
    )
    node.executor_spec.executor_class(context).Do(
        {key: [inputs[key]] for key in node.inputs},
        {key: [value] for key, value in outputs.items()},
        dict(node.spec.exec_properties),
    )
    return outputs


def _write_alone(data_dir: pathlib.Path, folder: pathlib.Path, how: Encode) -> None:
    """What ingest writes, without Beam, checks or digests."""
    files = {
        name: (plain_keras.read_idx(data_dir, images), plain_keras.read_idx(data_dir, labels))
        for name, (images, labels) in {
            idx.TRAIN_IMAGES: (idx.TRAIN_IMAGES, idx.TRAIN_LABELS),
            idx.TEST_IMAGES: (idx.TEST_IMAGES, idx.TEST_LABELS),
        }.items()
    }
    counts = (len(files[idx.TRAIN_IMAGES][0]), len(files[idx.TEST_IMAGES][0]))
    for split, indices in executor.split_indices(*counts).items():
        name = idx.TEST_IMAGES if split == features.TEST else idx.TRAIN_IMAGES
        images, labels = files[name]
        (folder / f"Split-{split}").mkdir(parents=True)
        parts = np.split(indices, range(executor.SHARD_IMAGES, len(indices), executor.SHARD_IMAGES))
        for number, chosen in enumerate(parts):
            path = folder / f"Split-{split}" / f"data_tfrecord-{number:05d}-of-{len(parts):05d}"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for example in how(images[chosen], labels[chosen], name, chosen):
                    writer.write(example)


def _messages(images: Pixels, labels: Pixels, file: str, indices: npt.NDArray[np.int64]) -> list[bytes]:
    """The same bytes as `encode.examples`, with TensorFlow's classes."""
    scalars = {name: column.tolist() for name, column in encode.scalars(images).items()}
    serialized = []
    for row, (image, label, index) in enumerate(zip(images, labels.tolist(), indices.tolist(), strict=True)):
        example = tf.train.Example()
        feature = example.features.feature
        feature[features.IMAGE].bytes_list.value.append(image.tobytes())
        feature[features.LABEL].int64_list.value.append(label)
        feature[features.ID].bytes_list.value.append(f"{file}#{index}".encode())
        feature[features.HEIGHT].int64_list.value.append(image.shape[0])
        feature[features.WIDTH].int64_list.value.append(image.shape[1])
        for name, column in scalars.items():
            feature[name].float_list.value.append(column[row])
        serialized.append(example.SerializeToString(deterministic=True))
    return serialized


def _expect_same(examples: pathlib.Path, folder: pathlib.Path) -> None:
    ours, floor = (
        {str(path.relative_to(root)): path.read_bytes() for path in _files(root)} for root in (examples, folder)
    )
    if ours != floor:
        raise ProjectError(f"the floor of ingest must write the same files with the same bytes; {folder.name} does not")


def _files(root: pathlib.Path) -> Iterator[pathlib.Path]:
    return (path for path in root.glob("Split-*/*") if path.is_file())


def _read_alone(examples: str) -> None:
    scalars = (features.MEAN_INTENSITY, features.INK_SHARE, features.CONTRAST, features.SLANT)
    spec = {
        **dict.fromkeys((features.IMAGE, features.ID), tf.io.FixedLenFeature([], tf.string)),
        **dict.fromkeys((features.LABEL, features.HEIGHT, features.WIDTH), tf.io.FixedLenFeature([], tf.int64)),
        **dict.fromkeys(scalars, tf.io.FixedLenFeature([], tf.float32)),
    }
    for split in features.SPLITS:
        files = datasets.files(f"{examples}/Split-{split}")
        for serialized in datasets.records(files).batch(1024).prefetch(2):
            tf.io.parse_example(serialized, spec)
