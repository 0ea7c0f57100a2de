# SPDX-License-Identifier: Apache-2.0
"""Between JSON and tensors, by the rules and in the words of TensorFlow Serving's REST interface.

Source of the rules: TensorFlow Serving's document "RESTful API" and what its util/json_tensor.cc does where the
document is silent. Numbers take a quick way through numpy; what it does not take is walked through value by value,
which finds the words for what is wrong.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from serving import json_text
from serving.refusal import Refusal
from serving.savedmodel import Arrays, Signature, TensorSpec

ROW, COLUMN = "instances", "inputs"
_B64 = "b64"
MAX_DIMENSIONS = 16
_INTEGERS = {
    "uint8": (0, 2**8 - 1), "int8": (-(2**7), 2**7 - 1), "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1), "int32": (-(2**31), 2**31 - 1), "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1), "uint64": (0, 2**64 - 1),
}  # fmt: skip


def signature_name(document: Any) -> str:
    """The signature that a request's document names, empty for the default one.

    Raises:
        Refusal: the document is no object, or the name is no string.
    """
    if not isinstance(document, dict):
        raise Refusal(400, f"JSON Value: {json_text.shown(document)} Is not object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise Refusal(
            400,
            f"JSON Value: {json_text.shown(document)} not formatted correctly. "
            "'signature_name' key must be a string value.",
        )
    return name


def read_inputs(document: dict[str, Any], specs: Mapping[str, TensorSpec], max_rows: int) -> tuple[Arrays, str]:
    """The tensors of a predict request, and its form, `ROW` or `COLUMN`.

    Args:
        document: the parsed body.
        specs: the inputs of the signature.
        max_rows: number of instances that a request may hold.

    Raises:
        Refusal: the document does not hold these tensors.
    """
    if ROW in document and COLUMN in document:
        raise Refusal(
            400,
            f"JSON Value: {json_text.shown(document)} Not formatted correctly expecting only one of '{COLUMN}' or "
            f"'{ROW}' keys to exist ",
        )
    if ROW in document:
        rows = document[ROW]
        if not isinstance(rows, list):
            raise Refusal(400, f"JSON Value: {json_text.shown(document)} Excepting '{ROW}' to be an list/array")
        if not rows:
            raise Refusal(400, f"JSON Value: {json_text.shown(document)} No values in '{ROW}' array")
        _check_rows(len(rows), max_rows)
        return _from_rows(rows, specs), ROW
    if COLUMN in document:
        columns = _from_columns(document[COLUMN], specs)
        for array in columns.values():
            _check_rows(len(array) if array.ndim else 1, max_rows)
        return columns, COLUMN
    raise Refusal(400, f"Missing '{COLUMN}' or '{ROW}' key")


def check_shapes(signature: Signature, inputs: Arrays) -> int:
    """Holds the shapes of tensors against a signature; returns the number of rows, 1 where there is no such thing.

    Raises:
        Refusal: a shape is not one that the signature takes.
    """
    rows = 1
    for name, spec in signature.inputs.items():
        shape = inputs[name].shape
        fits = spec.shape is None or (
            len(shape) == len(spec.shape)
            and all(size in (-1, found) for size, found in zip(spec.shape, shape, strict=True))
        )
        if not fits:
            wanted = "[" + ", ".join("n" if size == -1 else str(size) for size in spec.shape or ()) + "]"
            raise Refusal(
                400, f"{name} takes {spec.type_name} {wanted}, but received the shape {list(shape)}; change the request"
            )
        rows = shape[0] if shape else 1
    if signature.batchable:
        counts = {name: len(inputs[name]) for name in signature.inputs}
        if len(set(counts.values())) > 1:
            raise Refusal(400, f"the inputs must have one first dimension, but received {counts}")
        if rows == 0:
            raise Refusal(400, "a request must hold at least one image, but holds none")
    return rows


def from_base64(text: str) -> bytes:
    """Decodes base64 with or without padding; raises `Refusal` for what is none."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        pass
    plain = "".join(text.split()).rstrip("=")
    try:
        return binascii.a2b_base64(plain + "=" * (-len(plain) % 4), strict_mode=True)
    except ValueError:
        raise Refusal(400, "Unable to base64 decode") from None


