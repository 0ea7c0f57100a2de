# SPDX-License-Identifier: Apache-2.0
"""Larger data sets, and the memory of a run with all that it has started."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks import distorted, growth
from components import features
from components.ingest import digits, idx

HOLDS = "import time; kept = b'x' * {size}; print('ready', flush=True); time.sleep(60)"
STARTS = "import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"


def test_a_distorted_data_set_holds_the_images_and_as_many_others(tmp_path):
    digits.write(tmp_path / "digits")
    folders = [distorted.write(tmp_path / "digits", 3, tmp_path / name) for name in ("cache", "again")]
    for names in ((idx.TRAIN_IMAGES, idx.TRAIN_LABELS), (idx.TEST_IMAGES, idx.TEST_LABELS)):
        images, labels = (one.array for one in idx.read_pair(tmp_path / "digits", *names, features.IMAGE_SHAPE))
        made, again = (idx.read_pair(folder, *names, features.IMAGE_SHAPE) for folder in folders)
        assert [one.sha256 for one in made] == [one.sha256 for one in again]
        parts = np.split(made[0].array, 3)
        assert np.array_equal(made[1].array, np.tile(labels, 3))
        assert np.array_equal(parts[0], images)
        assert len({image.tobytes() for image in made[0].array}) == 3 * len(images)
        for part in parts[1:]:
            # The same digit, with its ink moved by a few pixels.
            assert 0.8 < part.mean() / images.mean() < 1.1
            moved = np.abs(part.astype(float) - images).mean(axis=(1, 2)) / images.mean()
            assert 0.1 < moved.mean() < 1.2
    before = folders[0].stat()
    assert distorted.write(tmp_path / "digits", 3, tmp_path / "cache") == folders[0]
    assert folders[0].stat() == before


def test_distortion_is_smooth_and_of_each_image_alone():
    lines = np.zeros((3, 28, 28), np.uint8)
    lines[:, :, 13:15] = 255
    bent = distorted.distort(lines, (1, 2))
    assert not np.array_equal(bent[0], bent[1])
    centres = (bent[0] * np.arange(28)).sum(axis=1) / np.maximum(bent[0].astype(float).sum(axis=1), 1)
    inner = centres[4:24]
    assert np.abs(np.diff(inner)).max() < 1.5
    assert np.ptp(inner) > 0.2
    assert not np.array_equal(bent, distorted.distort(lines, (1, 3)))


def test_memory_is_that_of_a_process_and_its_children():
    size = 200 * 2**20
    inner = HOLDS.format(size=size)
    process: Any = subprocess.Popen([sys.executable, "-c", STARTS.format(inner=inner)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        pids = list(growth._tree(process.pid))
        assert len(pids) == 2
        assert growth._resident(process.pid) < size < sum(map(growth._resident, pids)) < 2 * size
    finally:
        for pid in reversed(pids):
            os.kill(pid, 9)
        process.wait()
        process.stdout.close()
    time.sleep(0.1)
    assert growth._resident(process.pid) == 0


def test_time_goes_by_the_image_and_memory_does_not():
    mib = 2**20
    small = dict.fromkeys(growth._STAGES, (10.0, 100 * mib))
    large = dict.fromkeys(growth._STAGES, (24.0, 160 * mib))
    rows = list(growth._rows([{1: small, 2: large}], 2, 1000))
    assert len(rows) == 2 * len(growth._STAGES)
    assert [(row.figure, row.floor, round(row.ratio or 0, 3), row.holds) for row in rows[:2]] == [
        (12_000.0, 10_000.0, 1.2, True),
        (160.0, 100.0, 1.6, False),
    ]
