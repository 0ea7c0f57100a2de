# SPDX-License-Identifier: Apache-2.0
"""The table of the verdict: a row for each gate, in the words and units of a person.

It needs nothing but the record, and no library: the console shows it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Gate -> what it measures, and how its figures are written.
_PERCENT, _POINTS = "{:.2%}".format, lambda value: f"{100 * value:+.2f} points"
_KNOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "data": ("open data findings", "{:,.0f}".format),
    "infra-answers": ("golden requests", "{:g}".format),
    "infra-latency": ("latency of one image", "{:.1f} ms".format),
    "training-serving-skew": ("training/serving skew", "{:.1e}".format),
    "change": ("accuracy vs production", _POINTS),
    "best": ("accuracy vs best ever", _POINTS),
    "test-examples": ("test images", "{:,.0f}".format),
    "finite": ("loss is finite", "{:.4f}".format),
    "accuracy-floor": ("accuracy", _PERCENT),
    "recall-floor": ("lowest class recall", _PERCENT),
}
_COMPARED = ("change", "best")
# What the console shows even where it passed: what models are compared by.
_SHORT = ("change", "best", "accuracy-floor", "recall-floor")


def rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each gate.

    Returns:
        `name`, `what`, `passed`, `reason`, and as text, None where there is no such figure, `candidate`, `baseline`,
        `difference`, `limit`, and `interval`: the two ends of the 95 % interval of the difference, or of the
        candidate's figure where there is no difference.
    """
    return [_row(gate) for gate in record["gates"]]


def short(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows for a glance: what models are compared by, and whatever did not pass."""
    return [row for row in rows(record) if row["name"] in _SHORT or not row["passed"]]


def _row(gate: Mapping[str, Any]) -> dict[str, Any]:
    what, written = _KNOWN.get(gate["name"], (gate["name"], "{:.4g}".format))
    compared = gate["name"] in _COMPARED
    figure = _PERCENT if compared else written
    return {
        "name": gate["name"],
        "what": what,
        "passed": gate["passed"],
        "reason": gate["reason"],
        "candidate": _shown(gate.get("candidate") if compared else gate["measured"], figure),
        "baseline": _shown(gate.get("baseline"), figure),
        "difference": _shown(gate["measured"], written) if compared else None,
        "interval": _interval(gate.get("interval"), written),
        "limit": _shown(gate["limit"], written),
    }


def _shown(value: float | None, written: Callable[[float], str]) -> str | None:
    return None if value is None else written(value)


def _interval(ends: Sequence[float] | None, written: Callable[[float], str]) -> str | None:
    """Both ends, the unit only at the second."""
    if not ends:
        return None
    low, high = (written(end) for end in ends)
    return f"{low.removesuffix(' points').removesuffix('%')} to {high.removesuffix(' points')}"
