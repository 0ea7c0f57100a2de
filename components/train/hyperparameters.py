# SPDX-License-Identifier: Apache-2.0
"""The hyperparameters of a training, and the defaults of each model. No TensorFlow: the command line reads them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from components import features
from components.errors import BadInput, did_you_mean
from components.table import Flag, Table

# In place of a hyperparameter, where there must be a number: the default of whichever model the run takes.
OWN_DEFAULT = -1
_Hyperparameter = Flag("training", parameter=True)


class Hyperparameters(Table):
    """One training. A field that the model has no use for is None."""

    separator: ClassVar[str] = "_"  # as the names of the parameters of a run on Kubeflow

    model: Annotated[
        Literal["linear", "dnn", "dnn_dropout", "cnn", "keras_cnn", "mlp", "fast", "best"], _Hyperparameter
    ] = Field(default="cnn", description="network")
    # It falls to 0 along a cosine. The bound is what a float32 holds, with room for what an optimizer does with it.
    learning_rate: Annotated[float, _Hyperparameter] = Field(
        gt=0, le=1e37, description="peak of the schedule, reached after the warm-up"
    )
    batch_size: Annotated[int, _Hyperparameter] = Field(ge=1, le=2**20, description="images per step")
    train_steps: Annotated[int, _Hyperparameter] = Field(ge=1, le=2**31 - 1, description="steps in all")
    seed: Annotated[int, _Hyperparameter] = Field(
        default=1, ge=0, le=2**31 - 1, description="of the initial weights, the order of the images and dropout"
    )
    # The learning rate still falls as if all steps were to come.
    patience: Annotated[int, _Hyperparameter] = Field(
        default=0, ge=0, le=2**20, description="epochs without a higher accuracy on val until it stops early; 0: never"
    )
    # Kernels are as large as the images at most, see `_check`.
    ksize1: Annotated[int | None, _Hyperparameter] = Field(
        default=None, ge=1, description="height and width of the first convolution's kernels, pixels"
    )
    ksize2: Annotated[int | None, _Hyperparameter] = Field(
        default=None, ge=1, description="height and width of the second convolution's kernels, pixels"
    )
    nfil1: Annotated[int | None, _Hyperparameter] = Field(
        default=None, ge=1, le=2**16, description="filters of the first convolution"
    )
    nfil2: Annotated[int | None, _Hyperparameter] = Field(
        default=None, ge=1, le=2**16, description="filters of the second convolution"
    )
    dropout: Annotated[float | None, _Hyperparameter] = Field(
        default=None, ge=0, lt=1, description="share of values dropped in training"
    )

    @classmethod
    def of(cls, model: str, **overrides: Any) -> Hyperparameters:
        """Returns the defaults of a model with some of them replaced; an override of None leaves the default.

        Raises:
            BadInput: for an unknown model, a field that the model does not have, or a value out of bounds.
        """
        values = {name: value for name, value in overrides.items() if value is not None}
        if model not in MODELS:
            return cls.parse({"model": model})  # which refuses it
        names = [name for name in model_fields(model) if name != "model"]
        for name in values:
            if name not in names:
                suggestion = did_you_mean(name, names) if name not in cls.model_fields else ""
                raise BadInput(f"the model {model!r} has no {name!r}; it has {', '.join(names)}{suggestion}")
        hyperparameters = cls.parse(MODELS[model].model_dump() | values)
        _check(hyperparameters)
        return hyperparameters

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> Hyperparameters:
        """Reads the parameters of a run, where every field has a value whatever the model is.

        Args:
            parameters: values by field, `model` among them; OWN_DEFAULT stands for the model's own default.
            defaults: the values of a run that sets none. A parameter with its default is ignored where the model has no
                such field; one that the user set is refused.

        Raises:
            BadInput: as for `of`.
        """
        model = parameters["model"]
        fields = model_fields(model) if model in MODELS else parameters
        overrides = {
            name: value
            for name, value in parameters.items()
            if value != OWN_DEFAULT and (value != defaults.get(name) or name in fields)
        }
        return cls.of(**overrides | {"model": model})

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Hyperparameters:
        """Reads what `to_config` wrote; keys that are no fields are ignored."""
        return cls.of(**{name: value for name, value in config.items() if name in cls.model_fields})


def model_fields(model: str) -> list[str]:
    """Returns the names of the fields that a model has."""
    return [name for name, value in MODELS[model].model_dump().items() if value is not None]


def defaults_of(field: str) -> dict[str, Any]:
    """Returns the default of a field by model, for the models that have it."""
    return {name: value for name, model in MODELS.items() if (value := getattr(model, field)) is not None}


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
    """Refuses kernels that the images are too small for."""
    side = min(features.IMAGE_SHAPE)
    for name in ("ksize1", "ksize2"):
        size, largest = getattr(hyperparameters, name), max(side, getattr(MODELS[hyperparameters.model], name) or 1)
        if size is not None and size > largest:
            raise BadInput(f"{name} must be a whole number from 1 to {largest}, not {size}")
    if (least := smallest_side(hyperparameters)) > side:
        kernels = [layer for layer in _SHRINKING[hyperparameters.model] if isinstance(layer, str)]
        sizes = " and ".join(f"{name} {getattr(hyperparameters, name)}" for name in kernels)
        height, width = features.IMAGE_SHAPE
        raise BadInput(
            f"the model {hyperparameters.model!r}{sizes and f' with {sizes}'} takes images of {least}x{least} pixels "
            f"or more, but IMAGE_SHAPE in components/features.py is {height}x{width}; take "
            f"{'smaller kernels or ' if sizes else ''}another model, such as mlp, which takes any size"
        )


_POOL = 0
# The layers that make an image smaller, in their order (`models.py`): the size of a kernel without padding, or the
# name of the field with it, and _POOL, which halves the sides, rounded down. The other models take images of any size.
_SHRINKING: Mapping[str, tuple[int | str, ...]] = {
    "cnn": (_POOL, _POOL),
    "keras_cnn": ("ksize1", "ksize2", _POOL),
    "fast": (5, _POOL, 3, _POOL, 3),
    "best": (5, _POOL, 3, 3, _POOL, 3),
}
MODELS: Mapping[str, Hyperparameters] = {
    defaults.model: defaults
    for defaults in (
        Hyperparameters(model="linear", learning_rate=0.01, batch_size=128, train_steps=2150),
        Hyperparameters(model="dnn", learning_rate=0.002, batch_size=128, train_steps=2150),
        Hyperparameters(model="dnn_dropout", learning_rate=0.002, batch_size=128, train_steps=2150, dropout=0.1),
        Hyperparameters(
            model="cnn",
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
            model="keras_cnn",
            learning_rate=0.003,
            batch_size=128,
            train_steps=3870,
            ksize1=3,
            ksize2=3,
            nfil1=32,
            nfil2=32,
            dropout=0.25,
        ),
        Hyperparameters(model="mlp", learning_rate=0.002, batch_size=128, train_steps=2150),
        Hyperparameters(model="fast", learning_rate=0.01, batch_size=128, train_steps=860, dropout=0.1),
        Hyperparameters(model="best", learning_rate=0.1, batch_size=128, train_steps=12900, dropout=0.3),
    )
}


# Share of the images of a whole training that each trial sees. A trial has a whole schedule of its own, from the
# warm-up to 0, so it can be compared with another. The first part of a longer one, as in Hyperband, could not: its
# learning rate is still high there.
TRIAL_SHARE = 0.25
# The user's choices, not the search's.
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
    """Returns the space around some hyperparameters, without fields that the model lacks or that are fixed.

    Args:
        hyperparameters: the first trial, and the middle of the space.
        fixed: names of fields that are not searched. With `train_steps` among them `batch_size` is not searched either:
            at equal steps a larger batch sees more images, and would win by that alone.

    Raises:
        BadInput: if nothing remains to be searched.
    """
    excluded = {*fixed, *NOT_SEARCHED, *(["batch_size"] if "train_steps" in fixed else [])}
    names = [name for name in model_fields(hyperparameters.model) if name in RULES]
    space = {name: _fitting(hyperparameters, name) for name in names if name not in excluded}
    if not space:
        raise BadInput(
            f"a search needs a hyperparameter that it may change; of the model {hyperparameters.model!r} these are "
            f"{', '.join(names)}, and all of them are fixed (train-steps fixes the batch size too). Leave one out."
        )
    return space


def complete_values(base: Hyperparameters, values: Mapping[str, Any]) -> Hyperparameters:
    """Returns the training that a trial stands for: as many images as `base` sees, in batches of any size.

    Raises:
        BadInput: for a value out of bounds.
    """
    return _with_images(base, values, base.train_steps * base.batch_size)


def trial_hyperparameters(base: Hyperparameters, values: Mapping[str, Any]) -> Hyperparameters:
    """Returns a trial: the same on `TRIAL_SHARE` of the images; raises as `complete_values` does."""
    return _with_images(base, values, base.train_steps * base.batch_size * TRIAL_SHARE)


def _with_images(base: Hyperparameters, values: Mapping[str, Any], images: float) -> Hyperparameters:
    fields = base.model_dump() | dict(values)
    return Hyperparameters.of(**fields | {"train_steps": max(1, round(images / fields["batch_size"]))})


def _fitting(hyperparameters: Hyperparameters, name: str) -> LogRange | Choices:
    """Returns the values of a field to try: no kernel for which the images are too small."""
    rule = RULES[name](getattr(hyperparameters, name))
    if isinstance(rule, LogRange) or name not in ("ksize1", "ksize2"):
        return rule
    side = max(min(features.IMAGE_SHAPE), smallest_side(hyperparameters))

    def smallest(size: Any) -> int:
        return smallest_side(hyperparameters.model_copy(update={name: size}))

    return _choice(size for size in rule.values if smallest(size) <= side)


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
