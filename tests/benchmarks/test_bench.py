# SPDX-License-Identifier: Apache-2.0
"""Each part runs, small, and writes its table. No test depends on a time."""

from __future__ import annotations

import pathlib
import pkgutil
import shutil
import subprocess
import sys

import pytest

from benchmarks import bench, table
from benchmarks.measurement import ROOT

# Part -> lines of the table.
LINES = {"stages": 4, "training": 1, "start-up": 2}
# Those that are whole runs have tests of their own, without the runs; TFX's own example takes minutes.
WHOLE_RUNS = {"run", "growth", bench.TFX_EXAMPLE}


def test_every_part_is_tested():
    assert {*LINES, *WHOLE_RUNS} == bench.PARTS.keys()
    assert all(callable(pkgutil.resolve_name(function)) for function in bench.PARTS.values())


@pytest.mark.slow
def test_parts_are_measured_and_the_table_is_written(tmp_path):
    page = pathlib.Path(shutil.copy(bench.PAGE, tmp_path / "page.md"))
    prose = page.read_text(encoding="utf-8").partition(table.BEGIN)[0]
    options = [word for part in LINES for word in ("--only", part)]
    command = [sys.executable, "-m", "benchmarks.bench", "--quick", *options, "--page", str(page)]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    rows = table.read_rows(page)
    assert len(rows) == sum(LINES.values())
    for row in rows:
        assert float(row[1].split()[0].replace(",", "")) > 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(prose)
    assert "data set digits, 1,797 images; 60 training steps of 128" in text
    assert "cores" in text
    assert "tensorflow 2." in text
    assert f"`python -m benchmarks.bench --quick {' '.join(options)} --page FILE`" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "start-up"], "make bench needs the folder with MNIST's files"),
        (["--only", "start-up", "nowhere"], "nowhere"),
        (["--rounds", "0"], "--rounds must be at least 1; received 0"),
        (["--factor", "1"], "--factor must be at least 2; received 1"),
        (["--quick", "--only", "tfx-example"], "mnist_utils_native_keras.py; received none"),
        (
            ["--quick", "--only", "tfx-example", "--tfx-example", "nowhere"],
            "--tfx-example must name the folder",
        ),
        (["--quick", "--page", "nowhere.md"], "--page must name a file that can be read; received nowhere.md"),
    ],
)
def test_wrong_usage_is_refused(arguments, message, monkeypatch, capsys):
    monkeypatch.delenv("MNIST_DATA_DIR", raising=False)
    assert bench.main(arguments) == 2
    assert message in capsys.readouterr().err
