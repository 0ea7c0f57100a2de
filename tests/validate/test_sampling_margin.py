# SPDX-License-Identifier: Apache-2.0
"""The margin for chance: random draws of one source are no finding, and a clear shift always is one."""

import numpy as np
import pyarrow as pa
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from components import features, sampling_margin
from components.ingest import encode
from components.validate import classes, data_check
from components.validate.images import Images
from components.validate.limits import PixelLimits
from pipeline import settings

DRAWS, TABLE_DRAWS = 200, 25  # a draw of class counts is cheap, one of TFDV's statistics is not
NUMBERS = (features.MEAN_INTENSITY, features.INK_SHARE, features.SLANT)


def schema_of(profile):
    """Returns the features that the profile compares, with their comparators."""
    schema = tfdv.load_schema_text(str(settings.PROFILES / f"{profile}.pbtxt"))
    compared = [feature for feature in schema.feature if feature.HasField("skew_comparator")]
    assert {feature.name for feature in compared} == {features.LABEL, *NUMBERS}
    del schema.feature[:]
    schema.feature.extend(compared)
    return schema


def statistics_of(schema, columns, rows):
    """TFDV's statistics of some rows."""
    offsets = np.arange(len(rows) + 1, dtype=np.int32)
    values = [pa.ListArray.from_arrays(offsets, pa.array(columns[feature.name][rows])) for feature in schema.feature]
    batch = pa.RecordBatch.from_arrays(values, [feature.name for feature in schema.feature])
    return stats_impl.generate_statistics_in_memory(batch, tfdv.StatsOptions(schema=schema))


def columns_of(*splits):
    pixels = np.concatenate([images.pixels for images in splits])
    return encode.scalars(pixels) | {features.LABEL: np.concatenate([images.labels for images in splits])}


@pytest.fixture(scope="module")
def mnist(mnist_splits):
    return columns_of(*mnist_splits.values())


def balance(columns, rows, test_rows):
    """The findings on the classes of two draws."""
    splits = {
        split: Images((), np.zeros((len(chosen), 1, 1), np.uint8), columns[features.LABEL][chosen])
        for split, chosen in ((features.TRAIN, rows), (features.TEST, test_rows))
    }
    limits = PixelLimits()
    return [*classes.find_uneven(splits, limits.class_ratio), *classes.find_shifted(splits, limits.class_distance)]


sizes = pytest.mark.parametrize(
    ("train", "test"), [(200, 200), (1000, 200), *((55_000, test) for test in (200, 500, 1000, 10_000))]
)


@sizes
def test_random_draws_of_mnist_are_balanced(mnist, train, test):
    random = np.random.default_rng([train, test])
    findings = []
    for _ in range(DRAWS):
        rows = random.choice(70_000, train + test, replace=False)
        findings += balance(mnist, rows[:train], rows[train:])
    # The ratio of the largest class to the smallest may be chance, once in 200 draws.
    ratios = [finding for finding in findings if "a ratio of" in finding.sentence]
    assert len(ratios) <= DRAWS // 50
    assert [finding for finding in findings if finding not in ratios] == []


@pytest.mark.slow
@sizes
def test_random_draws_of_mnist_have_no_skew(mnist, train, test):
    schema = schema_of("mnist")
    # With half of the profile's limits a few draws fail as readily as many with all of them.
    for _, comparator in (field for feature in schema.feature for field in feature.skew_comparator.ListFields()):
        comparator.threshold /= 2
    random = np.random.default_rng([train, test])
    train_rows = random.permutation(70_000)[:train]
    train_statistics = statistics_of(schema, mnist, train_rows)
    rest = np.setdiff1d(np.arange(70_000), train_rows)
    for _ in range(TABLE_DRAWS):
        rows = random.choice(rest, test, replace=False)
        assert (
            list(data_check.find_drift_and_skew(schema, train_statistics, statistics_of(schema, mnist, rows), None))
            == []
        )


