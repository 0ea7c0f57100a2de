# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals of shares."""

from __future__ import annotations

import math
import statistics

LEVEL = 0.95
_Z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)


def wilson(right: float, count: int) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of `right / count`, in 0 .. 1 (https://doi.org/10.1080/01621459.1927.10502953).

    Args:
        right: number of successes, 0 .. `count`.
        count: number of examples, 1 or more.
    """
    value, square = right / count, _Z**2
    middle = (value + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(value * (1 - value) / count + square / (4 * count**2))
    # At 0 and 1 an end is exactly the value, without a rounding error.
    return min(middle - half, value), max(middle + half, value)
