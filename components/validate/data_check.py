# SPDX-License-Identifier: Apache-2.0
"""Findings from TFDV's statistics: anomalies, drift and skew; and from the data set of the model in production."""

from __future__ import annotations

import dataclasses
import pathlib
import textwrap
from collections.abc import Iterable, Iterator, Mapping

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from components import features, sampling_margin
from components.findings import ANOMALY, CLASS_MISSING, DATASET_CHANGED, DRIFT, LABEL_OUT_OF_RANGE, SKEW, Finding

_SHOWN = 300  # characters of TFDV's description of one anomaly


def describe_anomalies(split: str, result: anomalies_pb2.Anomalies) -> Iterator[Finding]:
    """Puts TFDV's anomalies of one split into words.

    Args:
        split: name of the split.
        result: TFDV's anomalies of it.
    """
    if result.HasField("dataset_anomaly_info"):
        yield _anomaly(ANOMALY, f"{split}: the data set as a whole: {result.dataset_anomaly_info.description}")
    for feature, info in sorted(result.anomaly_info.items()):
        for reason in info.reason:
            # TFDV lists every wrong value, which may be thousands.
            text = textwrap.shorten(reason.description, _SHOWN, placeholder=" …")
            # A label out of its domain has the same name as in the image check.
            name = LABEL_OUT_OF_RANGE if feature == features.LABEL else ANOMALY
            yield _anomaly(name, f"{split}: feature {feature!r}: {reason.short_description.lower()}. {text}")


def _anomaly(name: str, description: str) -> Finding:
    return Finding(name, f"{description.rstrip('.')}: correct the data or the schema, or run with --allow {name}.")


def find_drift_and_skew(
    schema: schema_pb2.Schema,
    train: statistics_pb2.DatasetFeatureStatisticsList,
    test: statistics_pb2.DatasetFeatureStatisticsList,
    production: statistics_pb2.DatasetFeatureStatisticsList | None,
) -> Iterator[Finding]:
    """Compares distributions by the schema's comparators, with a margin for chance at these numbers of images.

    Args:
        schema: with `skew_comparator` and `drift_comparator` on the features to compare.
        train: statistics of the training split.
        test: statistics of the test split, compared with `train` as serving data (skew).
        production: statistics of the data that the model in production was trained on, None without one (drift).
    """
    bare = schema_pb2.Schema()
    bare.CopyFrom(schema)
    for feature in bare.feature:
        feature.ClearField("drift_comparator")
    anomalies = tfdv.validate_statistics(train, bare, serving_statistics=test)
    yield from _comparisons("train against test", SKEW, anomalies, train, test)
    if production is not None:
        for feature, original in zip(bare.feature, schema.feature, strict=True):
            feature.ClearField("skew_comparator")
            feature.drift_comparator.CopyFrom(original.drift_comparator)
        anomalies = tfdv.validate_statistics(train, bare, previous_statistics=production)
        title = "against the training data of the model in production"
        yield from _comparisons(title, DRIFT, anomalies, train, production)


def _comparisons(
    title: str,
    name: str,
    anomalies: anomalies_pb2.Anomalies,
    sample: statistics_pb2.DatasetFeatureStatisticsList,
    other: statistics_pb2.DatasetFeatureStatisticsList,
) -> Iterator[Finding]:
    for comparison in anomalies.drift_skew_info:
        feature = ".".join(comparison.path.step)
        for measurement in [*comparison.drift_measurements, *comparison.skew_measurements]:
            margin = sampling_margin.distance_margin(measurement.type, sample, other, feature)
            limit = measurement.threshold + margin
            if not measurement.value <= limit:  # NaN is no small distance
                kind = statistics_name(measurement.type)
                yield Finding(
                    name,
                    f"{title}: the distribution of {feature!r} has changed: {kind} {measurement.value:.3f}, "
                    f"{measurement.value - limit:.3f} over the limit of {limit:.3f} ({measurement.threshold:g}, and "
                    f"{margin:.3f} for chance with {_images(sample)} and {_images(other)} images). Look at the "
                    f"statistics, or run with --allow {name}.",
                    measured=measurement.value,
                    limit=limit,
                )


def _images(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> str:
    return f"{sum(dataset.num_examples for dataset in statistics.datasets):,}"


def statistics_name(kind: int) -> str:
    """The measure's name in words, such as "jensen shannon divergence"."""
    return anomalies_pb2.DriftSkewInfo.Measurement.Type.Name(kind).replace("_", " ").lower()


def compare_datasets(name: str, production: str | None) -> Iterator[Finding]:
    """Compares the data set with that of the model in production, None without one."""
    if production is not None and production != name:
        yield Finding(
            DATASET_CHANGED,
            f"The model in production was trained on the data set {production!r}, this one is {name!r}; a change of "
            "the data set must be intended. Use that data set, or run with "
            f"--allow {DATASET_CHANGED}.",
        )


def find_empty_splits(images: Mapping[str, int]) -> Iterator[Finding]:
    """Finds splits without images, by the number of images of each; such a finding cannot be allowed."""
    for split, count in images.items():
        if not count:
            yield Finding(
                CLASS_MISSING,
                f"The split {split} has no images, so no model can be trained or evaluated: give more images.",
            )


def load_statistics_file(path: pathlib.Path) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Reads statistics in TFDV's binary form."""
    return tfdv.load_stats_binary(str(path))


def load_statistics(folder: str) -> Mapping[str, statistics_pb2.DatasetFeatureStatisticsList]:
    """Reads the statistics of every split of `features.SPLITS` from an ExampleStatistics artifact."""
    return {
        split: load_statistics_file(pathlib.Path(folder) / f"Split-{split}" / features.STATISTICS_FILE)
        for split in features.SPLITS
    }


def load_anomalies(folder: str, split: str) -> anomalies_pb2.Anomalies:
    """Reads the anomalies of one split from an ExampleValidator artifact."""
    result = anomalies_pb2.Anomalies()
    result.ParseFromString((pathlib.Path(folder) / f"Split-{split}" / "SchemaDiff.pb").read_bytes())
    return result


def mark_allowed(findings: Iterable[Finding], names: Iterable[str]) -> list[Finding]:
    """Marks the findings whose name is among `names` as allowed."""
    allowed = frozenset(names)
    return [dataclasses.replace(finding, allowed=finding.name in allowed) for finding in findings]
