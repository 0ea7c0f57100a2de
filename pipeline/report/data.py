# SPDX-License-Identifier: Apache-2.0
"""Reads single images back from an Examples artifact without TensorFlow, whose import takes longer than a report."""

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
from pipeline.report import page
from pipeline.run_record import RunRecord


class Image(NamedTuple):
    """One image with what is known of it: `pixels` is uint8 [height, width], `label` as it came."""

    id: str
    label: int
    pixels: npt.NDArray[np.uint8]


def read_images(examples: pathlib.Path, split: str, holding: re.Pattern[bytes] | None = None) -> Iterator[Image]:
    """Every image of a split, in the order of its files.

    Args:
        examples: folder of the artifact, with uncompressed TFRecords.
        split: name of the split.
        holding: what an image's record must hold somewhere; the others are passed over, which is ten times as fast.
    """
    for path in sorted((examples / f"Split-{split}").glob("*")):
        for record in _records(path):
            if holding is None or holding.search(record):
                yield _image(record)


def first_of_each_class(examples: pathlib.Path, split: str, wanted: int) -> list[list[Image]]:
    """For each class its first images, at most `wanted`; fewer where the split has no more."""
    found: list[list[Image]] = [[] for _ in features.CLASSES]
    missing = wanted * len(found)
    for image in read_images(examples, split):
        if 0 <= image.label < len(found) and len(found[image.label]) < wanted:
            found[image.label].append(image)
            missing -= 1
            if not missing:
                break
    return found


def images_by_id(examples: pathlib.Path, splits: Collection[str], ids: Collection[str]) -> dict[str, Image]:
    """The images of these ids, as far as the splits have them."""
    missing, found = set(ids), {}
    holding = re.compile(b"|".join(re.escape(one.encode()) for one in ids))
    for split in splits:
        for image in read_images(examples, split, holding) if missing else ():
            if image.id in missing:
                missing.discard(image.id)
                found[image.id] = image
                if not missing:
                    break
    return found


def _records(path: pathlib.Path) -> Iterator[bytes]:
    """The records of a TFRecord file: each stands between its length (8 bytes), two checksums (4 bytes each)."""
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
    """The message tf.Example, as far as an image needs it, in a pool of its own beside TensorFlow's.

    Field numbers: tensorflow/core/example/example.proto and feature.proto.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="report", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> descriptor_pb2.DescriptorProto:
        added = file.message_type.add(name=name)
        for label, number, kind, repeated, of in fields:
            added.field.add(name=label, number=number, type=kind, label=repeated, type_name=of or None)
        return added

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    message("BytesList", ("value", 1, field.TYPE_BYTES, many, ""))
    message("Int64List", ("value", 1, field.TYPE_INT64, many, ""))
    message(
        "Feature",
        ("bytes_list", 1, field.TYPE_MESSAGE, one, ".report.BytesList"),
        ("int64_list", 3, field.TYPE_MESSAGE, one, ".report.Int64List"),
    )
    features_ = message("Features", ("feature", 1, field.TYPE_MESSAGE, many, ".report.Features.FeatureEntry"))
    entry = features_.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=one)
    entry.field.add(name="value", number=2, type=field.TYPE_MESSAGE, label=one, type_name=".report.Feature")
    message("Example", ("features", 1, field.TYPE_MESSAGE, one, ".report.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("report.Example"))


_SAMPLES = 6  # images of each class
_PICTURED = 12  # images of a finding
_SUSPECTS = 24  # suspect labels
_SUSPECTS_FILE = "label_suspects.json"


def counts(statistics: pathlib.Path) -> dict[str, dict[str, int]]:
    """Split -> class -> number of images, from TFDV's statistics, which see every example."""
    found = {}
    for split, by_name in _statistics(statistics).items():
        label = by_name.get(features.LABEL)  # an empty split has none
        buckets = label.string_stats.rank_histogram.buckets if label else ()
        by_label = {bucket.label: int(bucket.sample_count) for bucket in buckets}
        found[split] = {name: by_label.get(str(index), 0) for index, name in enumerate(features.CLASSES)}
    return found


def scalars(statistics: pathlib.Path) -> list[dict[str, Any]]:
    """A row for each feature of numbers and split: mean, deviation, lowest, median, highest."""
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
    """For each class its first training images."""
    by_class = first_of_each_class(artifact, features.TRAIN, _SAMPLES)
    return [
        {"name": name, "images": [{"id": image.id, "uri": page.data_uri(image.pixels)} for image in images]}
        for name, images in zip(features.CLASSES, by_class, strict=True)
    ]


def findings(record: RunRecord, artifact: pathlib.Path | None) -> list[dict[str, Any]]:
    """The findings of the data gate, each with the images that it names."""
    pictures = _pictures(artifact, [name for finding in record.findings for name in finding.examples[:_PICTURED]])
    return [
        {**vars(finding), "images": [pictures[name] for name in finding.examples[:_PICTURED] if name in pictures]}
        for finding in record.findings
    ]


def suspects(checks: pathlib.Path, artifact: pathlib.Path | None) -> dict[str, Any] | None:
    """The labels that look wrong, the surest first, and how many there are; None where there is none."""
    path = checks / _SUSPECTS_FILE
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    if not rows:
        return None
    shown = sorted(rows, key=lambda row: -row["confidence"])[:_SUSPECTS]
    pictures = _pictures(artifact, [row["id"] for row in shown])
    known = [row | pictures[row["id"]] for row in shown if row["id"] in pictures]
    for row in known:
        row["label"], row["likely"] = class_name(row["label"]), class_name(row["likely"])
    return {"count": len(rows), "images": known}


def class_name(label: int) -> str:
    """The name of a class; a label that is none stays a number."""
    return features.CLASSES[label] if 0 <= label < len(features.CLASSES) else str(label)


def _pictures(artifact: pathlib.Path | None, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    found = images_by_id(artifact, features.SPLITS, ids) if artifact and ids else {}
    return {
        name: {"id": name, "label": class_name(image.label), "uri": page.data_uri(image.pixels)}
        for name, image in found.items()
    }


def _statistics(artifact: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Split -> feature -> its statistics."""
    found = {}
    for split in features.SPLITS:
        content = (artifact / f"Split-{split}" / features.STATISTICS_FILE).read_bytes()
        [dataset] = statistics_pb2.DatasetFeatureStatisticsList.FromString(content).datasets
        found[split] = {feature.path.step[0]: feature for feature in dataset.features}
    return found
