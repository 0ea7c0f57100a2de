# SPDX-License-Identifier: Apache-2.0
"""A deterministic choice among the items of an ordered list, independent of their order and of what they hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def splitmix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A bijective hash of 64-bit integers (G. Steele et al., Fast Splittable Pseudorandom Number Generators, 2014)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def lowest(count: int, chosen: int) -> npt.NDArray[np.int64]:
    """Chooses exactly `chosen` of the indices 0 .. count - 1: those with the lowest hashes, in ascending order.

    By rank and not by a modulus of the index: many data sets are written class by class in turn.
    """
    order = np.argsort(splitmix64(np.arange(count, dtype=np.uint64)), kind="stable")
    return np.sort(order[:chosen])
