# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys

import pytest

from benchmarks.measurement import Measurement, read_record, time_process, time_run
from components.errors import ProjectError

RECORD = {
    "verdict": "not_blessed",
    "sentence": "NOT BLESSED: accuracy",
    "stages": [
        {"name": "ingest", "state": "done", "seconds": 1.5},
        {"name": "train", "state": "running", "seconds": 0.0},
    ],
    "artifacts": {"ingest.examples": "/output/examples"},
    "metrics": {"accuracy": 0.75},
}


def test_values_are_medians_and_the_ratio_is_taken_within_a_round():
    row = Measurement("a / b", "s", [3.0, 8.0, 2.0], [1.0, 4.0, 2.0], at_most=2.0)
    assert (row.value, row.floor, row.ratio, row.holds) == (3.0, 2.0, 2.0, True)


@pytest.mark.parametrize(
    ("measurement", "holds"),
    [
        (Measurement("a / b", "s", [2.1], [1.0], at_most=2.0), False),
        (Measurement("a", "s", [2.1], at_most=2.0), False),
        (Measurement("a", "s", [1.9], at_most=2.0), True),
        (Measurement("a / b", "steps/s", [94.0], [100.0], at_least=0.95), False),
        (Measurement("a / b", "steps/s", [95.0], [100.0], at_least=0.95), True),
        (Measurement("a / b", "s", [2.1], [1.0]), None),
    ],
)
def test_goals(measurement, holds):
    assert measurement.holds is holds


def test_a_process_is_timed_and_a_failed_one_is_refused():
    timing = time_process([sys.executable, "-c", "print(sum(range(3_000_000)))"])
    assert timing.stdout.strip() == "4499998500000"
    assert timing.cpu_seconds > 0
    assert timing.seconds > 0
    with pytest.raises(ProjectError, match=r"ended with 3: …no$"):
        time_process([sys.executable, "-c", "import sys; print('no'); sys.exit(3)"])


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose run writes `RECORD`."""
    program = f"import pathlib, sys\npathlib.Path(sys.argv[-1]).write_text({json.dumps(RECORD)!r})\nsys.exit(3)"
    (tmp_path / "runner_local.py").write_text(program)
    return tmp_path


@pytest.mark.parametrize("verdicts", [None, ["pushed", "not_blessed"]])
def test_a_run_is_read_from_its_record(checkout, verdicts):
    _, record = time_run(["--seed", 1], checkout / "record.json", checkout, verdicts)
    assert record == read_record(checkout / "record.json")
    assert (record.verdict, record.accuracy) == ("not_blessed", 0.75)
    assert record.states == {"ingest": "done", "train": "running"}
    assert record.seconds["ingest"] == 1.5


def test_a_run_with_another_verdict_is_refused(checkout):
    with pytest.raises(ProjectError, match="the verdict must be pushed; received: NOT BLESSED: accuracy"):
        time_run([], checkout / "record.json", checkout)
