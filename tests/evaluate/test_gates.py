# SPDX-License-Identifier: Apache-2.0
import math
from typing import Any

import pytest

from components.evaluate import gates
from components.evaluate.limits import ModelLimits
from components.findings import GateResult

LIMITS = ModelLimits(accuracy={"cnn": 0.98}, change=0.003, best=0.002, recall=0.8, test_examples=1000)


def figures(accuracy: float = 0.99, loss: float = 0.03, examples: int = 10_000, **recall: float) -> dict[str, Any]:
    by_class = dict.fromkeys("0123456789", 0.99) | {key[1:]: value for key, value in recall.items()}
    counts = [[0] * 10 for _ in range(10)]
    for row, share in enumerate(by_class.values()):
        counts[row][row] = 0 if math.isnan(share) else round(1000 * share)
        counts[row][row - 1] = 1000 - counts[row][row]
    return {
        "accuracy": accuracy, "loss": loss, "examples": examples, "recall": by_class, "intervals": {},
        "confusion": counts,
    }  # fmt: skip


def test_the_lowest_recall_has_the_interval_of_its_class() -> None:
    low, high = judge(figures(c7=0.9))["recall-floor"].interval or (0, 0)
    # 900 of 1,000 by Wilson's formula.
    assert (low, high) == pytest.approx((0.879848, 0.917091), abs=1e-6)


def judge(candidate: dict[str, Any], baseline: float | None = None, best: float | None = None) -> dict[str, GateResult]:
    results = gates.judge(
        candidate,
        None if baseline is None else figures(baseline) | {"version": 3},
        None if best is None else figures(best) | {"version": 2},
        LIMITS,
        "cnn",
    )
    return {result.name: result for result in results}


def closed(results: dict[str, GateResult]) -> list[str]:
    return sorted(name for name, result in results.items() if not result.passed)


def test_a_class_without_test_images_has_no_recall_and_the_gate_says_so() -> None:
    candidate = figures(c3=0.85)
    for name in ("7", "8"):
        del candidate["recall"][name]
    result = judge(candidate)["recall-floor"]
    assert (result.passed, result.measured) == (True, 0.85)
    assert result.reason.endswith("the limit is 80.00%; not measured for want of test images: class 7, 8")


def test_a_good_first_candidate_passes_and_has_nothing_to_compare_with() -> None:
    results = judge(figures())
    assert closed(results) == []
    assert sorted(results) == ["accuracy-floor", "finite", "recall-floor", "test-examples"]


@pytest.mark.parametrize(
    ("candidate", "gate"),
    [
        (figures(accuracy=0.9799), "accuracy-floor"),
        (figures(examples=999), "test-examples"),
        (figures(c7=0.79), "recall-floor"),
    ],
)
def test_each_floor_closes_by_itself(candidate: dict[str, Any], gate: str) -> None:
    assert closed(judge(candidate)) == [gate]


def test_nan_passes_nowhere() -> None:
    candidate = figures(accuracy=math.nan, loss=math.nan, c3=math.nan)
    assert closed(judge(candidate, baseline=0.5, best=0.5)) == [
        "accuracy-floor", "best", "change", "finite", "recall-floor",
    ]  # fmt: skip


def test_the_change_threshold_is_the_last_difference_that_passes() -> None:
    assert closed(judge(figures(0.987), baseline=0.99)) == []
    assert closed(judge(figures(0.9869), baseline=0.99)) == ["change"]


def test_small_losses_do_not_add_up() -> None:
    """Each step is within the change threshold; the best version ever pushed remembers where it began."""
    assert closed(judge(figures(0.9875), baseline=0.99, best=0.99)) == ["best"]


def test_the_sentence_has_both_figures_and_by_how_much_it_failed() -> None:
    reason = judge(figures(0.5753), baseline=0.9799)["change"].reason
    assert reason == (
        "the candidate's accuracy is 57.53%, that of the model in production (version 3) 97.99%: -40.46 points, at "
        "most 0.3 lower are allowed, exceeded by 40.16 points: train longer, look at the data, or push all the same "
        "with --force-push REASON"
    )


def test_figures_for_the_table_of_the_verdict() -> None:
    candidate = figures(0.991, c3=0.95) | {"intervals": {"accuracy": [0.989, 0.993], "change": [-0.001, 0.003]}}
    baseline, other = figures(0.99, c3=0.98, c5=0.97) | {"version": 3}, figures(0.992) | {"version": 2}
    results = {result.name: result for result in gates.judge(candidate, baseline, other, LIMITS, "cnn")}
    change, best, accuracy = results["change"], results["best"], results["accuracy-floor"]
    assert (change.candidate, change.baseline, change.interval) == (0.991, 0.99, (-0.001, 0.003))
    assert (best.candidate, best.baseline, best.interval) == (0.991, 0.992, None)  # TFMA compared with version 3
    assert (accuracy.candidate, accuracy.baseline, accuracy.interval) == (None, 0.99, (0.989, 0.993))
    assert (results["recall-floor"].measured, results["recall-floor"].baseline) == (0.95, 0.97)
    same = {result.name: result for result in gates.judge(candidate, baseline, baseline, LIMITS, "cnn")}
    assert same["best"].interval == (-0.001, 0.003)
