# SPDX-License-Identifier: Apache-2.0
"""Whole runs against a plain Keras script, and the start-up of a run against the import of TensorFlow.

Run and script read the same files, train the same network for the same steps, evaluate on the test images and export.
The run also checks the data, measures with TFMA, tries the export in a fresh process, passes the gates, pushes and
reports.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import sys
from collections.abc import Collection

from benchmarks.measurement import ROOT, Echo, Measurement, Options, RunTimes, Timing, time_process, time_run
from components.errors import ProjectError

_BATCH_SIZE = 128
_LAYER = 'layers.Dense(300, activation="relu")'
_IMPORT = "import sys, tensorflow; print(len(sys.modules))"
# --explain does all that a run does before its first stage: finds the data, builds and compiles the graph, looks it up.
_EXPLAIN = "import sys, runner_local; code = runner_local.main(sys.argv[1:]); print(len(sys.modules)); sys.exit(code)"


@dataclasses.dataclass(frozen=True)
class _Round:
    """One round.

    Attributes:
        plain: the script.
        run: a run into an empty folder.
        unchanged: the same command again, s.
        edited: the same command after an edit of the network, s.
        edited_floor: the part of `run` that the edit makes necessary, s.
        evaluate: the stage evaluate of `run`, s.
        keras_evaluate: `model.evaluate` of the script, s.
    """

    plain: Timing
    run: Timing
    unchanged: float
    edited: float
    edited_floor: float
    evaluate: float
    keras_evaluate: float

    def __str__(self) -> str:
        return (
            f"plain Keras {self.plain.seconds:.1f} s, run {self.run.seconds:.1f} s, unchanged {self.unchanged:.1f} s, "
            f"another network {self.edited:.1f} s"
        )


def measure_runs(options: Options, echo: Echo) -> list[Measurement]:
    """Measures in each round the script, a run, one with nothing changed and one with another network."""
    rounds = []
    for number in range(1, options.rounds + 1):
        rounds.append(_measure_round(options, options.scratch / f"run-{number}"))
        echo(f"  round {number} of {options.rounds}: {rounds[-1]}")
    return [
        Measurement(
            "whole run / plain Keras script",
            "s", [row.run.seconds for row in rounds], [row.plain.seconds for row in rounds], at_most=1.6,
        ),
        Measurement(
            "the same, CPU time",
            "CPU s", [row.run.cpu_seconds for row in rounds], [row.plain.cpu_seconds for row in rounds],
        ),
        Measurement("run with nothing changed", "s", [row.unchanged for row in rounds], at_most=2.0),
        Measurement(
            "run with another network / start-up, train, evaluate, gates and push of the full run",
            "s", [row.edited for row in rounds], [row.edited_floor for row in rounds], at_most=1.25,
        ),
        Measurement(
            "stage evaluate / `model.evaluate`",
            "s", [row.evaluate for row in rounds], [row.keras_evaluate for row in rounds],
        ),
    ]  # fmt: skip


def measure_start_up(options: Options, echo: Echo) -> list[Measurement]:
    """Measures both on the digits, as reading images is not part of the start-up."""
    starts, imports = [], []
    for number in range(1, options.rounds + 1):
        imports.append(time_process([sys.executable, "-c", _IMPORT]))
        output = options.scratch / f"explain-{number}"
        arguments = ["--explain", "--data-dir", options.digits_dir, "--output", output]
        starts.append(time_process([sys.executable, "-c", _EXPLAIN, *arguments]))
        seconds = f"{starts[-1].cpu_seconds:.1f} / {imports[-1].cpu_seconds:.1f}"
        echo(f"  round {number} of {options.rounds}: {seconds} CPU s")
    return [
        Measurement(
            "start-up, up to the first stage / `import tensorflow`",
            "CPU s", [timing.cpu_seconds for timing in starts], [timing.cpu_seconds for timing in imports], at_most=1.8,
        ),
        Measurement(
            "the same, modules imported",
            "modules", [_module_count(timing) for timing in starts], [_module_count(timing) for timing in imports],
        ),
    ]  # fmt: skip


def copy_checkout(folder: pathlib.Path) -> pathlib.Path:
    """Copies the code that a run needs, to be edited; compiled, as an installation is."""
    (folder / "requirements").mkdir(parents=True)
    for name in ("components", "pipeline"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("runner_local.py", "requirements/run.lock"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


def edit_network(checkout: pathlib.Path) -> None:
    """Adds a unit to a layer of the default network.

    Raises:
        ProjectError: the layer is not in the code exactly once.
    """
    path = checkout / "components/train/models.py"
    text = path.read_text(encoding="utf-8")
    if text.count(_LAYER) != 1:
        raise ProjectError(f"{_LAYER} must be in components/train/models.py exactly once; name another layer here")
    path.write_text(text.replace(_LAYER, _LAYER.replace("300", "301")), encoding="utf-8")


def _measure_round(options: Options, folder: pathlib.Path) -> _Round:
    folder.mkdir()
    checkout = copy_checkout(folder / "checkout")
    script = [sys.executable, ROOT / "benchmarks/plain_keras.py", options.data_dir, "--steps", options.steps]
    plain = time_process([*script, "--batch-size", _BATCH_SIZE, "--export", folder / "plain"])

    def run(verdicts: Collection[str]) -> tuple[Timing, RunTimes]:
        arguments = ["--data-dir", options.data_dir, "--train-steps", options.steps, "--batch-size", _BATCH_SIZE]
        return time_run([*arguments, "--output", folder / "output"], folder / "record.json", checkout, verdicts)

    full, record = run(["pushed"])
    unchanged, _ = run(["unchanged"])
    edit_network(checkout)
    edited, _ = run(["pushed", "not_blessed"])  # its quality does not matter
    shutil.rmtree(folder)
    return _Round(
        plain=plain,
        run=full,
        unchanged=unchanged.seconds,
        edited=edited.seconds,
        edited_floor=full.seconds - _data_seconds(record),
        evaluate=record.seconds["evaluate"],
        keras_evaluate=json.loads(plain.stdout.splitlines()[-1])["seconds"]["evaluate"],
    )


def _data_seconds(record: RunTimes) -> float:
    """Returns the time of the stages that another network does not need; image-check runs beside statistics."""
    seconds = record.seconds
    parallel = max(seconds["statistics"], seconds["image-check"])
    return seconds["ingest"] + parallel + seconds["data-check"] + seconds["transform"]


def _module_count(timing: Timing) -> float:
    return float(timing.stdout.split()[-1])
