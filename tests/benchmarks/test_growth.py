# SPDX-License-Identifier: Apache-2.0
"""Larger data sets, and the memory of a run with all its child processes."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks import growth
from benchmarks.measurement import ROOT, Options
from components import features
from components.ingest import digits, idx
from tests.benchmarks import stub_runner

HOLDER = "import time; memory = b'x' * {size}; print('ready', flush=True); time.sleep(60)"
STARTER = "import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"


def test_a_distorted_data_set_holds_the_images_and_as_many_others(tmp_path):
    digits.write(tmp_path / "digits")
    folders = [growth.write_dataset(tmp_path / "digits", 3, tmp_path / name) for name in ("cache", "again")]
    for names in ((idx.TRAIN_IMAGES, idx.TRAIN_LABELS), (idx.TEST_IMAGES, idx.TEST_LABELS)):
        images, labels = (file.array for file in idx.read_pair(tmp_path / "digits", *names, features.IMAGE_SHAPE))
        files, again = (idx.read_pair(folder, *names, features.IMAGE_SHAPE) for folder in folders)
        assert [file.sha256 for file in files] == [file.sha256 for file in again]
        parts = np.split(files[0].array, 3)
        assert np.array_equal(files[1].array, np.tile(labels, 3))
        assert np.array_equal(parts[0], images)
        assert len({image.tobytes() for image in files[0].array}) == 3 * len(images)
        for part in parts[1:]:
            # The same digit, with its ink moved by a few pixels.
            assert 0.8 < part.mean() / images.mean() < 1.1
            change = np.abs(part.astype(float) - images).mean() / images.mean()
            assert 0.1 < change < 1.2
    before = folders[0].stat()
    assert growth.write_dataset(tmp_path / "digits", 3, tmp_path / "cache") == folders[0]
    assert folders[0].stat() == before


def test_a_distortion_is_smooth_and_differs_for_each_image():
    lines = np.zeros((3, 28, 28), np.uint8)
    lines[:, :, 13:15] = 255
    strokes = growth.distort(lines, (1, 2))
    assert not np.array_equal(strokes[0], strokes[1])
    centres = (strokes[0] * np.arange(28)).sum(axis=1) / np.maximum(strokes[0].astype(float).sum(axis=1), 1)
    inner = centres[4:24]
    assert np.abs(np.diff(inner)).max() < 1.5
    assert np.ptp(inner) > 0.2
    assert not np.array_equal(strokes, growth.distort(lines, (1, 3)))


def test_memory_is_that_of_a_process_and_its_children():
    size = 200 * 2**20
    inner = HOLDER.format(size=size)
    process: Any = subprocess.Popen([sys.executable, "-c", STARTER.format(inner=inner)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"ready\n"
        [child] = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        try:
            assert size < growth.resident_bytes(process.pid) < 2 * size
        finally:
            os.kill(int(child), signal.SIGKILL)
    assert growth.resident_bytes(process.pid) == 0


def test_time_is_compared_by_the_image_and_memory_is_not():
    mib = 2**20
    small = dict.fromkeys(growth.STAGES, growth.Usage(10.0, 100 * mib))
    large = dict.fromkeys(growth.STAGES, growth.Usage(24.0, 160 * mib))
    rows = list(growth.compare([{1: small, 2: large}], 2, 1000))
    assert len(rows) == 2 * len(growth.STAGES)
    assert [(row.value, row.floor, round(row.ratio or 0, 3), row.holds) for row in rows[:2]] == [
        (12_000.0, 10_000.0, 1.2, True),
        (160.0, 100.0, 1.6, False),
    ]


def test_time_and_memory_are_those_of_runs_on_each_size(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "ROOT", stub_runner.write_checkout(tmp_path / "checkout", ROOT))
    digits.write(tmp_path / "digits")
    options = Options(
        data_dir=tmp_path / "digits", digits_dir=tmp_path / "digits", scratch=tmp_path, rounds=1, steps=60,
        factors=(2,), cache=None, example=None,
    )  # fmt: skip
    lines: list[str] = []
    rows = {row.name: row for row in growth.measure(options, lines.append)}
    assert len(rows) == 2 * len(growth.STAGES)
    assert len(lines) == 2
    images = (tmp_path / "digits" / idx.TRAIN_IMAGES).stat().st_size
    time = rows["evaluate, time with 2x the images / 1x"]
    assert round(time.floor or 0, 3) == round(images / 1797, 3)
    assert 0.99 < (time.ratio or 0) <= 1
    ingest, train = (rows[f"{name}, peak memory with 2x the images / 1x"] for name in ("ingest", "train"))
    mib = stub_runner.TRAIN_MEMORY / 2**20
    assert 0.9 * mib < train.value - ingest.value < 1.5 * mib
    assert list(tmp_path.glob("growth-*/*")) == []
