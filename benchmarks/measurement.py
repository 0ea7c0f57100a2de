# SPDX-License-Identifier: Apache-2.0
"""Measurements against a floor and a goal, and the processes that they time."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from components.errors import ProjectError

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Prints a line of progress.
Echo = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """The settings of all parts.

    Attributes:
        data_dir: folder with the four IDX files.
        digits_dir: the same for scikit-learn's digits, for what does not depend on the data.
        scratch: folder for everything that is written; removed at the end.
        rounds: number of rounds, 1 or more.
        steps: training steps of 128 images.
        factors: sizes of the data sets for the growth, in multiples of the data.
        cache: folder that keeps these data sets; None: they go into `scratch`.
        example: folder of TFX's own example for MNIST; None: it is not run.
    """

    data_dir: pathlib.Path
    digits_dir: pathlib.Path
    scratch: pathlib.Path
    rounds: int
    steps: int
    factors: Sequence[int] = ()
    cache: pathlib.Path | None = None
    example: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The values of all rounds.

    Attributes:
        name: the quantity and, after a slash, its floor.
        unit: of the values.
        values: one for each round.
        floors: the floor's value in the same round; empty without a floor.
        at_most: goal for the ratio, or for the value without a floor; None: no such goal.
        at_least: the same.
    """

    name: str
    unit: str
    values: Sequence[float]
    floors: Sequence[float] = ()
    at_most: float | None = None
    at_least: float | None = None

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    @property
    def floor(self) -> float | None:
        """The median of the rounds."""
        return statistics.median(self.floors) if self.floors else None

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios, which a machine of varying speed affects less than the values."""
        if not self.floors:
            return None
        return statistics.median(value / floor for value, floor in zip(self.values, self.floors, strict=True))

    @property
    def holds(self) -> bool | None:
        """Says whether the goal is met; None without a goal."""
        value = self.value if self.ratio is None else self.ratio
        if self.at_most is not None:
            return value <= self.at_most
        return None if self.at_least is None else value >= self.at_least


@dataclasses.dataclass(frozen=True)
class Timing:
    """A process that has ended; `cpu_seconds` includes all its children."""

    seconds: float
    cpu_seconds: float
    stdout: str


@dataclasses.dataclass(frozen=True)
class RunTimes:
    """The fields of a run's record that the benchmarks use.

    Attributes:
        verdict: such as "pushed".
        sentence: the verdict in one line.
        states: stage -> its state, such as "done".
        seconds: stage -> wall time.
        artifacts: NODE.OUTPUT -> folder.
        accuracy: of the candidate on test, 0 .. 1; None without an evaluation.
    """

    verdict: str
    sentence: str | None
    states: Mapping[str, str]
    seconds: Mapping[str, float]
    artifacts: Mapping[str, str]
    accuracy: float | None


def read_record(path: pathlib.Path) -> RunTimes:
    """Reads the record of a run, which need not have ended."""
    record = json.loads(path.read_text(encoding="utf-8"))
    stages = record["stages"]
    return RunTimes(
        verdict=record["verdict"],
        sentence=record["sentence"],
        states={stage["name"]: stage["state"] for stage in stages},
        seconds={stage["name"]: stage["seconds"] for stage in stages},
        artifacts=record["artifacts"],
        accuracy=record["metrics"]["accuracy"] if record["metrics"] else None,
    )


def time_process(command: Sequence[object], folder: pathlib.Path = ROOT, exit_codes: Collection[int] = (0,)) -> Timing:
    """Runs a command to its end; no other child of this process may end meanwhile.

    Args:
        command: program and arguments.
        folder: working directory.
        exit_codes: those that are accepted.

    Raises:
        ProjectError: it ended with another exit code.
    """
    before, start = os.times(), time.monotonic()
    completed = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True)
    seconds, after = time.monotonic() - start, os.times()
    if completed.returncode not in exit_codes:
        words = " ".join(map(str, command))
        raise ProjectError(
            f"every process that is measured must succeed, but {words} ended with {completed.returncode}: "
            f"{last_words(f'{completed.stderr} {completed.stdout}')}"
        )
    cpu_seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return Timing(seconds, cpu_seconds, completed.stdout)


def time_run(
    arguments: Sequence[object],
    record: pathlib.Path,
    checkout: pathlib.Path = ROOT,
    verdicts: Collection[str] | None = ("pushed",),
) -> tuple[Timing, RunTimes]:
    """Runs the pipeline in a process of its own.

    Args:
        arguments: of `runner_local.py`.
        record: file that the run's record is written to.
        checkout: folder of the code that runs.
        verdicts: those that are accepted; None: every one of a run that did not fail.

    Raises:
        ProjectError: the run failed, or has another verdict.
    """
    record.unlink(missing_ok=True)
    command = [sys.executable, "runner_local.py", *arguments, "--json", record]
    timing = time_process(command, checkout, exit_codes=(0, 3))
    result = read_record(record)
    if verdicts is not None and result.verdict not in verdicts:
        raise ProjectError(f"the verdict must be {' or '.join(verdicts)}; received: {result.sentence}")
    return timing, result


def last_words(output: str) -> str:
    """Returns the end of a process's output, on one line."""
    return f"…{' '.join(output.split())[-1500:]}"
