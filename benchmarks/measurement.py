# SPDX-License-Identifier: Apache-2.0
"""One line of the table: what was measured, its floor, and the goal."""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured on.

    Attributes:
        data_dir: folder with the four IDX files.
        digits_dir: the same of the small data set that comes with scikit-learn, for what does not depend on the data.
        scratch: folder for all that is written; it is removed in the end.
        rounds: how often each thing is measured, at least once.
        steps: training steps of 128 images.
        factors: how many times the images the growth is measured on.
        cache: folder that keeps larger data sets for the next time; None: they go into `scratch`.
        example: folder of TFX's own example for MNIST; None: it is not run.
    """

    data_dir: pathlib.Path
    digits_dir: pathlib.Path
    scratch: pathlib.Path
    rounds: int
    steps: int
    factors: Sequence[int] = ()
    cache: pathlib.Path | None = None
    example: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The figures of all rounds.

    Attributes:
        what: is measured, against what; for the table.
        unit: of the figures.
        figures: one for each round.
        floors: the floor's figure in the same round; empty where there is none.
        at_most: goal for the ratio, or for the figure where there is no floor; None: no such goal.
        at_least: the same.
    """

    what: str
    unit: str
    figures: Sequence[float]
    floors: Sequence[float] = ()
    at_most: float | None = None
    at_least: float | None = None

    @property
    def figure(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.figures)

    @property
    def floor(self) -> float | None:
        """The median of the rounds."""
        return statistics.median(self.floors) if self.floors else None

    @property
    def ratio(self) -> float | None:
        """The median of the ratios, each within one round, so that a machine that changes its speed matters less."""
        if not self.floors:
            return None
        return statistics.median(one / floor for one, floor in zip(self.figures, self.floors, strict=True))

    @property
    def holds(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        value = self.figure if self.ratio is None else self.ratio
        if self.at_most is not None:
            return value <= self.at_most
        return None if self.at_least is None else value >= self.at_least