@pytest.mark.slow
def test_random_draws_of_the_digits_are_no_finding(digit_splits):
    columns, schema = columns_of(*digit_splits.values()), schema_of("digits")
    random = np.random.default_rng(2)
    for _ in range(TABLE_DRAWS):
        order = random.permutation(1797)
        trained, tested = (statistics_of(schema, columns, rows) for rows in (order[:1300], order[1300:1500]))
        assert list(data_check.find_drift_and_skew(schema, trained, tested, None)) == []
        assert balance(columns, order[:1300], order[1300:1500]) == []


def moved_label(columns, rows, random, distance):
    """Makes images of other classes zeros until the share of zeros has grown by the distance."""
    labels = columns[features.LABEL].copy()
    nonzero = random.permutation(rows[labels[rows] != 0])
    labels[nonzero[: round(distance * len(rows))]] = 0
    return labels


def moved_number(name):
    """Scales a number in part of the rows, so many that the divergence is about the distance."""

    def move(columns, rows, random, distance):
        values = columns[name].copy()
        low, high = np.quantile(values, [0.01, 0.99])
        # Apart from the rest altogether, a share s of one sample gives s/2 bits and more, whatever the bins.
        chosen = random.permutation(rows)[: round(2 * distance * len(rows))]
        values[chosen] = high + (high - low) * random.random(len(chosen))
        return values

    return move


@pytest.mark.slow
@pytest.mark.parametrize("name", [features.LABEL, *NUMBERS])
def test_a_clear_shift_is_always_found(mnist, name):
    schema = schema_of("mnist")
    [feature] = [feature for feature in schema.feature if feature.name == name]
    limit = feature.skew_comparator.infinity_norm.threshold or (
        feature.skew_comparator.jensen_shannon_divergence.threshold
    )
    move = moved_label if name == features.LABEL else moved_number(name)
    del schema.feature[:]
    schema.feature.append(feature)
    random = np.random.default_rng(3)
    order = random.permutation(70_000)
    trained, rest = statistics_of(schema, mnist, order[:55_000]), order[55_000:]
    for _ in range(TABLE_DRAWS):
        rows = random.choice(rest, 10_000, replace=False)
        moved = statistics_of(schema, {name: move(mnist, rows, random, 1.9 * limit)}, rows)
        assert [finding.name for finding in data_check.find_drift_and_skew(schema, trained, moved, None)] == ["skew"]
    assert [finding.name for finding in data_check.find_drift_and_skew(schema, trained, moved, moved)] == [
        "skew",
        "drift",
    ]


def test_the_margin_of_a_divergence_is_its_quantile():
    random = np.random.default_rng(4)
    shares = np.full(20, 0.05)
    first, second = (random.multinomial(count, shares, 20_000) / count for count in (2000, 500))
    middle = (first + second) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(part > 0, part * np.log2(part / middle), 0).sum(axis=1) for part in (first, second)]
    measured = (parts[0] + parts[1]) / 2
    margin = sampling_margin.divergence_margin(20, 2000, 500)
    assert (measured > margin).sum() <= 5  # 1.3 of 20,000 are to be expected
    assert margin < 1.2 * measured.max()


def test_other_measures_have_no_margin():
    empty = statistics_pb2.DatasetFeatureStatisticsList()
    kinds = anomalies_pb2.DriftSkewInfo.Measurement
    assert sampling_margin.distance_margin(kinds.L_INFTY, empty, empty, "label") == 0
    schema = schema_of("mnist")
    columns = {name: np.linspace(0, 1, 50, dtype=np.float32) for name in NUMBERS} | {"label": np.arange(50) % 10}
    some = statistics_of(schema, columns, np.arange(50))
    assert sampling_margin.distance_margin(kinds.NORMALIZED_ABSOLUTE_DIFFERENCE, some, some, "label") == 0
    assert sampling_margin.distance_margin(kinds.L_INFTY, some, some, "label") > 0.2
    assert sampling_margin.distance_margin(
        kinds.JENSEN_SHANNON_DIVERGENCE, some, some, "label"
    ) == sampling_margin.divergence_margin(10, 50, 50)
    assert sampling_margin.distance_margin(
        kinds.JENSEN_SHANNON_DIVERGENCE, some, some, "slant"
    ) == sampling_margin.divergence_margin(20, 50, 50)
