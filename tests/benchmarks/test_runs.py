# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import runs
from benchmarks.measurement import ROOT, Options
from components.errors import ProjectError
from components.ingest import digits
from tests.benchmarks import stub_runner


def test_a_copy_of_the_code_gets_another_network(tmp_path):
    checkout = runs.copy_checkout(tmp_path / "checkout")
    runs.edit_network(checkout)
    path = "components/train/models.py"
    before, after = ((root / path).read_text(encoding="utf-8").splitlines() for root in (ROOT, checkout))
    assert [line.strip() for line in after if line not in before] == ['layers.Dense(301, activation="relu"),']
    with pytest.raises(ProjectError, match="name another layer"):
        runs.edit_network(checkout)


def test_a_round_has_the_script_and_a_run_an_unchanged_one_and_one_with_another_network(tmp_path, monkeypatch):
    checkout = stub_runner.write_checkout(tmp_path / "checkout", ROOT)
    (checkout / "benchmarks").mkdir()
    result = json.dumps({"seconds": {"evaluate": 0.25}})
    (checkout / "benchmarks/plain_keras.py").write_text(f"import sys\nprint(sys.argv[1:])\nprint({result!r})\n")
    monkeypatch.setattr(runs, "ROOT", checkout)
    digits.write(tmp_path / "digits")
    options = Options(
        data_dir=tmp_path / "digits", digits_dir=tmp_path / "digits", scratch=tmp_path, rounds=1, steps=60, factors=(),
        cache=None, example=None,
    )  # fmt: skip
    lines: list[str] = []
    rows: list[Any] = runs.measure_runs(options, lines.append)
    assert [len(row.values) for row in rows] == [1] * 5
    assert len(lines) == 1
    run, _, unchanged, edited, evaluate = rows
    assert min(*run.values, *run.floors, *unchanged.values, *edited.values) > 0
    stage = (tmp_path / "digits/train-images-idx3-ubyte").stat().st_size * 1e-6
    # Ingest, the longer of statistics and image-check, data-check, and transform are not necessary again.
    assert [full - floor for full, floor in zip(run.values, edited.floors, strict=True)] == pytest.approx([4 * stage])
    assert evaluate.values == pytest.approx([stage])
    assert evaluate.floors == [0.25]
    assert list(tmp_path.glob("run-*")) == []
