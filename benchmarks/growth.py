# SPDX-License-Identifier: Apache-2.0
"""Growth of each stage's time and memory with the data: runs on more and more images, everything else equal.

The larger data sets are the images and elastic distortions of them, after P. Simard, D. Steinkraus and J. Platt, Best
Practices for Convolutional Neural Networks Applied to Visual Document Analysis, ICDAR 2003: each pixel is displaced by
a random field, smoothed by a Gaussian and scaled. The same data set and factor give the same bytes.

Time per image is a stage's wall time, from the run's record, divided by the number of images. Memory is the resident
set of the run and all its child processes, added up every 50 ms: shared pages count for each process. A stage's value
is the highest while it ran, with what earlier stages left in the process.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import inspect
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from benchmarks.measurement import ROOT, Echo, Measurement, Options, last_words, read_record
from components import features
from components.errors import ProjectError
from components.ingest import idx, source

Pixels = npt.NDArray[np.uint8]

TIME_LIMIT, MEMORY_LIMIT = 1.2, 1.5
# The stages that read images, or artifacts made from them.
STAGES = ("ingest", "statistics", "image-check", "transform", "train", "infra-check", "evaluate", "push")
_PERIOD = 0.05  # seconds between two readings of the memory
_MIB = 2**20
_SIGMA, _ALPHA = 4.0, 34.0  # smoothness and strength, in pixels, of the paper's best fields for images of 29x29
_CHUNK = 5000  # images of one piece of work


@dataclasses.dataclass(frozen=True)
class Usage:
    """Wall time in seconds and peak memory in bytes of a stage."""

    seconds: float
    peak: int


def measure(options: Options, echo: Echo) -> list[Measurement]:
    """Runs the pipeline on each size, one after the other, once for each round."""
    rounds = []
    cache = options.cache or options.scratch / "distorted"
    for number in range(1, options.rounds + 1):
        usages = {}
        for factor in (1, *options.factors):
            data_dir = write_dataset(options.data_dir, factor, cache)
            usages[factor] = _run(data_dir, options.steps, options.scratch / f"growth-{number}")
            seconds = sum(usage.seconds for usage in usages[factor].values())
            peak = max(usage.peak for usage in usages[factor].values())
            echo(f"  round {number} of {options.rounds}: {factor}x, {seconds:.0f} s, at most {peak / _MIB:,.0f} MiB")
        rounds.append(usages)
    images = source.load(options.data_dir, None, features.IMAGE_SHAPE)[0].images
    return [row for factor in options.factors for row in compare(rounds, factor, images)]


def compare(rounds: Sequence[Mapping[int, Mapping[str, Usage]]], factor: int, images: int) -> Iterator[Measurement]:
    """Yields time per image and peak memory of each stage with `factor` times the images, against 1x.

    Args:
        rounds: factor -> stage -> usage, for each round.
        factor: size to compare, in multiples of the data set.
        images: number of images of the data set.
    """
    for stage in STAGES:
        large, small = ([usages[size][stage] for usages in rounds] for size in (factor, 1))
        yield Measurement(
            f"{stage}, time with {factor}x the images / 1x",
            "µs per image",
            [1e6 * usage.seconds / images / factor for usage in large],
            [1e6 * usage.seconds / images for usage in small],
            at_most=TIME_LIMIT,
        )
        yield Measurement(
            f"{stage}, peak memory with {factor}x the images / 1x",
            "MiB",
            [usage.peak / _MIB for usage in large],
            [usage.peak / _MIB for usage in small],
            at_most=MEMORY_LIMIT,
        )


def resident_bytes(pid: int) -> int:
    """Returns the resident memory of a process and all its children; 0 if it has ended."""
    return sum(map(_resident, _tree(pid)))


def write_dataset(data_dir: pathlib.Path, factor: int, cache: pathlib.Path) -> pathlib.Path:
    """Writes a data set with `factor` times the images: the images, then `factor` - 1 distortions of each.

    Args:
        data_dir: folder with the four IDX files.
        factor: 1 or more.
        cache: folder in which the data set gets a folder; an existing one is used.

    Returns:
        The folder with the four files.
    """
    pairs = [
        idx.read_pair(data_dir, *names, features.IMAGE_SHAPE)
        for names in ((idx.TRAIN_IMAGES, idx.TRAIN_LABELS), (idx.TEST_IMAGES, idx.TEST_LABELS))
    ]
    key = (*(file.sha256 for pair in pairs for file in pair), _SIGMA, _ALPHA, _CHUNK, inspect.getsource(distort))
    folder = cache / f"{factor}x-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    names = iter(idx.FILES)
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=cache, prefix=".partial-") as partial,
        concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context) as pool,
    ):
        dataset = pathlib.Path(partial, "dataset")
        dataset.mkdir()
        for number, (images, labels) in enumerate(pairs):
            chunks = [
                (images.array[start : start + _CHUNK], (number, copy, start))
                for copy in range(1, factor)
                for start in range(0, len(images.array), _CHUNK)
            ]
            parts = [images.array, *pool.map(distort, *zip(*chunks, strict=True))] if chunks else [images.array]
            idx.write(dataset / next(names), np.concatenate(parts))
            idx.write(dataset / next(names), np.tile(labels.array, factor))
        dataset.rename(folder)
    return folder


def distort(images: Pixels, seed: tuple[int, ...]) -> Pixels:
    """Distorts each image by a field of its own.

    Args:
        images: uint8 [n, height, width].
        seed: equal seeds give equal fields.

    Returns:
        uint8 [n, height, width]; pixels from outside of the image are 0.
    """
    count, height, width = images.shape
    random = np.random.default_rng(seed)
    fields = random.uniform(-1, 1, (2, count, height, width)).astype(np.float32)
    smooth = functools.partial(ndimage.gaussian_filter1d, sigma=_SIGMA, mode="constant")
    fields = _ALPHA * smooth(smooth(fields, axis=2), axis=3)
    y = fields[0] + np.arange(height, dtype=np.float32)[:, None]
    x = fields[1] + np.arange(width, dtype=np.float32)
    # Bilinear interpolation; a frame of zeros stands for everything outside.
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    down, right = y - top, x - left
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1))).astype(np.float32)
    index = np.arange(count)[:, None, None]

    def pixels(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return framed[index, np.clip(rows + 1, 0, height + 1), np.clip(columns + 1, 0, width + 1)]

    upper = pixels(top, left) * (1 - right) + pixels(top, left + 1) * right
    lower = pixels(top + 1, left) * (1 - right) + pixels(top + 1, left + 1) * right
    result: Pixels = np.rint(upper * (1 - down) + lower * down).astype(np.uint8)
    return result


def _run(data_dir: pathlib.Path, steps: int, folder: pathlib.Path) -> dict[str, Usage]:
    """Runs the pipeline into an empty folder and returns the usage of each stage."""
    output = folder / "output"
    output.mkdir(parents=True)
    command = [sys.executable, "runner_local.py", "--data-dir", data_dir, "--train-steps", steps, "--output", output]
    # Findings and a weak model are no reason to stop: time and memory are measured all the same.
    command += ["--allow", "skew", "--force-push", "only its time and memory count"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=log, stderr=log)
        peaks: dict[str, int] = {}
        watcher = threading.Thread(target=_watch, args=(process, output / "runs", peaks))
        watcher.start()
        code = process.wait()
        watcher.join()
        if code not in (0, 3):  # 3: a gate stopped it, perhaps after the last stage that counts
            log.seek(0)
            raise ProjectError(f"the run must succeed to be measured; it ended with {code}: {last_words(log.read())}")
    record = read_record(next((output / "runs").glob("*/record.json")))
    shutil.rmtree(folder)
    missing = [stage for stage in STAGES if record.states.get(stage) != "done"]
    if missing:
        raise ProjectError(f"all stages must run to be measured; missing: {', '.join(missing)}. {record.sentence}")
    return {stage: Usage(record.seconds[stage], peaks.get(stage, 0)) for stage in STAGES}


def _watch(process: subprocess.Popen[bytes], runs: pathlib.Path, peaks: dict[str, int]) -> None:
    """Notes the peak memory of each stage until the process ends; two stages side by side both get the sum.

    The run writes its record anew at the start and end of each stage.
    """
    stages, modified = ["start"], 0.0
    while process.poll() is None:
        for path in runs.glob("*/record.json"):
            if path.stat().st_mtime != modified:
                modified = path.stat().st_mtime
                stages = [name for name, state in read_record(path).states.items() if state == "running"]
        memory = resident_bytes(process.pid)
        peaks.update({stage: max(peaks.get(stage, 0), memory) for stage in stages})
        time.sleep(_PERIOD)


def _tree(pid: int) -> Iterator[int]:
    """Yields a process and all its descendants."""
    yield pid
    try:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))
    except OSError:  # it has ended
        return


def _resident(pid: int) -> int:
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:")), 0)
