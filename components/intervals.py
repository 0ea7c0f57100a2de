# SPDX-License-Identifier: Apache-2.0
"""How sure a share is that was counted on so many examples."""

from __future__ import annotations

import math
import statistics

LEVEL = 0.95
_Z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)


def wilson(right: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of `right / count`, in 0 .. 1 (https://doi.org/10.1080/01621459.1927.10502953).

    Args:
        right: how many of the examples, 0 .. `count`.
        count: how many examples there are, 1 or more.
    """
    value, square = right / count, _Z**2
    middle = (value + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(value * (1 - value) / count + square / (4 * count**2))
    # At 0 and 1 one end is the value itself, and must not miss it by a rounding error.
    return min(middle - half, value), max(middle + half, value)
