# SPDX-License-Identifier: Apache-2.0
"""Reads images and statistics from artifacts without TensorFlow, whose import takes longer than a report."""

from __future__ import annotations

import functools
import json
import pathlib
import re
import struct
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorflow_metadata.proto.v0 import statistics_pb2

from components import features
from pipeline.report import png
from pipeline.run_record import RunRecord


class Image(NamedTuple):
    """One image: `pixels` is uint8 [height, width], `label` may be outside the classes."""

    id: str
    label: int
    pixels: npt.NDArray[np.uint8]


def read_images(examples: pathlib.Path, split: str, pattern: re.Pattern[bytes] | None = None) -> Iterator[Image]:
    """Yields the images of a split, in the order of its files.

    Args:
        examples: folder of the artifact, with uncompressed TFRecords.
        split: name of the split.
        pattern: selects serialized records; skipping a record is ten times as fast as parsing it.
    """
    for path in sorted((examples / f"Split-{split}").glob("*")):
        for record in _records(path):
            if pattern is None or pattern.search(record):
                yield _image(record)


def first_of_each_class(examples: pathlib.Path, split: str, count: int) -> list[list[Image]]:
    """Returns the first `count` images of each class; fewer where the split has no more."""
    images: list[list[Image]] = [[] for _ in features.CLASSES]
    missing = count * len(images)
    for image in read_images(examples, split):
        if 0 <= image.label < len(images) and len(images[image.label]) < count:
            images[image.label].append(image)
            missing -= 1
            if not missing:
                break
    return images


def images_by_id(examples: pathlib.Path, splits: Collection[str], ids: Collection[str]) -> dict[str, Image]:
    """Returns the images with these ids that are in the splits."""
    missing, images = set(ids), {}
    pattern = re.compile(b"|".join(re.escape(id_.encode()) for id_ in ids))
    for split in splits:
        for image in read_images(examples, split, pattern) if missing else ():
            if image.id in missing:
                missing.discard(image.id)
                images[image.id] = image
                if not missing:
                    break
    return images


