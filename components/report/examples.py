# SPDX-License-Identifier: Apache-2.0
"""Reads single images back from an Examples artifact without TensorFlow, whose import takes longer than a report."""

from __future__ import annotations

import functools
import pathlib
import re
import struct
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from components import features


class Image(NamedTuple):
    """One image with what is known of it: `pixels` is uint8 [height, width], `label` as it came."""

    id: str
    label: int
    pixels: npt.NDArray[np.uint8]


def read(examples: pathlib.Path, split: str, holding: re.Pattern[bytes] | None = None) -> Iterator[Image]:
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
    for image in read(examples, split):
        if 0 <= image.label < len(found) and len(found[image.label]) < wanted:
            found[image.label].append(image)
            missing -= 1
            if not missing:
                break
    return found


def by_id(examples: pathlib.Path, splits: Collection[str], ids: Collection[str]) -> dict[str, Image]:
    """The images of these ids, as far as the splits have them."""
    missing, found = set(ids), {}
    holding = re.compile(b"|".join(re.escape(one.encode()) for one in ids))
    for split in splits:
        for image in read(examples, split, holding) if missing else ():
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
