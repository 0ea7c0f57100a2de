# SPDX-License-Identifier: Apache-2.0
"""The table of the models is measured, small, and written. How good any model is, is not tested here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from benchmarks import models, processes, table
from components.errors import BadInput
from components.train.hyperparameters import MODELS


@pytest.fixture
def page(tmp_path):
    return shutil.copy(models.PAGE, tmp_path / "page.md")


@pytest.mark.slow
def test_a_model_is_measured_and_the_others_keep_their_lines(page):
    old = ["`mlp`", "235,146", "2,150", "13", "98.10 ± 0.05", "98.11 ± 0.06", "3", "2026-01-02", "`c`"]
    table.put(page, models._render([old], []), models.BEGIN)
    prose = page.read_text(encoding="utf-8").partition(models.BEGIN)[0]
    command = [sys.executable, "-m", "benchmarks.models", "--quick", "--only", "linear", "--seeds", "2"]
    ended = subprocess.run([*command, "--page", str(page)], cwd=processes.ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    linear, mlp = table.get(page, models.BEGIN)
    assert mlp == old
    assert linear[:3] == ["`linear`", "7,850", "20"]
    val, test = (cell.split(" ± ") for cell in linear[4:6])
    assert 50 < float(val[0]) < 100
    assert 50 < float(test[0]) < 100
    assert val[1] != "0.00" or test[1] != "0.00"  # two seeds are two trainings
    assert linear[6:] == ["2", table.today(), "`runner_local.py --dataset digits --model linear --train-steps 20`"]
    text = page.read_text(encoding="utf-8")
    assert "cores" in text
    assert "tensorflow 2." in text
    assert text.startswith(prose)


def test_a_run_is_read_from_its_record(tmp_path):
    epochs = [{"val_accuracy": value} for value in (0.5, 0.9, 0.8)]
    training = {"parameters": 7, "steps": 30, "seconds": 1.5, "epochs": epochs, "best_epoch": 2}
    (tmp_path / "training.json").write_text(json.dumps(training))
    record = {"artifacts": {"train.model_run": str(tmp_path)}, "metrics": {"accuracy": 0.85}}
    trained = models._read(record)
    assert trained == models.Trained(parameters=7, steps=30, seconds=1.5, val=0.9, test=0.85)


def test_means_and_spread():
    rows = [models.Trained(7850, 20, seconds, 0.9, test) for seconds, test in ((1, 0.91), (2, 0.92), (6, 0.93))]
    assert models._cells("linear", rows, quick=False)[:7] == [
        "`linear`", "7,850", "20", "3", "90.00 ± 0.00", "92.00 ± 1.00", "3"
    ]  # fmt: skip
    assert models._cells("linear", rows[:1], quick=False)[4:6] == ["90.00", "91.00"]


def test_the_page_names_each_model_once():
    measured = [row[0].strip("`") for row in table.get(models.PAGE, models.BEGIN)]
    assert set(measured) <= set(MODELS)
    assert len(measured) == len(set(measured))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the folder with MNIST's files must be named"),
        (["--quick", "--seeds", "0"], "--seeds must be at least 1, not 0"),
        (["--quick", "--page", "nowhere.md"], "the page for the table must be a file"),
    ],
)
def test_wrong_usage_is_refused(arguments, sentence, monkeypatch, capsys):
    monkeypatch.delenv("MNIST_DATA_DIR", raising=False)
    assert models.main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_a_page_without_the_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{table.BEGIN}\n{table.END}")
    with pytest.raises(BadInput, match="make models"):
        table.check(page, models.BEGIN)
