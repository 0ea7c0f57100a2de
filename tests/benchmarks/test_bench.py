# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, small, and write their table. How fast anything is, is not tested."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tfx

from benchmarks import bench, plain_keras, processes, table, tfx_example, whole_run
from benchmarks.measurement import Measurement
from components.errors import BadInput, ProjectError
from components.ingest import digits

LINES = {
    "whole": 5,
    "stages": 4,
    "training": 1,
    "start-up": 2,
    "kubeflow": 1,
    "growth": 16,
    "tfx-example": 1,
}
TFX_EXAMPLE = pathlib.Path(tfx.__file__).parent / "examples/mnist"


@pytest.fixture
def page(tmp_path):
    return shutil.copy(bench.PAGE, tmp_path / "page.md")


def cells(page):
    text = page.read_text(encoding="utf-8").partition(table.BEGIN)[2].partition(table.END)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return rows[2:], text


def test_every_part_has_its_lines():
    assert LINES.keys() == bench.PARTS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("part", [part for part in LINES if part != "tfx-example"])  # minutes, most of them TFX's
def test_a_part_is_measured_and_the_table_written(part, page):
    prose = page.read_text(encoding="utf-8").partition(table.BEGIN)[0]
    command = [sys.executable, "-m", "benchmarks.bench", "--quick", "--only", part, "--page", str(page)]
    ended = subprocess.run(command, cwd=processes.ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    rows, text = cells(page)
    assert len(rows) == LINES[part]
    for row in rows:
        assert float(row[1].split()[0].replace(",", "")) > 0
    assert "data set digits, 1,797 images; 60 training steps of 128" in text
    assert "cores" in text
    assert "tensorflow 2." in text
    assert f"`python -m benchmarks.bench --quick --only {part} --page FILE`" in text
    assert page.read_text(encoding="utf-8").startswith(prose)


def test_tfx_s_example_gets_every_image_as_it_reads_them(tmp_path):
    digits.write(tmp_path / "digits")
    tfx_example.write_data(tmp_path / "digits", tmp_path / "data/mnist.tfrecord")
    kinds = {
        "image_floats": tf.io.FixedLenFeature([784], tf.float32),
        "image_class": tf.io.FixedLenFeature([], tf.int64),
    }
    records = list(tf.data.TFRecordDataset(str(tmp_path / "data/mnist.tfrecord")).as_numpy_iterator())
    read = tf.io.parse_example(records, kinds)
    images, labels = (
        np.concatenate(part)
        for part in zip(*(plain_keras.read_pair(tmp_path / "digits", name) for name in ("train", "t10k")), strict=True)
    )
    assert len(records) == 1797
    np.testing.assert_allclose(read["image_floats"], images.reshape(-1, 784) - 0.5, atol=1e-6)
    np.testing.assert_array_equal(read["image_class"], labels)
    assert tfx_example.check(TFX_EXAMPLE) == TFX_EXAMPLE.resolve()


def test_medians_and_goals():
    row = Measurement("a / b", "s", [3.0, 8.0, 2.0], [1.0, 4.0, 2.0], at_most=2.0)
    assert (row.figure, row.floor, row.ratio, row.holds) == (3.0, 2.0, 2.0, True)
    assert Measurement("a / b", "s", [2.1], [1.0], at_most=2.0).holds is False
    assert Measurement("a", "s", [2.1], at_most=2.0).holds is False
    assert Measurement("a", "s", [1.9], at_most=2.0).holds is True
    assert Measurement("a / b", "steps/s", [94.0], [100.0], at_least=0.95).holds is False
    assert Measurement("a / b", "steps/s", [95.0], [100.0], at_least=0.95).holds is True
    assert Measurement("a / b", "s", [2.1], [1.0]).holds is None


def test_the_table_says_what_does_not_hold(page):
    rows = [
        Measurement("a / b", "s", [2.1], [1.0], at_most=2.0),
        Measurement("c", "s", [0.5], at_most=2.0),
        Measurement("d / e", "modules", [4000.0], [2000.0]),
    ]
    after = page.read_text(encoding="utf-8").partition(table.END)[2]
    for _ in range(2):  # a second table takes the place of the first
        table.put(page, table.render(rows, ["on this machine"]))
    written, text = cells(page)
    assert written == [
        ["a / b", "2.10 s", "1.00 s", "2.10", "≤ 2", "**no**"],
        ["c", "0.50 s", "", "", "≤ 2 s", "yes"],
        ["d / e", "4,000 modules", "2,000 modules", "2.00", "", ""],
    ]
    assert "- on this machine" in text
    assert page.read_text(encoding="utf-8").endswith(after)


def test_a_page_without_a_place_for_the_table_is_refused(tmp_path):
    page = tmp_path / "page.md"
    with pytest.raises(BadInput, match="must be a file"):
        table.check(page)
    page.write_text(f"{table.END} {table.BEGIN}")
    with pytest.raises(BadInput, match="must have a line"):
        table.check(page)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "start-up"], "the folder with MNIST's files must be named"),
        (["--only", "start-up", "nowhere"], "nowhere"),
        (["--rounds", "0"], "--rounds must be at least 1, not 0"),
        (["--factor", "1"], "--factor must be at least 2, not 1"),
        (["--quick", "--only", "tfx-example"], "mnist_utils_native_keras.py; received none"),
        (
            ["--quick", "--only", "tfx-example", "--tfx-example", "nowhere"],
            "--tfx-example names the folder with mnist_",
        ),
        (["--quick", "--page", "nowhere.md"], "the page for the table must be a file"),
    ],
)
def test_wrong_usage_is_refused(arguments, sentence, monkeypatch, capsys):
    monkeypatch.delenv("MNIST_DATA_DIR", raising=False)
    assert bench.main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_what_does_not_run_is_not_measured():
    with pytest.raises(ProjectError, match=r"ended with 3: …no$"):
        processes.timed([sys.executable, "-c", "import sys; print('no'); sys.exit(3)"])
    ended = processes.timed([sys.executable, "-c", "print(sum(range(3_000_000)))"])
    assert ended.stdout.strip() == "4499998500000"
    assert ended.cpu_seconds > 0
    assert ended.seconds > 0


def test_the_network_is_changed(tmp_path):
    copy = whole_run._checkout(tmp_path / "checkout")
    whole_run._change_network(copy)
    network = "components/train/models.py"
    before, after = ((root / network).read_text(encoding="utf-8").splitlines() for root in (processes.ROOT, copy))
    assert [line.strip() for line in after if line not in before] == ['layers.Dense(301, activation="relu"),']
    with pytest.raises(ProjectError, match="name another layer"):
        whole_run._change_network(copy)
