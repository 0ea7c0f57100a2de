# SPDX-License-Identifier: Apache-2.0
"""Tensors and JSON: parsing, type checks, serialization.

JSON is that of TensorFlow Serving: NaN and Infinity are numbers, a float32 is written with its own digits, and bytes
are `{"b64": "…"}`.
"""

from __future__ import annotations

import binascii
import contextlib
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from serving.limits import RequestError

Arrays = Mapping[str, npt.NDArray[Any]]
MAX_DIMENSIONS = 16
_B64 = "b64"
_MAX_CHARACTERS = 80  # of a value that an error message repeats
_INTEGER_RANGES = {
    f"{kind}{bits}": (np.iinfo(f"{kind}{bits}").min, np.iinfo(f"{kind}{bits}").max)
    for kind in ("int", "uint")
    for bits in (8, 16, 32, 64)
}


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output of a signature.

    Attributes:
        dtype: numpy's type; object for strings.
        type_name: TensorFlow's name of the type, such as "uint8".
        shape: sizes, -1 for any size; None if the number of dimensions is unknown.
    """

    dtype: np.dtype[Any]
    type_name: str
    shape: tuple[int, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.type_name} of any shape"
        return f"{self.type_name} [{', '.join('n' if size == -1 else str(size) for size in self.shape)}]"

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Returns True if a tensor of this shape fits."""
        return self.shape is None or (
            len(shape) == len(self.shape)
            and all(expected in (-1, size) for expected, size in zip(self.shape, shape, strict=True))
        )


def read_json(body: bytes) -> Any:
    """Parses the body of a request.

    Raises:
        RequestError: it is not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"NaN" in body or b"Infinity" in body:
            with contextlib.suppress(ValueError, RecursionError):
                return json.loads(body)
        raise RequestError(400, f"the body must be JSON: {error}") from None


def write_json(value: Any) -> bytes:
    """Serializes a value; dataclasses become objects, numpy arrays and scalars become lists and numbers."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def write_json_with_special_numbers(value: Any) -> bytes:
    """Serializes a value like `write_json`, and NaN and Infinity as numbers."""
    return json.dumps(_to_builtins(value)).encode()


def describe(value: Any) -> str:
    """Returns a JSON value as an error message repeats it: lists and objects by type alone, long text cut off."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value[:_MAX_CHARACTERS] if isinstance(value, str) else value)
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + "…"


def from_json(name: str, value: Any, spec: TensorSpec) -> npt.NDArray[Any]:
    """Converts a scalar or a nested list to a tensor.

    Args:
        name: of the input, for error messages.
        value: parsed JSON.
        spec: the type; the shape is not checked.

    Raises:
        RequestError: lists of different lengths, or a value that the type does not have.
    """
    shape = _shape(name, value)
    elements = [value]
    for size in shape:
        if any(not isinstance(item, list) or len(item) != size for item in elements):
            raise RequestError(400, f"the lists of {name} must have equal lengths")
        elements = [inner for item in elements for inner in item]
    types = set(map(type, elements))
    if list in types:
        raise RequestError(400, f"the lists of {name} must have equal lengths")
    if spec.type_name == "uint8" and types <= {int}:
        # Images: much faster than one element at a time.
        with contextlib.suppress(ValueError, OverflowError):
            return np.frombuffer(bytes(elements), np.uint8).reshape(shape)
    array = np.empty(len(elements), spec.dtype)
    for number, element in enumerate(elements):
        try:
            array[number] = _scalar(element, spec.type_name)
        except ValueError as error:
            index = "".join(f"[{position}]" for position in np.unravel_index(number, shape)) if shape else ""
            raise RequestError(400, f"{name}{index} must be {error}; received {describe(element)}") from None
    return array.reshape(shape)


def is_base64(value: Any) -> bool:
    """Returns True if a JSON value is bytes: `{"b64": "…"}`."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(_B64), str)


def to_json(name: str, array: npt.NDArray[Any]) -> Any:
    """Returns an output as JSON values: strings as text, or as base64 if its name ends in `_bytes`."""
    if array.dtype.kind not in "OSU":
        return np.ascontiguousarray(array) if array.ndim else array.item()
    return _strings(array.tolist(), name.endswith("_bytes"))


def to_text(value: bytes | str) -> str:
    """Decodes a string element; bytes that are not UTF-8 are replaced."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _strings(value: Any, as_base64: bool) -> Any:
    if isinstance(value, list):
        return [_strings(item, as_base64) for item in value]
    if not as_base64:
        return to_text(value)
    data = value if isinstance(value, bytes) else str(value).encode()
    return {_B64: binascii.b2a_base64(data, newline=False).decode()}


def _shape(name: str, value: Any) -> tuple[int, ...]:
    """Returns the lengths of the first list at each level."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > MAX_DIMENSIONS:
            raise RequestError(400, f"{name} may have {MAX_DIMENSIONS} dimensions; its lists are nested deeper")
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _scalar(value: Any, type_name: str) -> Any:
    """Converts one element.

    Raises:
        ValueError: the type does not have this value; the message describes those that it has.
        RequestError: JSON requests do not support the type.
    """
    if type_name == "string":
        if isinstance(value, str):
            return value.encode("utf-8", "surrogatepass")
        if is_base64(value):
            return _decode_base64(value[_B64])
        raise ValueError('a string or {"b64": "…"}')
    if type_name == "bool":
        if isinstance(value, bool):
            return value
        raise ValueError("true or false")
    if type_name in _INTEGER_RANGES:
        low, high = _INTEGER_RANGES[type_name]
        if type(value) is int and low <= value <= high:
            return value
        raise ValueError(f"a whole number of {low} to {high}")
    if type_name in ("float32", "float64"):
        if type(value) in (int, float) and _is_representable(value, type_name):
            return value
        raise ValueError(f"a number that {type_name} can hold")
    raise RequestError(501, f"JSON requests do not support the type {type_name}")


def _decode_base64(text: str) -> bytes:
    """Decodes base64 with or without padding and white space; raises `ValueError` for anything else."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        digits = "".join(text.split()).rstrip("=")
    try:
        return binascii.a2b_base64(digits + "=" * (-len(digits) % 4), strict_mode=True)
    except ValueError:
        raise ValueError("valid base64") from None


def _is_representable(value: float, type_name: str) -> bool:
    """Returns True if a number is in the range of a float type and, if it is whole, exact in it."""
    if type(value) is int:
        return abs(value) < 2 ** (24 if type_name == "float32" else 53)
    return not math.isfinite(value) or abs(value) <= float(np.finfo(type_name).max)


def _to_builtins(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_builtins(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_to_builtins(item) for item in value]
    if isinstance(value, np.floating):
        # The digits of a float32, not those of the nearest float64.
        return float(value) if not math.isfinite(value) else float(str(value))
    return value.item() if isinstance(value, np.generic) else value