def _records(path: pathlib.Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file: length (8 bytes), checksum (4), record, checksum (4)."""
    content, start = path.read_bytes(), 0
    while start < len(content):
        [size] = struct.unpack_from("<Q", content, start)
        yield content[start + 12 : start + 12 + size]
        start += size + 16


def _image(record: bytes) -> Image:
    values = _example_class().FromString(record).features.feature
    pixels = np.frombuffer(values[features.IMAGE].bytes_list.value[0], np.uint8)
    height, width = (values[name].int64_list.value[0] for name in (features.HEIGHT, features.WIDTH))
    return Image(
        id=values[features.ID].bytes_list.value[0].decode(errors="replace"),
        label=values[features.LABEL].int64_list.value[0],
        pixels=pixels.reshape(height, width),
    )


@functools.cache
def _example_class() -> Any:
    """Returns the part of the message tf.Example that an image needs, in a pool apart from TensorFlow's.

    Field numbers: tensorflow/core/example/example.proto and feature.proto.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="report", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> descriptor_pb2.DescriptorProto:
        added = file.message_type.add(name=name)
        for label, number, kind, cardinality, type_name in fields:
            added.field.add(name=label, number=number, type=kind, label=cardinality, type_name=type_name or None)
        return added

    optional, repeated = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    message("BytesList", ("value", 1, field.TYPE_BYTES, repeated, ""))
    message("Int64List", ("value", 1, field.TYPE_INT64, repeated, ""))
    message(
        "Feature",
        ("bytes_list", 1, field.TYPE_MESSAGE, optional, ".report.BytesList"),
        ("int64_list", 3, field.TYPE_MESSAGE, optional, ".report.Int64List"),
    )
    features_ = message("Features", ("feature", 1, field.TYPE_MESSAGE, repeated, ".report.Features.FeatureEntry"))
    entry = features_.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=optional)
    entry.field.add(name="value", number=2, type=field.TYPE_MESSAGE, label=optional, type_name=".report.Feature")
    message("Example", ("features", 1, field.TYPE_MESSAGE, optional, ".report.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("report.Example"))


_SAMPLES = 6  # of each class
_FINDING_IMAGES = 12  # of each finding
_SUSPECTS = 24
_SUSPECTS_FILE = "label_suspects.json"


def counts(statistics: pathlib.Path) -> dict[str, dict[str, int]]:
    """Returns split -> class -> number of images, from TFDV's statistics of all examples."""
    counts_by_split = {}
    for split, by_name in _statistics(statistics).items():
        label = by_name.get(features.LABEL)  # an empty split has none
        buckets = label.string_stats.rank_histogram.buckets if label else ()
        by_label = {bucket.label: int(bucket.sample_count) for bucket in buckets}
        counts_by_split[split] = {name: by_label.get(str(index), 0) for index, name in enumerate(features.CLASSES)}
    return counts_by_split


def scalars(statistics: pathlib.Path) -> list[dict[str, Any]]:
    """Returns a row for each numeric feature and split: mean, standard deviation, minimum, median, maximum."""
    names = (features.MEAN_INTENSITY, features.INK_SHARE, features.CONTRAST, features.SLANT)
    rows = []
    for name in names:
        for split, by_name in _statistics(statistics).items():
            if name not in by_name:  # the split is empty
                continue
            stats = by_name[name].num_stats
            rows.append(
                {
                    "feature": name.replace("_", " "),
                    "split": split,
                    "mean": stats.mean,
                    "deviation": stats.std_dev,
                    "low": stats.min,
                    "median": stats.median,
                    "high": stats.max,
                }
            )
    return rows


def samples(artifact: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the first training images of each class."""
    by_class = first_of_each_class(artifact, features.TRAIN, _SAMPLES)
    return [
        {"name": name, "images": [{"id": image.id, "uri": png.data_uri(image.pixels)} for image in images]}
        for name, images in zip(features.CLASSES, by_class, strict=True)
    ]


def findings(record: RunRecord, artifact: pathlib.Path | None) -> list[dict[str, Any]]:
    """Returns the findings of the data gate, each with the images that it names."""
    images = _images(artifact, [name for finding in record.findings for name in finding.examples[:_FINDING_IMAGES]])
    return [
        {**vars(finding), "images": [images[name] for name in finding.examples[:_FINDING_IMAGES] if name in images]}
        for finding in record.findings
    ]


def suspects(checks: pathlib.Path, artifact: pathlib.Path | None) -> dict[str, Any] | None:
    """Returns the number of suspect labels and the most certain of them with their images; None if there are none."""
    path = checks / _SUSPECTS_FILE
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    if not rows:
        return None
    rows.sort(key=lambda row: -row["confidence"])
    images = _images(artifact, [row["id"] for row in rows[:_SUSPECTS]])
    return {
        "count": len(rows),
        "images": [
            {**images[row["id"]], "likely": class_name(row["likely"]), "confidence": row["confidence"]}
            for row in rows[:_SUSPECTS]
            if row["id"] in images
        ],
    }


def class_name(label: int) -> str:
    """Returns the name of a class, or the number of a label that is not a class."""
    return features.CLASSES[label] if 0 <= label < len(features.CLASSES) else str(label)


def _images(artifact: pathlib.Path | None, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    images = images_by_id(artifact, features.SPLITS, ids) if artifact and ids else {}
    return {
        name: {"id": name, "label": class_name(image.label), "uri": png.data_uri(image.pixels)}
        for name, image in images.items()
    }


def _statistics(artifact: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns split -> feature -> statistics."""
    by_split = {}
    for split in features.SPLITS:
        content = (artifact / f"Split-{split}" / features.STATISTICS_FILE).read_bytes()
        [dataset] = statistics_pb2.DatasetFeatureStatisticsList.FromString(content).datasets
        by_split[split] = {feature.path.step[0]: feature for feature in dataset.features}
    return by_split
