# SPDX-License-Identifier: Apache-2.0
"""The part of the report on the data: counts, classes, statistics, sample images, findings with their images."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tensorflow_metadata.proto.v0 import statistics_pb2

from components import features
from components.report import examples, png

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
    by_class = examples.first_of_each_class(artifact, features.TRAIN, _SAMPLES)
    return [
        {"name": name, "images": [{"id": image.id, "uri": png.data_uri(image.pixels)} for image in images]}
        for name, images in zip(features.CLASSES, by_class, strict=True)
    ]


def findings(record: Mapping[str, Any], artifact: pathlib.Path | None) -> list[dict[str, Any]]:
    """The findings of the data gate, each with the images that it names."""
    found = record["findings"]
    pictures = _pictures(artifact, [name for finding in found for name in finding["examples"][:_PICTURED]])
    return [
        {**finding, "images": [pictures[name] for name in finding["examples"][:_PICTURED] if name in pictures]}
        for finding in found
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
        row["given"], row["likely"] = class_name(row["given"]), class_name(row["likely"])
    return {"count": len(rows), "images": known}


def class_name(label: int) -> str:
    """The name of a class; a label that is none stays a number."""
    return features.CLASSES[label] if 0 <= label < len(features.CLASSES) else str(label)


def _pictures(artifact: pathlib.Path | None, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    found = examples.by_id(artifact, features.SPLITS, ids) if artifact and ids else {}
    return {
        name: {"id": name, "label": class_name(image.label), "uri": png.data_uri(image.pixels)}
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
