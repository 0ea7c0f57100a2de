# SPDX-License-Identifier: Apache-2.0
"""How time and memory of each stage grow with the data: whole runs on more and more images, all else the same.

Time per image is a stage's wall time, as the run's record has it, by the number of images. Memory is the resident set
of the run and all processes that it has started, added up every 50 ms, so that what they share counts for each; a
stage's figure is the highest while it ran. What an earlier stage has left behind in the process is in it.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

from benchmarks import distorted
from benchmarks.measurement import Measurement, Options
from benchmarks.processes import ROOT
from components import features
from components.errors import ProjectError
from components.ingest import source

TIME_LIMIT, MEMORY_LIMIT = 1.2, 1.5
_PERIOD = 0.05
_MIB = 2**20
# Those that look at images or at what was made of them.
_STAGES = ("ingest", "statistics", "image-check", "transform", "train", "infra-check", "evaluate", "push")


def measure(options: Options, say: Callable[[str], None]) -> list[Measurement]:
    """Runs the pipeline on each size, one after the other, once for each round."""
    rounds = []
    cache = options.cache or options.scratch / "distorted"
    for number in range(1, options.rounds + 1):
        by_factor = {}
        for factor in (1, *options.factors):
            data_dir = distorted.write(options.data_dir, factor, cache)
            by_factor[factor] = _run(data_dir, options.steps, options.scratch / f"growth-{number}")
            seconds = sum(one[0] for one in by_factor[factor].values())
            most = max(one[1] for one in by_factor[factor].values())
            say(f"  round {number} of {options.rounds}: {factor}x, {seconds:.0f} s, at most {most / _MIB:,.0f} MiB")
        rounds.append(by_factor)
    images = source.load(options.data_dir, None, features.IMAGE_SHAPE)[0].images
    return [row for factor in options.factors for row in _rows(rounds, factor, images)]


def _rows(rounds: list[dict[int, dict[str, tuple[float, int]]]], factor: int, images: int) -> Iterator[Measurement]:
    for stage in _STAGES:
        pairs = [(one[factor][stage], one[1][stage]) for one in rounds]
        yield Measurement(
            f"{stage}, time with {factor}x the images / 1x",
            "µs per image",
            [1e6 * large[0] / images / factor for large, _ in pairs],
            [1e6 * small[0] / images for _, small in pairs],
            at_most=TIME_LIMIT,
        )
        yield Measurement(
            f"{stage}, peak memory with {factor}x the images / 1x",
            "MiB",
            [large[1] / _MIB for large, _ in pairs],
            [small[1] / _MIB for _, small in pairs],
            at_most=MEMORY_LIMIT,
        )


def _run(data_dir: pathlib.Path, steps: int, folder: pathlib.Path) -> dict[str, tuple[float, int]]:
    """One run into an empty folder: for each stage its seconds and the most bytes."""
    output = folder / "output"
    output.mkdir(parents=True)
    command = [sys.executable, "runner_local.py", "--data-dir", data_dir, "--train-steps", steps, "--output", output]
    # Whatever is found and whatever the model is like: how long it took to find that is measured.
    command += ["--allow", "skew", "--force-push", "only its time and memory count"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=said, stderr=said)
        peaks: dict[str, int] = {}
        watch = threading.Thread(target=_watch, args=(process, output / "runs", peaks))
        watch.start()
        code = process.wait()
        watch.join()
        if code not in (0, 3):  # a gate may stop it where all that is measured has been done
            said.seek(0)
            raise ProjectError(f"the run must end, but ended with {code}: …{' '.join(said.read().split())[-1500:]}")
    record = json.loads(next((output / "runs").glob("*/record.json")).read_text(encoding="utf-8"))
    shutil.rmtree(folder)
    left = [stage["name"] for stage in record["stages"] if stage["name"] in _STAGES and stage["state"] != "done"]
    if left:
        raise ProjectError(f"every stage must run to be measured, but {', '.join(left)} did not: {record['sentence']}")
    return {stage["name"]: (stage["seconds"], peaks.get(stage["name"], 0)) for stage in record["stages"]}


def _watch(process: subprocess.Popen[bytes], runs: pathlib.Path, peaks: dict[str, int]) -> None:
    """Adds up the memory of a run, and reads from its record, which it writes with every stage, where it is.

    Of two stages side by side each has the memory of both.
    """
    stages, read = ["start"], 0.0
    while process.poll() is None:
        for record in runs.glob("*/record.json"):
            changed = record.stat().st_mtime
            if changed != read:
                rows = json.loads(record.read_text(encoding="utf-8"))["stages"]
                stages, read = [one["name"] for one in rows if one["state"] == "running"], changed
        now = sum(map(_resident, _tree(process.pid)))
        peaks.update({stage: max(peaks.get(stage, 0), now) for stage in stages})
        time.sleep(_PERIOD)


def _tree(pid: int) -> Iterator[int]:
    """A process and all that came from it."""
    yield pid
    try:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))
    except OSError:  # it has ended
        return


def _resident(pid: int) -> int:
    """Bytes of a process in memory."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:")), 0)
