# SPDX-License-Identifier: Apache-2.0
"""The model gate: compares metrics with limits, and explains each result in one sentence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components import features, intervals
from components.evaluate.limits import ModelLimits
from components.findings import GateResult

_WAY_OUT = "train longer, look at the data, or push all the same with --force-push REASON"


def judge(
    candidate: Mapping[str, Any],
    baseline: Mapping[str, Any] | None,
    best: Mapping[str, Any] | None,
    limits: ModelLimits,
    model_type: str,
) -> Iterator[GateResult]:
    """Judges a candidate.

    Args:
        candidate: its metrics, from `metrics.load_metrics`.
        baseline: those of the model in production, None without one.
        best: those of the best version ever pushed, None without one. Both have a key `version` besides.
        limits: of the model gate.
        model_type: key of `limits.accuracy`.

    Yields:
        One result for each limit. Where a figure is not a number, no comparison with it passes.
    """
    accuracy, before = candidate["accuracy"], baseline or {}
    measured = candidate["intervals"]
    if baseline is not None:
        reference = f"the model in production (version {baseline['version']})"
        yield _no_worse("change", accuracy, baseline["accuracy"], limits.change, reference, measured.get("change"))
    if best is not None:
        reference = f"the best version ever pushed (version {best['version']})"
        same = baseline is not None and best["version"] == baseline["version"]
        interval = measured.get("change") if same else None  # TFMA compares with one model only
        yield _no_worse("best", accuracy, best["accuracy"], limits.best, reference, interval)
    yield _at_least(
        "test-examples",
        "number of test examples",
        candidate["examples"],
        limits.test_examples,
        "{:,.0f}",
        "give more test images",
    )
    finite = math.isfinite(candidate["loss"]) and math.isfinite(accuracy)
    reason = f"the candidate's loss is {candidate['loss']:.4f} and its accuracy {accuracy:.2%}"
    if not finite:
        reason += ": they must be finite, as a model that predicts NaN must not be served; train it again"
    yield GateResult(
        "finite",
        candidate["loss"] if finite else None,
        None,
        finite,
        reason,
        baseline=_or_none(before.get("loss")),
        interval=_ends(measured.get("loss")),
    )
    yield _at_least(
        "accuracy-floor",
        f"accuracy of the {model_type} model",
        accuracy,
        limits.accuracy[model_type],
        before=before.get("accuracy"),
        interval=measured.get("accuracy"),
    )
    worst = min(candidate["recall"], key=lambda name: _nan_first(candidate["recall"][name]), default=None)
    if worst is not None:
        unmeasured = [name for name in features.CLASSES if name not in candidate["recall"]]
        result = _at_least(
            "recall-floor",
            f"lowest recall, that of class {worst},",
            candidate["recall"][worst],
            limits.recall,
            before=min(before.get("recall", {}).values(), default=None),  # of whichever class
            interval=_recall_interval(candidate, worst),
        )
        if unmeasured:
            listed = ", ".join(unmeasured)
            reason = f"{result.reason}; not measured for want of test images: class {listed}"
            result = dataclasses.replace(result, reason=reason)
        yield result


def _recall_interval(figures: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Wilson's: the share of one class needs no resampling."""
    row = figures["confusion"][features.CLASSES.index(name)]
    return intervals.wilson(row[features.CLASSES.index(name)], sum(row)) if sum(row) else None


def _at_least(
    name: str,
    quantity: str,
    measured: float,
    limit: float,
    form: str = "{:.2%}",
    way_out: str = _WAY_OUT,
    before: float | None = None,
    interval: Sequence[float] | None = None,
) -> GateResult:
    passed = measured >= limit
    reason = f"the {quantity} is {form.format(measured)}, the limit is {form.format(limit)}"
    if not passed:
        reason += f", missed by {_points(limit - measured, form)}: {way_out}"
    return GateResult(
        name, _or_none(measured), limit, passed, reason, baseline=_or_none(before), interval=_ends(interval)
    )


def _no_worse(
    name: str,
    accuracy: float,
    reference_accuracy: float,
    limit: float,
    reference: str,
    interval: Sequence[float] | None,
) -> GateResult:
    # Accuracies are counts over counts, so a difference that equals the limit must not fail for a rounding error.
    passed = accuracy - reference_accuracy >= -limit - 1e-9
    reason = (
        f"the candidate's accuracy is {accuracy:.2%}, that of {reference} {reference_accuracy:.2%}: "
        f"{100 * (accuracy - reference_accuracy):+.2f} points, at most {100 * limit:g} lower are allowed"
    )
    if not passed:
        reason += f", exceeded by {_points(reference_accuracy - accuracy - limit, '{:.2%}')}: {_WAY_OUT}"
    return GateResult(
        name,
        _or_none(accuracy - reference_accuracy),
        -limit,
        passed,
        reason,
        candidate=_or_none(accuracy),
        baseline=_or_none(reference_accuracy),
        interval=_ends(interval),
    )


def _points(difference: float, form: str) -> str:
    return f"{100 * difference:.2f} points" if form.endswith("%}") else form.format(difference)


def _or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _ends(interval: Sequence[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])


def _nan_first(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
