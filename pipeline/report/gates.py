# SPDX-License-Identifier: Apache-2.0
"""The table of the gates: a row for each, with its metric, units and limit.

The console imports this on every run, so it needs the record alone, and neither NumPy nor Jinja.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from components.findings import GateResult
from pipeline.run_record import RunRecord

_Format = Callable[[float], str]


def _points(value: float) -> str:
    return f"{100 * value:+.2f} points"


_PERCENT: _Format = "{:.2%}".format
# Gate -> its metric as every table names it, and the format of its values.
_METRICS: dict[str, tuple[str, _Format]] = {
    "data": ("open data findings", "{:,.0f}".format),
    "infra-predictions": ("golden requests", "{:g}".format),
    "infra-latency": ("latency of one image", "{:.1f} ms".format),
    "training-serving-skew": ("training/serving skew", "{:.1e}".format),
    "change": ("accuracy vs production", _points),
    "best": ("accuracy vs best ever", _points),
    "test-examples": ("test images", "{:,.0f}".format),
    "finite": ("loss is finite", "{:.4f}".format),
    "accuracy-floor": ("accuracy", _PERCENT),
    "recall-floor": ("lowest class recall", _PERCENT),
}
_DIFFERENCES = ("change", "best")
# Gates that the short table has even if they pass.
_COMPARISONS = (*_DIFFERENCES, "accuracy-floor", "recall-floor")


@dataclasses.dataclass(frozen=True)
class GateRow:
    """One gate of the table; values are text with a unit, None if the gate has no such value.

    Attributes:
        name: of the gate, as the record has it.
        metric: its name for people.
        interval: the ends of the 95 % interval, of the difference if there is one, else of the candidate's value.
    """

    name: str
    metric: str
    passed: bool
    reason: str
    candidate: str | None
    baseline: str | None
    difference: str | None
    interval: str | None
    limit: str | None


def metric_name(gate: str) -> str:
    """Returns the name of a gate's metric; an unknown gate has its own name."""
    return _METRICS[gate][0] if gate in _METRICS else gate


def gate_rows(record: RunRecord) -> list[GateRow]:
    """Returns one row for each gate of a run."""
    return [_row(gate) for gate in record.gates]


def short_gates(record: RunRecord) -> list[GateRow]:
    """Returns the rows that compare models, and those of gates that did not pass."""
    return [row for row in gate_rows(record) if row.name in _COMPARISONS or not row.passed]


def _row(gate: GateResult) -> GateRow:
    is_difference = gate.name in _DIFFERENCES
    format_value = _METRICS[gate.name][1] if gate.name in _METRICS else "{:.4g}".format
    format_metric = _PERCENT if is_difference else format_value
    return GateRow(
        name=gate.name,
        metric=metric_name(gate.name),
        passed=gate.passed,
        reason=gate.reason,
        candidate=_text(gate.candidate if is_difference else gate.measured, format_metric),
        baseline=_text(gate.baseline, format_metric),
        difference=_text(gate.measured, format_value) if is_difference else None,
        interval=_interval(gate.interval, format_value),
        limit=_text(gate.limit, format_value),
    )


def _text(value: float | None, format_value: _Format) -> str | None:
    return None if value is None else format_value(value)


def _interval(ends: Sequence[float] | None, format_value: _Format) -> str | None:
    """Returns both ends, with a unit after the second only."""
    if not ends:
        return None
    low, high = (format_value(end).removesuffix(" points") for end in ends)
    return f"{low.removesuffix('%')} to {high}"
