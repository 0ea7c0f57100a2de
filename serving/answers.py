# SPDX-License-Identifier: Apache-2.0
"""From tensors to the JSON of an answer, by the rules of TensorFlow Serving's REST interface ("RESTful API")."""

from __future__ import annotations

import binascii
from typing import Any

import numpy as np
import numpy.typing as npt

from serving import json_text
from serving.refusal import Refusal
from serving.savedmodel import Arrays
from serving.tensors import COLUMN, ROW


def write_outputs(outputs: Arrays, form: str) -> bytes:
    """The body that answers a predict request.

    Args:
        outputs: what the signature answered.
        form: `ROW` or `COLUMN`, as the request had it.

    Raises:
        Refusal: the outputs have no common first dimension, so that they cannot be told in rows.
    """
    if form == ROW:
        _check_output_rows(outputs)
    finite = all(array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in outputs.values())
    write = json_text.write if finite else json_text.write_with_special_numbers
    told = {name: _told(name, array) for name, array in outputs.items()}
    if form == COLUMN:
        return write({"outputs": told if len(told) > 1 else next(iter(told.values()))})
    if len(told) == 1:
        return write({"predictions": next(iter(told.values()))})
    names = list(told)
    return write({"predictions": [dict(zip(names, row, strict=True)) for row in zip(*told.values(), strict=True)]})


def _check_output_rows(outputs: Arrays) -> None:
    first: int | None = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise Refusal(400, f"Tensor name: {name} has no shape information ")
        if len(array) < 1:
            raise Refusal(400, f"Tensor name: {name} has invalid batch size: {len(array)}")
        if first is not None and len(array) != first:
            raise Refusal(400, f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {first}")
        first = len(array)


def _told(name: str, array: npt.NDArray[Any]) -> Any:
    """An output as JSON knows it: strings as text, those of names that end in `_bytes` as base64."""
    if array.dtype.kind not in "OSU":
        # Rows of numbers are serialized from the array itself.
        return np.ascontiguousarray(array) if array.ndim else array.item()
    return _told_strings(array.tolist(), name.endswith("_bytes"))


def _told_strings(value: Any, as_bytes: bool) -> Any:
    if isinstance(value, list):
        return [_told_strings(item, as_bytes) for item in value]
    if as_bytes:
        return {"b64": binascii.b2a_base64(_data(value), newline=False).decode()}
    return as_text(value)


def as_text(value: Any) -> str:
    """A string element; what is no UTF-8 in it is replaced."""
    return _data(value).decode("utf-8", "replace")


def _data(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
