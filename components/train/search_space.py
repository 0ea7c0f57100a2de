# SPDX-License-Identifier: Apache-2.0
"""What a search may try: around the value in force of each hyperparameter. No TensorFlow: the command line asks it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from components import features
from components.errors import BadInput
from components.train.hyperparameters import Hyperparameters, smallest_side

# Share of the images of a whole training that each trial sees. A trial has a whole schedule of its own, from the
# warm-up to 0, so it can be compared with another. The first part of a longer one, as in Hyperband, could not: its
# learning rate is still high there.
TRIAL_SHARE = 0.25
# What is trained, how long and with what luck is for a person to say.
NOT_SEARCHED = frozenset({"model", "train_steps", "seed", "patience"})


@dataclasses.dataclass(frozen=True)
class LogRange:
    """Any number from `low` to `high`; each of its octaves is tried as often as another."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of these, in ascending order."""

    values: tuple[int | float, ...]

    def __str__(self) -> str:
        return ", ".join(f"{value:g}" for value in self.values)


Space = Mapping[str, LogRange | Choice]


def of(hyperparameters: Hyperparameters, fixed: Collection[str]) -> Space:
    """The space around some hyperparameters; what the model does not have, or a person gave, is not in it.

    Args:
        hyperparameters: the first trial, and the middle of the space.
        fixed: names of fields that are not searched. With `train_steps` among them `batch_size` is not searched either:
            at equal steps a larger batch sees more images, and would win by that alone.

    Raises:
        BadInput: if nothing is left to search.
    """
    left_alone = {*fixed, *NOT_SEARCHED, *(["batch_size"] if "train_steps" in fixed else [])}
    has = [name for name, value in hyperparameters.to_config().items() if value is not None and name in RULES]
    space = {name: _fitting(hyperparameters, name) for name in has if name not in left_alone}
    if not space:
        raise BadInput(
            f"a search needs a hyperparameter that it may change; of the model {hyperparameters.model!r} these are "
            f"{', '.join(has)}, and all of them are given (train-steps holds the batch size too). Leave one out."
        )
    return space


def whole(base: Hyperparameters, values: Mapping[str, Any]) -> Hyperparameters:
    """The training that a trial stands for: as many images as `base` would see, in however large batches.

    Raises:
        BadInput: for a value out of range.
    """
    return _with_images(base, values, base.train_steps * base.batch_size)


def trial(base: Hyperparameters, values: Mapping[str, Any]) -> Hyperparameters:
    """What a trial trains: the same on `TRIAL_SHARE` of the images; raises as `whole` does."""
    return _with_images(base, values, base.train_steps * base.batch_size * TRIAL_SHARE)


def _with_images(base: Hyperparameters, values: Mapping[str, Any], images: float) -> Hyperparameters:
    fields = {name: value for name, value in base.to_config().items() if name != "model"} | dict(values)
    return Hyperparameters.of(base.model, **fields | {"train_steps": max(1, round(images / fields["batch_size"]))})


def _fitting(hyperparameters: Hyperparameters, name: str) -> LogRange | Choice:
    """The values of a field to try: no kernel for which the images are too small."""
    rule = RULES[name](getattr(hyperparameters, name))
    if isinstance(rule, LogRange) or name not in ("ksize1", "ksize2"):
        return rule
    side = max(min(features.IMAGE_SHAPE), smallest_side(hyperparameters))

    def least(size: Any) -> int:
        return smallest_side(dataclasses.replace(hyperparameters, **{name: size}))

    return _choice(size for size in rule.values if least(size) <= side)


def _choice(values: Iterable[int | float]) -> Choice:
    return Choice(tuple(sorted(set(values))))


def _rate(value: float) -> LogRange:
    return LogRange(value / 4, value * 4)


def _doubled(value: int) -> Choice:
    return _choice((max(1, value // 2), value, 2 * value))


def _kernel(value: int) -> Choice:
    return _choice(size for size in (value - 2, value, value + 2) if size == value or 1 < size <= _LARGEST_KERNEL)


def _dropout(value: float) -> Choice:
    return _choice((0.0, 0.1, 0.2, 0.3, 0.4, 0.5, value))


_LARGEST_KERNEL = min(features.IMAGE_SHAPE) // 4
# Every field of `Hyperparameters` is here or in `NOT_SEARCHED`, so that no model can be without a space.
RULES: Mapping[str, Callable[[Any], LogRange | Choice]] = {
    "learning_rate": _rate,
    "batch_size": _doubled,
    "ksize1": _kernel,
    "ksize2": _kernel,
    "nfil1": _doubled,
    "nfil2": _doubled,
    "dropout": _dropout,
}
