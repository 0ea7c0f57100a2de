# SPDX-License-Identifier: Apache-2.0
"""Reads and writes JSON as TensorFlow Serving does: NaN and Infinity are numbers, and float32 keeps its own digits."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import orjson

from serving.refusal import Refusal

_SHOWN = 300  # characters of a value that an error repeats
# What orjson says -> what TensorFlow Serving's reader says of the same fault.
_FAULTS = {
    "input data is empty": "The document is empty.",
    "unexpected content after document": "The document root must not be followed by other values.",
    "unexpected end of data": "Invalid value.",
    "unexpected end of string": "Missing a closing quotation mark in string.",
    "trailing comma": "Missing a name for object member.",
    "object key must be a string": "Missing a name for object member.",
    "invalid escaped character in string": "Invalid escape character in string.",
    "str is not valid UTF-8": "Invalid encoding in string.",
}


def read(body: bytes) -> Any:
    """Parses a request's body.

    Raises:
        Refusal: it is no JSON; with the fault and its offset in bytes.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"NaN" in body or b"Infinity" in body:
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                pass  # the first reader's words serve for what it refused as well
        fault = next((said for found, said in _FAULTS.items() if found in error.msg), "Invalid value.")
        if not body.strip():
            raise Refusal(400, "JSON Parse error: The document is empty") from None
        raise Refusal(400, f"JSON Parse error: {fault} at offset: {error.pos}") from None


def write(value: Any) -> bytes:
    """Serializes what a request is answered with; numpy arrays and scalars in it as lists and numbers."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def write_with_special_numbers(value: Any) -> bytes:
    """Like `write`, for values in which some numbers are not finite."""
    return json.dumps(_plain(value)).encode()


def shown(value: Any) -> str:
    """A value as an error repeats it: indented as TensorFlow Serving does, cut where it is long."""
    if isinstance(value, str | list | dict):
        # Dumping all of a large body, only to cut it, would make refusing it the most expensive answer.
        value = _cut(value, [_SHOWN])
    text = json.dumps(value, indent=4, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _cut(value: Any, left: list[int]) -> Any:
    """A copy of at most some `left[0]` characters and elements of a value."""
    left[0] -= 1
    if isinstance(value, str):
        left[0] -= len(value)
        return value[: _SHOWN + 1]
    if isinstance(value, list):
        return [_cut(item, left) for item in value[:_SHOWN] if left[0] > 0]
    if isinstance(value, dict):
        return {key[: _SHOWN + 1]: _cut(item, left) for key, item in list(value.items())[:_SHOWN] if left[0] > 0}
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.floating):
        # The digits of a float32, not those of the float64 nearest to it.
        return float(value) if not math.isfinite(value) else float(str(value))
    return value.item() if isinstance(value, np.generic) else value
