# SPDX-License-Identifier: Apache-2.0
"""What a training can be told, and the defaults of each model. No TensorFlow: the command line needs it at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from components import features
from components.errors import BadInput

# What a float32 holds, with room for what an optimizer does with it.
_LARGEST_RATE = 1e37
# In place of a hyperparameter, where there must be a number: the default of whichever model the run takes.
OWN_DEFAULT = -1


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """One training. A field that the model has no use for is None.

    Attributes:
        model: key of `MODELS`.
        learning_rate: the peak of the schedule, reached after the warm-up; it falls to 0 along a cosine.
        batch_size: images per step.
        train_steps: steps in all; how many passes over the training images that is follows from their number.
        seed: of the initial weights, the order of the images and dropout, 0 .. 2^31 - 1.
        patience: epochs without a higher accuracy on val after which the training stops early; 0: it never does. The
            learning rate still falls as if all steps were to come.
        ksize1: height and width of the first convolution's kernels, pixels.
        ksize2: the same of the second.
        nfil1: filters of the first convolution.
        nfil2: filters of the second.
        dropout: share of values dropped in training, 0 <= dropout < 1; which values, `models.py` says.
    """

    model: str
    learning_rate: float
    batch_size: int
    train_steps: int
    seed: int = 1
    patience: int = 0
    ksize1: int | None = None
    ksize2: int | None = None
    nfil1: int | None = None
    nfil2: int | None = None
    dropout: float | None = None

    @classmethod
    def of(cls, model: str, **overrides: Any) -> Hyperparameters:
        """The defaults of a model with some of them replaced; an override of None leaves the default.

        Raises:
            BadInput: for an unknown model, a field that the model does not have, or a value out of range.
        """
        if model not in MODELS:
            raise BadInput(f"the model must be one of {', '.join(MODELS)}, not {model!r}")
        given = {name: value for name, value in overrides.items() if value is not None}
        for name in given:
            if getattr(MODELS[model], name, None) is None:
                has = [key for key, value in MODELS[model].to_config().items() if value is not None]
                raise BadInput(f"the model {model!r} has no {name!r}; it has {', '.join(has[1:])}")
        hyperparameters = dataclasses.replace(MODELS[model], **given)
        _check(hyperparameters)
        return hyperparameters

    @classmethod
    def told(cls, values: Mapping[str, Any], unless_told: Mapping[str, Any]) -> Hyperparameters:
        """What a run was told when it started, where every field has a value whatever the model is.

        Args:
            values: fields by name, `model` among them; OWN_DEFAULT stands for the model's own default.
            unless_told: the values of a run that changes none. One that nobody changed is left out where the model has
                no such field; one that a person gave is refused.

        Raises:
            BadInput: as for `of`.
        """
        model = values["model"]
        given = {name: value for name, value in values.items() if name != "model" and value != OWN_DEFAULT}
        return cls.of(
            model,
            **{
                name: value
                for name, value in given.items()
                if value != unless_told.get(name) or model not in MODELS or getattr(MODELS[model], name) is not None
            },
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Hyperparameters:
        """Reads what `to_config` wrote; keys that are no fields are left alone."""
        names = {field.name for field in dataclasses.fields(cls)} - {"model"}
        return cls.of(config["model"], **{name: value for name, value in config.items() if name in names})

    def to_config(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)


def smallest_side(hyperparameters: Hyperparameters) -> int:
    """Pixels that height and width of the images must have at least, so that each layer has an output."""
    side = 1
    for layer in reversed(_SHRINKING.get(hyperparameters.model, ())):
        if layer == _POOL:
            side *= 2
        else:
            side += (getattr(hyperparameters, layer) if isinstance(layer, str) else layer) - 1
    return side


def _check(hyperparameters: Hyperparameters) -> None:
    side = min(features.IMAGE_SHAPE)
    whole = {
        "batch_size": (1, 2**20),
        "train_steps": (1, 2**31 - 1),
        "seed": (0, 2**31 - 1),
        "patience": (0, 2**20),
        **{name: (1, max(side, getattr(MODELS[hyperparameters.model], name) or 1)) for name in ("ksize1", "ksize2")},
        "nfil1": (1, 2**16),
        "nfil2": (1, 2**16),
    }
    for name, (low, high) in whole.items():
        value = getattr(hyperparameters, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high):
            raise BadInput(f"{name} must be a whole number from {low} to {high}, not {value!r}")
    if (least := smallest_side(hyperparameters)) > side:
        kernels = [layer for layer in _SHRINKING[hyperparameters.model] if isinstance(layer, str)]
        sizes = " and ".join(f"{name} {getattr(hyperparameters, name)}" for name in kernels)
        height, width = features.IMAGE_SHAPE
        raise BadInput(
            f"the model {hyperparameters.model!r}{sizes and f' with {sizes}'} takes images of {least}x{least} pixels "
            f"or more, but IMAGE_SHAPE in components/features.py is {height}x{width}; take "
            f"{'smaller kernels or ' if sizes else ''}another model, such as mlp, which takes any size"
        )
    rate = hyperparameters.learning_rate
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate <= _LARGEST_RATE:
        raise BadInput(f"learning_rate must be a number above 0 and at most {_LARGEST_RATE:g}, not {rate!r}")
    dropout = hyperparameters.dropout
    if dropout is not None and (not isinstance(dropout, int | float) or not 0 <= dropout < 1):
        raise BadInput(f"dropout must be a number from 0 to below 1, not {dropout!r}")


_POOL = 0
# The layers that make an image smaller, in their order (`models.py`): the size of a kernel without padding, or the
# name of the field with it, and _POOL, which halves the sides, rounded down. The other models take images of any size.
_SHRINKING: Mapping[str, tuple[int | str, ...]] = {
    "cnn": (_POOL, _POOL),
    "keras_cnn": ("ksize1", "ksize2", _POOL),
    "fast": (5, _POOL, 3, _POOL, 3),
    "best": (5, _POOL, 3, 3, _POOL, 3),
}
MODELS = {
    defaults.model: defaults
    for defaults in (
        Hyperparameters("linear", learning_rate=0.01, batch_size=128, train_steps=2150),
        Hyperparameters("dnn", learning_rate=0.002, batch_size=128, train_steps=2150),
        Hyperparameters("dnn_dropout", learning_rate=0.002, batch_size=128, train_steps=2150, dropout=0.1),
        Hyperparameters(
            "cnn",
            learning_rate=0.005,
            batch_size=128,
            train_steps=4300,
            ksize1=5,
            ksize2=5,
            nfil1=10,
            nfil2=20,
            dropout=0.25,
        ),
        Hyperparameters(
            "keras_cnn",
            learning_rate=0.003,
            batch_size=128,
            train_steps=3870,
            ksize1=3,
            ksize2=3,
            nfil1=32,
            nfil2=32,
            dropout=0.25,
        ),
        Hyperparameters("mlp", learning_rate=0.002, batch_size=128, train_steps=2150),
        Hyperparameters("fast", learning_rate=0.01, batch_size=128, train_steps=860, dropout=0.1),
        Hyperparameters("best", learning_rate=0.1, batch_size=128, train_steps=12900, dropout=0.3),
    )
}


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
class Choices:
    """One of these, in ascending order."""

    values: tuple[int | float, ...]

    def __str__(self) -> str:
        return ", ".join(f"{value:g}" for value in self.values)


Space = Mapping[str, LogRange | Choices]


def search_space(hyperparameters: Hyperparameters, fixed: Collection[str]) -> Space:
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


def complete_values(base: Hyperparameters, values: Mapping[str, Any]) -> Hyperparameters:
    """The training that a trial stands for: as many images as `base` would see, in however large batches.

    Raises:
        BadInput: for a value out of range.
    """
    return _with_images(base, values, base.train_steps * base.batch_size)


def trial_hyperparameters(base: Hyperparameters, values: Mapping[str, Any]) -> Hyperparameters:
    """What a trial trains: the same on `TRIAL_SHARE` of the images; raises as `whole` does."""
    return _with_images(base, values, base.train_steps * base.batch_size * TRIAL_SHARE)


def _with_images(base: Hyperparameters, values: Mapping[str, Any], images: float) -> Hyperparameters:
    fields = {name: value for name, value in base.to_config().items() if name != "model"} | dict(values)
    return Hyperparameters.of(base.model, **fields | {"train_steps": max(1, round(images / fields["batch_size"]))})


def _fitting(hyperparameters: Hyperparameters, name: str) -> LogRange | Choices:
    """The values of a field to try: no kernel for which the images are too small."""
    rule = RULES[name](getattr(hyperparameters, name))
    if isinstance(rule, LogRange) or name not in ("ksize1", "ksize2"):
        return rule
    side = max(min(features.IMAGE_SHAPE), smallest_side(hyperparameters))

    def least(size: Any) -> int:
        return smallest_side(dataclasses.replace(hyperparameters, **{name: size}))

    return _choice(size for size in rule.values if least(size) <= side)


def _choice(values: Iterable[int | float]) -> Choices:
    return Choices(tuple(sorted(set(values))))


def _rate(value: float) -> LogRange:
    return LogRange(value / 4, value * 4)


def _doubled(value: int) -> Choices:
    return _choice((max(1, value // 2), value, 2 * value))


def _kernel(value: int) -> Choices:
    return _choice(size for size in (value - 2, value, value + 2) if size == value or 1 < size <= _LARGEST_KERNEL)


def _dropout(value: float) -> Choices:
    return _choice((0.0, 0.1, 0.2, 0.3, 0.4, 0.5, value))


_LARGEST_KERNEL = min(features.IMAGE_SHAPE) // 4
# Every field of `Hyperparameters` is here or in `NOT_SEARCHED`, so that no model can be without a space.
RULES: Mapping[str, Callable[[Any], LogRange | Choices]] = {
    "learning_rate": _rate,
    "batch_size": _doubled,
    "ksize1": _kernel,
    "ksize2": _kernel,
    "nfil1": _doubled,
    "nfil2": _doubled,
    "dropout": _dropout,
}
