# SPDX-License-Identifier: Apache-2.0
"""Stages in this process: ingest, statistics and Transform by their executors, and the training loop.

The floor of each is the least that the same work could take: one loop that writes the same files, one pass over the
records, `fit` on arrays in memory.
"""

from __future__ import annotations

import contextlib
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
from benchmarks.measurement import Echo, Measurement, Options
from components import datasets, features
from components.errors import ProjectError
from components.ingest import encode, executor, idx, source
from components.ingest.component import ingest
from components.train import models, trainer
from components.train.data import InMemoryDataset
from components.train.hyperparameters import Hyperparameters
from components.transform.component import transform
from components.validate.component import validate
from components.validate.limits import LabelLimits, PixelLimits
from pipeline import beam, settings

Pixels = npt.NDArray[np.uint8]
Encoder = Callable[[Pixels, Pixels, str, npt.NDArray[np.int64]], list[bytes]]

_BATCH_SIZE = 128
_VALIDATION_BATCH = 500
_WARM_UP_IMAGES, _WARM_UP_STEPS = 200, 2


def measure_executors(options: Options, echo: Echo) -> list[Measurement]:
    """Runs each executor and its floor once for each round."""
    dataset = source.resolve(data_dir=options.data_dir, image_shape=features.IMAGE_SHAPE).source
    profile = settings.PROFILES / f"{dataset.name if dataset.name in ('mnist', 'digits') else 'mnist'}.pbtxt"
    schema = standard_artifacts.Schema()
    schema.uri = str(options.scratch / "schema")
    pathlib.Path(schema.uri).mkdir()
    shutil.copy(profile, pathlib.Path(schema.uri) / "schema.pbtxt")
    examples_channel, schema_channel = Channel(standard_artifacts.Examples), Channel(standard_artifacts.Schema)
    ingest_node = ingest(data_dir=str(options.data_dir), dataset_name=dataset.name)
    statistics_node = validate(
        examples=examples_channel,
        baseline=Channel(standard_artifacts.Model),
        schema_file=str(profile),
        pixel_limits=PixelLimits(),
        label_limits=LabelLimits(),
        allow="",
    ).statistics_node
    transform_node = transform(examples=examples_channel, schema=schema_channel)

    rounds: list[dict[str, float]] = []
    for number in range(1, options.rounds + 1):
        folder = options.scratch / f"stages-{number}"
        seconds: dict[str, float] = {}
        with _timer("ingest", seconds):
            examples = _run(ingest_node, {}, folder / "ingest")["examples"]
        for name, encoder in (("encoder", encode.examples), ("messages", _messages)):
            with _timer(name, seconds):
                _write_records(options.data_dir, folder / name, encoder)
            _check_files(pathlib.Path(examples.uri), folder / name)
        inputs = {"examples": examples, "schema": schema}
        for name, node in (("statistics", statistics_node), ("transform", transform_node)):
            with _timer(name, seconds):
                _run(node, inputs, folder / name)
        with _timer("read", seconds):
            _read_records(examples.uri)
        rounds.append(seconds)
        shutil.rmtree(folder)
        values = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
        echo(f"  round {number} of {options.rounds}: {values}")

    values_of = {name: [1e6 * seconds[name] / dataset.images for seconds in rounds] for name in rounds[0]}
    return [
        Measurement(description, "µs per image", values_of[name], values_of[floor])
        for description, name, floor in (
            ("ingest / reading the IDX files and writing the same TFRecords", "ingest", "encoder"),
            ("ingest / the same with a `tf.train.Example` for each image", "ingest", "messages"),
            ("statistics / reading and parsing the records once", "statistics", "read"),
            ("Transform / reading and parsing the records once", "transform", "read"),
        )
    ]


