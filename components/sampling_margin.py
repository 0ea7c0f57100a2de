# SPDX-License-Identifier: Apache-2.0
"""The margins for chance in limits on distributions: two samples of one source always differ a little."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # the command line, which imports this, starts without TensorFlow
    from tensorflow_metadata.proto.v0 import statistics_pb2

# A difference of shares within so many standard errors is chance: 1 in 16,000 for one class of one split. Chance alone
# exceeds a limit far less often, since the margin is added to it.
STANDARD_ERRORS = 4
# A ratio is that of the largest class to the smallest, chosen from all. Limit and margin are added in quadrature, so
# that a class of 140 that has lost half its images is found. Of random draws of 100 to 1,374 images of MNIST at most
# 1 in 200 exceeds a limit of 1.5.
_STANDARD_ERRORS_OF_RATIO = 3.5
_PROBABILITY = math.erfc(STANDARD_ERRORS / math.sqrt(2))


def share_margin(counts: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Returns the margin for the difference of each class's share in two samples: float64 [classes], 0 .. 1.

    Args:
        counts: int64 [classes], images of each class in one sample; at least one in all.
        other: the same of the other sample.
    """
    pooled = (counts + other) / (counts.sum() + other.sum())
    error = np.sqrt(pooled * (1 - pooled) * (1 / counts.sum() + 1 / other.sum()))
    return np.asarray(STANDARD_ERRORS * error)


def ratio_limit(limit: float, most: int, fewest: int) -> float:
    """Raises a limit, above 1, on the ratio of two counts, both at least 1, by the margin for chance."""
    return math.exp(math.hypot(math.log(limit), _STANDARD_ERRORS_OF_RATIO * math.sqrt(1 / most + 1 / fewest)))


def divergence_margin(bins: int, count: int, other: int) -> float:
    """Returns the margin for the Jensen-Shannon divergence, in bits, of histograms of two samples of one source.

    It is then distributed as chi-square with bins - 1 degrees of freedom, times (1 / count + 1 / other) / (8 ln 2): the
    divergence to second order in the difference of the shares (J. Lin, IEEE Trans. Inf. Theory 37, 1991).

    Args:
        bins: number of bins of the histograms.
        count: size of the first sample, at least 1.
        other: size of the other.
    """
    from scipy import special

    quantile = float(special.chdtri(max(bins - 1, 1), _PROBABILITY))
    return quantile * (1 / count + 1 / other) / (8 * np.log(2))


def distance_margin(
    measure: int,
    sample: statistics_pb2.DatasetFeatureStatisticsList,
    other: statistics_pb2.DatasetFeatureStatisticsList,
    feature: str,
) -> float:
    """Returns the margin for a measure of TFDV that compares a feature in two sets of statistics.

    Args:
        measure: its type, of `DriftSkewInfo.Measurement`.
        sample: TFDV's statistics of one sample.
        other: those of the other.
        feature: its name.

    Returns:
        The margin to add to the limit, in the unit of the measure; 0 for a measure that is no distance of
        distributions, and for an empty sample.
    """
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    kinds = anomalies_pb2.DriftSkewInfo.Measurement
    first, second = _of(sample, feature), _of(other, feature)
    count, other_count = _count(first), _count(second)
    if not count or not other_count:
        return 0.0
    words = [_words(statistics) for statistics in (first, second)]
    if measure == kinds.L_INFTY:
        names = sorted(words[0].keys() | words[1].keys())
        columns = [np.array([of.get(name, 0) for name in names], np.int64) for of in words]
        return float(share_margin(*columns).max()) if all(column.sum() for column in columns) else 0.0
    if measure == kinds.JENSEN_SHANNON_DIVERGENCE:
        # TFDV cuts the range of numbers at the edges of both histograms.
        bins = len(words[0].keys() | words[1].keys()) or _bins(first) + _bins(second)
        return divergence_margin(bins, count, other_count)
    return 0.0


def _of(statistics: statistics_pb2.DatasetFeatureStatisticsList, feature: str) -> statistics_pb2.FeatureNameStatistics:
    """Returns a feature's statistics, empty ones if it has none."""
    from tensorflow_metadata.proto.v0 import statistics_pb2

    by_name = {".".join(each.path.step): each for dataset in statistics.datasets for each in dataset.features}
    return by_name.get(feature, statistics_pb2.FeatureNameStatistics())


def _count(feature: statistics_pb2.FeatureNameStatistics) -> int:
    kind = feature.WhichOneof("stats")
    return int(getattr(feature, kind).common_stats.num_non_missing) if kind else 0


def _words(feature: statistics_pb2.FeatureNameStatistics) -> dict[str, int]:
    """Returns the number of examples of each category, empty for numbers."""
    return {bucket.label: int(bucket.sample_count) for bucket in feature.string_stats.rank_histogram.buckets}


def _bins(feature: statistics_pb2.FeatureNameStatistics) -> int:
    histograms = feature.num_stats.histograms
    return sum(len(each.buckets) for each in histograms if each.type == each.STANDARD)
