# SPDX-License-Identifier: Apache-2.0
"""The table of the models is measured, small, and written. No test depends on the quality of a model."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from benchmarks import models, table
from benchmarks.measurement import ROOT, RunTimes
from components.errors import ProjectError
from components.train.hyperparameters import MODELS


@pytest.mark.slow
def test_a_model_is_measured_and_the_lines_of_others_stay(tmp_path):
    page = pathlib.Path(shutil.copy(models.PAGE, tmp_path / "page.md"))
    old = ["`mlp`", "235,146", "2,150", "13", "98.10 ± 0.05", "98.11 ± 0.06", "3", "2026-01-02", "`c`"]
    table.write_table(page, table.render(models.HEADER, [old], []), models.BEGIN)
    prose = page.read_text(encoding="utf-8").partition(models.BEGIN)[0]
    command = [sys.executable, "-m", "benchmarks.models", "--quick", "--only", "linear", "--seeds", "2"]
    completed = subprocess.run([*command, "--page", str(page)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    linear, mlp = table.read_rows(page, models.BEGIN)
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


def test_a_training_is_read_from_the_record_of_its_run(tmp_path):
    epochs = [{"val_accuracy": value} for value in (0.5, 0.9, 0.8)]
    training = {"parameters": 7, "steps": 30, "seconds": 1.5, "epochs": epochs, "best_epoch": 2}
    (tmp_path / "training.json").write_text(json.dumps(training))
    record = RunTimes("pushed", "PUSHED", {}, {}, {"train.model_run": str(tmp_path)}, accuracy=0.85)
    expected = models.Training(parameters=7, steps=30, seconds=1.5, val=0.9, test=0.85)
    assert models.read_training(record) == expected
    with pytest.raises(ProjectError, match="must evaluate its model to be measured"):
        models.read_training(dataclasses.replace(record, accuracy=None))


def test_means_and_spread():
    rows = [models.Training(7850, 20, seconds, 0.9, test) for seconds, test in ((1, 0.91), (2, 0.92), (6, 0.93))]
    assert models.cells_of("linear", rows, quick=False)[:7] == [
        "`linear`", "7,850", "20", "3", "90.00 ± 0.00", "92.00 ± 1.00", "3"
    ]  # fmt: skip
    assert models.cells_of("linear", rows[:1], quick=False)[4:6] == ["90.00", "91.00"]


def test_the_page_names_each_model_once():
    measured = [row[0].strip("`") for row in table.read_rows(models.PAGE, models.BEGIN)]
    assert set(measured) <= set(MODELS)
    assert len(measured) == len(set(measured))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "make models needs the folder with MNIST's files"),
        (["--quick", "--seeds", "0"], "--seeds must be at least 1; received 0"),
        (["--quick", "--page", "nowhere.md"], "--page must name a file that can be read"),
    ],
)
def test_wrong_usage_is_refused(arguments, message, monkeypatch, capsys):
    monkeypatch.delenv("MNIST_DATA_DIR", raising=False)
    assert models.main(arguments) == 2
    assert message in capsys.readouterr().err
