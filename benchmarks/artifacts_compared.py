# SPDX-License-Identifier: Apache-2.0
"""Holds what Beam wrote in one run against what it wrote in another: the same data, settings and code, another engine.

What is equal whatever the engine: every byte of the Examples; every count, name and value of the statistics; what the
transform graph makes of an image; every figure of the evaluation that is a count or a share. Two things may differ:

- Sums of floats depend on the order of their parts: `ROUNDING` of the figure.
- Quantiles and histograms are sketches, which depend on how the data was divided (in TFDV they may be wrong by 0.01 of
  the ranks): `SKETCH` of the number of values, or of the range of the values.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

ROUNDING, SKETCH = 1e-6, 0.01
_IMAGES = 1024
_NODES = ("ingest.examples", "statistics.statistics", "transform.transform_graph", "evaluate.checks")
_SKETCHES = ("histograms", "numValuesHistogram", "median")


@dataclasses.dataclass(frozen=True)
class Compared:
    """One artifact of both runs: what it is, and in which ways it differs; none where it is equal."""

    what: str
    differences: tuple[str, ...]


def compare(first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[Compared]:
    """Compares the artifacts of two runs.

    Args:
        first: the field `artifacts` of a run's record, NODE.OUTPUT -> folder.
        second: that of the other.
    """
    from components import features

    folders = [[pathlib.Path(one[key]) for one in (first, second)] for key in _NODES]
    examples, statistics, transform, evaluation = folders
    for split in features.SPLITS:
        yield Compared(
            f"Examples of {split}, byte by byte", tuple(_files(*(root / f"Split-{split}" for root in examples)))
        )
    for split in features.SPLITS:
        read = [_statistics(root / f"Split-{split}" / features.STATISTICS_FILE) for root in statistics]
        yield Compared(f"statistics of {split}", tuple(_statistics_differ(*read)))
    images = examples[0] / f"Split-{features.TEST}"
    yield Compared(
        "what the transform graph makes of an image", tuple(_transforms_differ(transform[0], transform[1], images))
    )
    figures = [json.loads((root / "metrics.json").read_text(encoding="utf-8")) for root in evaluation]
    yield Compared("figures of the evaluation", tuple(differ("", figures[0], figures[1], ROUNDING)))


def differ(where: str, first: Any, second: Any, rounding: float) -> Iterator[str]:
    """Goes through two JSON values and says where they differ; floats by more than `rounding` of the larger."""
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() != second.keys():
            yield f"{where}: {sorted(first)} and {sorted(second)}"
            return
        for key in first:
            yield from differ(f"{where}/{key}", first[key], second[key], rounding)
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for number, pair in enumerate(zip(first, second, strict=True)):
            yield from differ(f"{where}/{number}", *pair, rounding)
    elif isinstance(first, float) and isinstance(second, float):
        if not math.isclose(first, second, rel_tol=rounding, abs_tol=rounding * rounding):
            yield f"{where}: {first!r} and {second!r}"
    elif first != second:
        yield f"{where}: {first!r} and {second!r}"


def _files(first: pathlib.Path, second: pathlib.Path) -> Iterator[str]:
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (first, second)]
    if contents[0].keys() != contents[1].keys():
        yield f"files {sorted(contents[0])} and {sorted(contents[1])}"
    for name in sorted(contents[0].keys() & contents[1].keys()):
        if contents[0][name] != contents[1][name]:
            yield f"{name} has other bytes"


def _statistics(path: pathlib.Path) -> dict[str, Any]:
    """The statistics as JSON values, each feature under its name: TFDV lists them in any order."""
    import tensorflow_data_validation as tfdv
    from google.protobuf import json_format

    [dataset] = json_format.MessageToDict(tfdv.load_stats_binary(str(path)))["datasets"]
    dataset["features"] = {".".join(one["path"]["step"]): one for one in dataset["features"]}
    return dataset


def _statistics_differ(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    for one in (first, second):
        one["sketches"] = {name: list(_take_sketches(feature)) for name, feature in one["features"].items()}
    for name in [name for name in first["sketches"] if name in second["sketches"]]:
        numbers = first["features"][name].get("numStats", {})
        count = float(first.get("numExamples", 0))
        width = float(numbers.get("max", 0)) - float(numbers.get("min", 0))
        yield from _sketches_differ(name, first["sketches"][name], second["sketches"][name], count, width)
    for one in (first, second):
        one.pop("sketches")
    yield from differ("", first, second, ROUNDING)


def _take_sketches(value: Any) -> Iterator[Any]:
    """Takes what is a sketch out of a feature's statistics, in the order of the keys."""
    if isinstance(value, dict):
        for key in sorted(value):
            if key in _SKETCHES:
                yield value.pop(key)
            else:
                yield from _take_sketches(value[key])


def _sketches_differ(where: str, first: Any, second: Any, count: float, width: float) -> Iterator[str]:
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for pair in zip(first, second, strict=True):
            yield from _sketches_differ(where, *pair, count, width)
    elif isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        for key in first:
            scale = count if key == "sampleCount" else width
            if isinstance(first[key], float) and isinstance(second[key], float):
                if abs(first[key] - second[key]) > SKETCH * scale + 1e-9:
                    yield f"{where}/{key}: {first[key]!r} and {second[key]!r}"
            else:
                yield from _sketches_differ(f"{where}/{key}", first[key], second[key], count, width)
    elif isinstance(first, float) and isinstance(second, float):
        if abs(first - second) > SKETCH * width + 1e-9:
            yield f"{where}: {first!r} and {second!r}"
    elif first != second:
        yield f"{where}: {first!r} and {second!r}"


def _transforms_differ(first: pathlib.Path, second: pathlib.Path, examples: pathlib.Path) -> Iterator[str]:
    import tensorflow as tf

    from components import datasets, features
    from components.train.data import TransformGraph

    graphs = [TransformGraph(str(folder)) for folder in (first, second)]
    spec = {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}
    files = sorted(str(path) for path in examples.iterdir())
    for serialized in datasets.records(files).batch(_IMAGES):
        images = tf.io.parse_example(serialized, spec)[features.IMAGE]
        one, other = (graph(images).numpy().tobytes() for graph in graphs)
        if one != other:
            yield "an image comes out otherwise"
            return
