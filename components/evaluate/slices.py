# SPDX-License-Identifier: Apache-2.0
"""The slices that matter for handwriting: how much ink an image has, and how its strokes lean."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from components import features

# Feature -> lower edges of all groups but the first, and the groups' names. MNIST falls into about thirds.
_EDGES = {features.INK_SHARE: (0.11, 0.15), features.SLANT: (0.0, 0.2)}
GROUPS = {
    features.INK_SHARE: ("below 11 %", "11 to 15 %", "15 % or more"),
    features.SLANT: ("to the left", "to the right, below 11°", "to the right, 11° or more"),
}


def group(values: Mapping[str, npt.NDArray[np.floating]]) -> dict[str, npt.NDArray[np.object_]]:
    """Puts examples into groups.

    Args:
        values: float [n] for each feature of `GROUPS`, in the units of `features`.

    Returns:
        For each feature the group of each example, str [n].
    """
    return {name: np.array(GROUPS[name], object)[np.digitize(values[name], edges)] for name, edges in _EDGES.items()}
