# SPDX-License-Identifier: Apache-2.0
"""The differences of two JSON values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def differences(first: Any, second: Any, rel_tol: float, abs_tol: float = 0.0, path: str = "") -> Iterator[str]:
    """Yields a line for each difference of two JSON values.

    Args:
        first: a JSON value.
        second: another.
        rel_tol: floats may differ by this share of the larger.
        abs_tol: or by this much.
        path: of the values, for the lines.
    """
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        for key in first:
            yield from differences(first[key], second[key], rel_tol, abs_tol, f"{path}/{key}")
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, pair in enumerate(zip(first, second, strict=True)):
            yield from differences(*pair, rel_tol, abs_tol, f"{path}/{index}")
    elif isinstance(first, float) and isinstance(second, float):
        if not math.isclose(first, second, rel_tol=rel_tol, abs_tol=abs_tol):
            yield f"{path}: {first!r} and {second!r}"
    elif first != second:
        yield f"{path}: {first!r} and {second!r}"