def _check_rows(rows: int, max_rows: int) -> None:
    if rows > max_rows:
        raise Refusal(400, f"a request may hold {max_rows} instances, but holds {rows}; send several requests")


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(_B64), str)


def _from_rows(rows: list[Any], specs: Mapping[str, TensorSpec]) -> Arrays:
    named = isinstance(rows[0], dict) and not _is_b64(rows[0])
    if not isinstance(rows[0], dict) and len(specs) > 1:
        raise Refusal(
            400,
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map",
        )
    if not named:
        if len(specs) > 1:
            raise Refusal(400, "instances hold base64 data, but several input tensors are required: name them")
        ((name, spec),) = specs.items()
        for number, row in enumerate(rows):
            if isinstance(row, dict) and not _is_b64(row):
                raise Refusal(400, f"Expecting value/list but got object at item {number} of input list")
        return {name: _rows_to_array(rows, spec, "")}
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or _is_b64(row):
            raise Refusal(400, f"Expecting object but got list at item {number} of input list")
        for key in row:
            if key not in specs:
                raise Refusal(
                    400,
                    f"Failed to process element: {number} key: {key[:80]} of 'instances' list. Error: "
                    f"INVALID_ARGUMENT: JSON object: does not have named input: {key[:80]}",
                )
        if len(row) != len(specs):
            raise Refusal(
                400,
                f"Failed to process element: {number} of 'instances' list. JSON object: {json_text.shown(row)} "
                f"must only have keys: {','.join(sorted(specs))}",
            )
    return {name: _rows_to_array([row[name] for row in rows], spec, f" key: {name}") for name, spec in specs.items()}


def _rows_to_array(values: list[Any], spec: TensorSpec, key: str) -> npt.NDArray[Any]:
    """The tensor whose rows are `values`, which must all have one shape."""
    quick = _quick(values, spec)
    if quick is not None:
        return quick
    flat: list[Any] = []
    first: tuple[int, ...] | None = None
    for number, value in enumerate(values):
        try:
            shape = _shape(value)
            before = len(flat)
            _fill(value, shape, 0, spec, flat)
            if first is None:
                first, size = shape, len(flat)
            elif len(flat) - before != size:
                raise Refusal(400, f"Expecting tensor size: {size} but got: {len(flat) - before}")
            elif shape != first:
                raise Refusal(400, f"Expecting shape {_words(first)} but got: {_words(shape)}")
        except Refusal as refusal:
            raise Refusal(
                400,
                f"Failed to process element: {number}{key} of 'instances' list. Error: INVALID_ARGUMENT: "
                f"{refusal.message}",
            ) from None
    return _array(flat, (len(values), *(first or ())), spec)


def _from_columns(value: Any, specs: Mapping[str, TensorSpec]) -> Arrays:
    if isinstance(value, dict) and not _is_b64(value):
        missing = next((name for name in sorted(specs) if name not in value), None)
        if missing is not None:
            raise Refusal(400, f"Missing named input: {missing} in 'inputs' object.")
        return {name: to_array(value[name], spec) for name, spec in specs.items()}
    if len(specs) > 1:
        raise Refusal(
            400,
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map",
        )
    return {name: to_array(value, spec) for name, spec in specs.items()}


def to_array(value: Any, spec: TensorSpec) -> npt.NDArray[Any]:
    """The tensor that a value or nested list describes.

    Raises:
        Refusal: it is ragged, or a value is not of the type.
    """
    quick = _quick(value, spec)
    if quick is not None:
        return quick
    shape = _shape(value)
    flat: list[Any] = []
    _fill(value, shape, 0, spec, flat)
    return _array(flat, shape, spec)