def measure_training(options: Options, echo: Echo) -> list[Measurement]:
    """Trains both for one pass over the images, at most `options.steps` steps, once for each round.

    Steps are traced before, and both validate after the pass. The loop also writes for TensorBoard, pictures included,
    watches for NaN and saves its state.
    """
    images, labels = plain_keras.read_pair(options.data_dir, "train")
    val_count = len(images) // 12
    val = images[:val_count], labels[:val_count]
    limit = options.steps * _BATCH_SIZE
    images, labels = images[val_count:][:limit], labels[val_count:][:limit]
    steps = -(-len(images) // _BATCH_SIZE)
    network, exported, plain = (models.build(Hyperparameters.of("cnn")) for _ in range(3))
    for target in (network, plain):
        models.compile_network(target, Hyperparameters.of("cnn", train_steps=steps))

    def train(steps: int, count: int, name: str) -> float:
        folders = (str(options.scratch / f"{kind}-{name}") for kind in ("logs", "checkpoints"))
        hyperparameters = Hyperparameters.of("cnn", train_steps=steps, batch_size=_BATCH_SIZE)
        start = time.monotonic()
        trainer.fit(
            network,
            exported,
            hyperparameters,
            InMemoryDataset(images[:count], labels[:count]),
            InMemoryDataset(*val),
            *folders,
        )
        return steps / (time.monotonic() - start)

    def fit(steps: int, count: int) -> float:
        start = time.monotonic()
        plain.fit(
            images[:count], labels[:count], batch_size=_BATCH_SIZE, epochs=1, verbose=0,
            validation_data=val, validation_batch_size=_VALIDATION_BATCH,
        )  # fmt: skip
        return steps / (time.monotonic() - start)

    fit(_WARM_UP_STEPS, _WARM_UP_IMAGES)
    train(_WARM_UP_STEPS, _WARM_UP_IMAGES, "warm-up")
    rates: list[float] = []
    floors: list[float] = []
    for number in range(1, options.rounds + 1):
        floors.append(fit(steps, len(images)))
        rates.append(train(steps, len(images), str(number)))
        echo(f"  round {number} of {options.rounds}: {rates[-1]:.1f} / {floors[-1]:.1f} steps/s")
    return [Measurement("training / `fit` on arrays in memory", "steps/s", rates, floors, at_least=0.95)]


@contextlib.contextmanager
def _timer(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start


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


def _write_records(data_dir: pathlib.Path, folder: pathlib.Path, encoder: Encoder) -> None:
    """Writes the files of ingest, without Beam, checks or digests."""
    arrays = {
        name: (plain_keras.read_idx(data_dir, name), plain_keras.read_idx(data_dir, labels))
        for name, labels in ((idx.TRAIN_IMAGES, idx.TRAIN_LABELS), (idx.TEST_IMAGES, idx.TEST_LABELS))
    }
    counts = (len(arrays[idx.TRAIN_IMAGES][0]), len(arrays[idx.TEST_IMAGES][0]))
    for split, indices in executor.split_indices(*counts).items():
        name = idx.TEST_IMAGES if split == features.TEST else idx.TRAIN_IMAGES
        images, labels = arrays[name]
        (folder / f"Split-{split}").mkdir(parents=True)
        shards = np.split(indices, range(executor.SHARD_IMAGES, len(indices), executor.SHARD_IMAGES))
        for number, shard in enumerate(shards):
            path = folder / f"Split-{split}" / f"data_tfrecord-{number:05d}-of-{len(shards):05d}"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for example in encoder(images[shard], labels[shard], name, shard):
                    writer.write(example)


def _messages(images: Pixels, labels: Pixels, file: str, indices: npt.NDArray[np.int64]) -> list[bytes]:
    """Returns the same bytes as `encode.examples`, by TensorFlow's classes."""
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


def _check_files(examples: pathlib.Path, folder: pathlib.Path) -> None:
    contents, floor = (
        {path.relative_to(root): path.read_bytes() for path in root.glob("Split-*/*") if path.is_file()}
        for root in (examples, folder)
    )
    if contents != floor:
        raise ProjectError(f"the floor of ingest must write the same files with the same bytes; {folder.name} does not")


def _read_records(examples: str) -> None:
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
