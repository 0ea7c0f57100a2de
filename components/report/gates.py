# SPDX-License-Identifier: Apache-2.0
"""The gates' results as rows of a table: metric, candidate, baseline, difference with its interval, limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from components.report import figures

# Gate -> what it measures, and how its figures are written.
_PERCENT, _POINTS = "{:.2%}".format, lambda value: f"{100 * value:+.2f} points"
_KNOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "data": ("open findings in the data", "{:,.0f}".format),
    "infra-answers": ("golden requests to the exported model", "{:g}".format),
    "infra-latency": ("latency of one image", "{:.1f} ms".format),
    "training-serving-skew": ("training/serving skew", "{:.1e}".format),
    "change": ("accuracy against the model in production", _POINTS),
    "best": ("accuracy against the best version ever", _POINTS),
    "test-examples": ("test images", "{:,.0f}".format),
    "finite": ("loss is finite", "{:.4f}".format),
    "accuracy-floor": ("accuracy", _PERCENT),
    "recall-floor": ("lowest recall of a class", _PERCENT),
}


def rows(record: Mapping[str, Any], interval: figures.Interval | None) -> list[dict[str, Any]]:
    """One row for each gate.

    Args:
        record: of the run.
        interval: of the difference between candidate and baseline, where there are both.
    """
    return [_row(gate, record, interval) for gate in record["gates"]]


def _row(gate: Mapping[str, Any], record: Mapping[str, Any], interval: figures.Interval | None) -> dict[str, Any]:
    what, written = _KNOWN.get(gate["name"], (gate["name"], "{:.4g}".format))
    metrics, baseline = record["metrics"], record["baseline"]
    compared = gate["name"] in ("change", "best")
    against = (baseline or {}).get("metrics") or {}
    row = {
        "name": gate["name"],
        "what": what,
        "candidate": _shown(gate["measured"], written),
        "baseline": None,
        "difference": None,
        "limit": _shown(gate["limit"], written),
        "passed": gate["passed"],
        "reason": gate["reason"],
    }
    if compared:
        row["candidate"] = _shown(metrics and metrics["accuracy"], _PERCENT)
        row["difference"] = _shown(gate["measured"], written)
        if gate["name"] == "change":
            row["baseline"] = _shown(against.get("accuracy"), _PERCENT)
            if interval and row["difference"]:
                row["difference"] += f" ({100 * interval.low:+.2f} to {100 * interval.high:+.2f})"
    elif gate["name"] == "accuracy-floor" and "accuracy" in against:
        row["baseline"] = _PERCENT(against["accuracy"])
    elif gate["name"] == "recall-floor" and against.get("recall"):
        row["baseline"] = _PERCENT(min(against["recall"].values()))
    return row


def _shown(value: float | None, written: Callable[[float], str]) -> str | None:
    return None if value is None else written(value)
