# SPDX-License-Identifier: Apache-2.0
"""Tables of settings: frozen pydantic models whose fields carry type, default, bounds, help and flag.

Whatever sets a field, be it a flag, a TOML file, a profile or a parameter of a run on Kubeflow, is derived from it.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

import pydantic
from pydantic.fields import FieldInfo

from components.errors import BadInput, did_you_mean


@dataclasses.dataclass(frozen=True)
class Flag:
    """Marks a field that users set, on the command line and at the same place in a config file.

    Attributes:
        group: heading in --help.
        metavar: the value in --help; "": from the field's type.
        unset: the meaning of None, such as "the newest"; "" where the field's description says it.
        key: the flag's name and the TOML key; "": the field's name with hyphens.
        parameter: a run on Kubeflow may change it.
    """

    group: str
    metavar: str = ""
    unset: str = ""
    key: str = ""
    parameter: bool = False


class Table(pydantic.BaseModel):
    """A frozen model that takes exact types and known fields only. A whole number will do for a float."""

    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
    # Between the words of a field's name in messages.
    separator: ClassVar[str] = "-"

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validates the fields, by name.

        Raises:
            BadInput: the first value that is out of bounds or of another type, in one sentence.
        """
        try:
            return cls.model_validate(dict(values))
        except pydantic.ValidationError as error:
            raise BadInput(_sentence(error, cls)) from None

    @classmethod
    def keys(cls) -> dict[str, str]:
        """Returns the TOML key of each field -> the field's name."""
        return {_key(name, info): name for name, info in cls.model_fields.items()}

    @classmethod
    def types(cls) -> dict[str, type]:
        """Returns the type of each field, that of its value where it may be None; str for names to choose from."""
        return {name: value_type(info.annotation) for name, info in cls.model_fields.items()}

    def to_config(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return self.model_dump(mode="json", by_alias=True)


def flag(info: FieldInfo) -> Flag | None:
    """Returns the flag that a field is marked with."""
    return next((item for item in info.metadata if isinstance(item, Flag)), None)


def refuse_unknown(keys: Collection[str], valid_keys: Collection[str], source: str) -> None:
    """Raises `BadInput` for a key that is not valid.

    Args:
        keys: those of a table.
        valid_keys: those that it may have.
        source: the table or file, for the message.
    """
    if unknown := sorted(set(keys) - set(valid_keys)):
        suggestion = did_you_mean(unknown[0], valid_keys) or f"; its keys are {', '.join(sorted(valid_keys))}"
        raise BadInput(f"{source} has the unknown key {unknown[0]!r}{suggestion}")


def value_type(annotation: Any) -> type:
    """Returns int for `int | None`, str for a Literal, tuple for `tuple[str, ...]`."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return value_type(next(option for option in get_args(annotation) if option is not types.NoneType))
    if origin is Literal:
        return str
    kind: type = origin or annotation
    return kind


def _key(name: str, info: FieldInfo, separator: str = "-") -> str:
    mark = flag(info)
    return (mark and mark.key) or name.replace("_", separator)


def _sentence(error: pydantic.ValidationError, model: type[Table]) -> str:
    """The rule that the first of the errors breaks, and the value received."""
    detail = error.errors(include_url=False, include_context=False)[0]
    annotation: Any = model
    metadata: Collection[Any] = ()
    path: list[str] = []
    for part in detail["loc"]:
        if isinstance(annotation, type) and issubclass(annotation, Table):
            if part not in annotation.model_fields:
                refuse_unknown([str(part)], annotation.keys(), "[" + ".".join(path) + "]")
            info = annotation.model_fields[str(part)]
            path.append(_key(str(part), info, model.separator))
        else:  # an item of a list or mapping
            info = FieldInfo.from_annotation(get_args(annotation)[-1 if isinstance(part, str) else 0])
            path.append(str(part))
        annotation, metadata = info.annotation, info.metadata
    key = ".".join(path)
    if detail["type"] == "missing":
        return f"{key} must be set, to {_rule(annotation, metadata)}; neither the profile nor a config file sets it"
    return f"{key} must be {_rule(annotation, metadata)}, not {detail['input']!r}"


def _rule(annotation: Any, metadata: Collection[Any]) -> str:
    """Describes the values that a field takes: "a whole number from 1 to 8", "one of auto, cpu, gpu"."""
    options = get_args(annotation)
    if types.NoneType in options:
        return _rule(next(option for option in options if option is not types.NoneType), metadata)
    if get_origin(annotation) is Annotated:
        info = FieldInfo.from_annotation(annotation)
        return _rule(info.annotation, info.metadata)
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(options)}"
    kind = value_type(annotation)
    if kind in (int, float):
        return f"{'a whole number' if kind is int else 'a number'}{_range(metadata)}"
    if kind is tuple:
        return "a list of strings"
    if kind is bool:
        return "true or false"
    if issubclass(kind, str):
        return "a string"
    return (
        f"a table of {_rule(options[1], ()).removeprefix('a ').replace('number', 'numbers')}" if options else "a table"
    )


def _range(metadata: Collection[Any]) -> str:
    names = ("ge", "gt", "le", "lt")
    bounds = {name: getattr(item, name) for item in metadata for name in names if hasattr(item, name)}
    shown = {name: bound if isinstance(bound, int) else f"{bound:g}" for name, bound in bounds.items()}
    if "gt" in shown:
        return f" above {shown['gt']}" + (f" and at most {shown['le']}" if "le" in shown else "")
    low = f" from {shown['ge']}" if "ge" in shown else ""
    if "lt" in shown:
        return f"{low} to below {shown['lt']}"
    return f"{low} to {shown['le']}" if "le" in shown else low