def _quick(value: Any, spec: TensorSpec) -> npt.NDArray[Any] | None:
    """The tensor of a list of base64 objects, or of a regular list of numbers of the right kind; None for all else."""
    if spec.type_name == "string":
        if isinstance(value, list) and value and all(map(_is_b64, value)):
            try:
                return _array([from_base64(item[_B64]) for item in value], (len(value),), spec)
            except Refusal:
                return None
        return None
    if spec.type_name != "uint8" or not isinstance(value, list):
        return None
    # The images of this project: [n, height, width] of bytes. `bytes` takes whole numbers of 0 to 255 only, and
    # booleans, which only the long way tells from them.
    try:
        height, width = len(value[0]), len(value[0][0])
        joined = [pixel for image in value for row in image for pixel in row]
        if any(len(image) != height or any(len(row) != width for row in image) for image in value):
            return None
        if not set(map(type, joined)) <= {int}:
            return None
        return np.frombuffer(bytes(joined), np.uint8).reshape(len(value), height, width)
    except (TypeError, ValueError, IndexError, KeyError):
        return None


def _array(flat: list[Any], shape: tuple[int, ...], spec: TensorSpec) -> npt.NDArray[Any]:
    if spec.type_name == "string":
        array = np.empty(len(flat), object)
        array[:] = flat
        return array.reshape(shape)
    return np.array(flat, spec.dtype).reshape(shape)


def _shape(value: Any) -> tuple[int, ...]:
    """The shape that the first elements of nested lists tell."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > MAX_DIMENSIONS:
            raise Refusal(400, f"a tensor may have {MAX_DIMENSIONS} dimensions; lists are nested deeper than that")
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _fill(value: Any, shape: tuple[int, ...], level: int, spec: TensorSpec, flat: list[Any]) -> None:
    """Appends the values of a nested list, which must be of that shape, row by row."""
    if not isinstance(value, list):
        if level != len(shape):
            raise Refusal(
                400,
                f"JSON Value: {json_text.shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}",
            )
        flat.append(_scalar(value, spec))
        return
    if level >= len(shape):
        raise Refusal(400, f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise Refusal(
            400,
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}",
        )
    for item in value:
        _fill(item, shape, level + 1, spec, flat)


def _scalar(value: Any, spec: TensorSpec) -> Any:
    name = spec.type_name
    if name == "string":
        if isinstance(value, dict):
            if not _is_b64(value):
                raise Refusal(400, f"JSON Value: {json_text.shown(value)} not formatted correctly for base64 data")
            return from_base64(value[_B64])
        if isinstance(value, str):
            return value.encode("utf-8", "surrogatepass")
    elif name == "bool":
        if isinstance(value, bool):
            return value
    elif name in _INTEGERS:
        low, high = _INTEGERS[name]
        if type(value) is int and low <= value <= high:
            return value
    elif name in ("float32", "float64"):
        if type(value) in (int, float):
            return _decimal(value, name)
    else:
        raise Refusal(501, f"Conversion of JSON Value: {json_text.shown(value)} to type: {name}")
    raise Refusal(
        400, f"JSON Value: {json_text.shown(value)} Type: {_type(value)} is not of expected type: {_tf_name(name)}"
    )


def _decimal(value: float, name: str) -> float:
    digits, largest = (24, float(np.finfo(np.float32).max)) if name == "float32" else (53, float("inf"))
    whole_and_large = type(value) is int and abs(value) > 2**digits - 1
    too_large = value == value and abs(value) not in (float("inf"),) and not -largest <= value <= largest
    if whole_and_large or too_large:
        raise Refusal(
            400,
            f"Cannot convert JSON value: {json_text.shown(value)} to {_tf_name(name)} without loss of precision.",
        )
    return value


def _tf_name(name: str) -> str:
    return {"float32": "float", "float64": "double"}.get(name, name)


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    return {type(None): "Null", dict: "Object", list: "Array", str: "String"}.get(type(value), "Number")


def _words(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
