# SPDX-License-Identifier: Apache-2.0
"""Trains every model with its default flags, by whole runs, and writes the table of docs/models.md.

Each model is trained once for each seed. Accuracy is that of the exported model, on val, by which models are chosen,
and on test, from the run's one evaluation. The lines of models that are not measured stay. With --quick the table is
only printed, unless --page names a file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Sequence

from benchmarks import table
from benchmarks.measurement import ROOT, RunTimes, time_run
from components import environment
from components.errors import BadInput, ProjectError, exit_code
from components.train.hyperparameters import MODELS

PAGE = ROOT / "docs/models.md"
BEGIN = "<!-- table of `make models` -->"
HEADER = (
    "model", "parameters", "steps", "training, s", "accuracy on val, %", "on test, %", "seeds", "measured", "command"
)  # fmt: skip
_SEEDS = 3
_QUICK_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Training:
    """A training, of one run.

    Attributes:
        parameters: number of the network's trainable ones.
        steps: number of them.
        seconds: wall time, without reading, start-up and evaluation.
        val: accuracy of the exported model on val, 0 .. 1.
        test: the same on test.
    """

    parameters: int
    steps: int
    seconds: float
    val: float
    test: float


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.models", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "data_dir", nargs="?", type=pathlib.Path, help="folder with the four files of MNIST; default: MNIST_DATA_DIR"
    )
    parser.add_argument("--only", choices=MODELS, action="append", help="measure this model; may be repeated")
    parser.add_argument("--seeds", type=int, help=f"train with the seeds 1 .. N; default: {_SEEDS}")
    parser.add_argument(
        "--quick", action="store_true", help=f"a smoke test: the digits of scikit-learn, {_QUICK_STEPS} steps"
    )
    parser.add_argument("--page", type=pathlib.Path, help="file between whose markers the table is written")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    """Trains, prints and writes; the page is written after each model.

    Raises:
        BadInput: an argument is invalid.
        ProjectError: a run failed, or ended without an evaluation.
    """
    seeds = args.seeds if args.seeds is not None else 1 if args.quick else _SEEDS
    if seeds < 1:
        raise BadInput(f"--seeds must be at least 1; received {seeds}")
    page = args.page or (None if args.quick else PAGE)
    rows = {row[0].strip("`"): row for row in table.read_rows(page, BEGIN)} if page else {}
    data = ["--dataset", "digits"] if args.quick else ["--data-dir", _data_dir(args)]
    load = os.getloadavg()[0]
    print(f"The load average is {load:.1f}. The times are reliable only on an idle machine.", flush=True)
    facts = [
        f"{table.machine()}; load average before the last measurement: {load:.1f}",
        table.versions(),
        "Means over the seeds 1, 2, …, ± the standard deviation of a single training",
    ]
    with tempfile.TemporaryDirectory(prefix="mnist-tfx-models-") as folder:
        for model in args.only or MODELS:
            trainings = [_train(model, seed, data, args.quick, pathlib.Path(folder)) for seed in range(1, seeds + 1)]
            rows[model] = cells_of(model, trainings, args.quick)
            text = table.render(HEADER, [rows[name] for name in MODELS if name in rows], facts)
            if page:
                table.write_table(page, text, BEGIN)
    print(f"\n{text}")
    if page:
        print(f"\nThe table is in {page}.")


def _data_dir(args: argparse.Namespace) -> pathlib.Path:
    data_dir = args.data_dir or os.environ.get("MNIST_DATA_DIR")
    if not data_dir:
        raise BadInput("make models needs the folder with MNIST's files: make models DATA_DIR=DIR; received none")
    return pathlib.Path(data_dir).resolve()


def _train(model: str, seed: int, data: Sequence[object], quick: bool, folder: pathlib.Path) -> Training:
    # One output folder, so that the stages before the training run once. A serving folder for each training, so that
    # its model has no baseline; one that a gate stops counts too.
    arguments = [*data, "--model", model, "--seed", seed, *(["--train-steps", _QUICK_STEPS] if quick else [])]
    arguments += ["--serving-name", f"{model}-{seed}", "--output", folder / "output"]
    _, record = time_run(arguments, folder / "record.json", verdicts=None)
    training = read_training(record)
    print(
        f"{model}, seed {seed}: {training.seconds:.0f} s, val {training.val:.2%}, test {training.test:.2%}, "
        f"{record.verdict}",
        flush=True,
    )
    return training


def read_training(record: RunTimes) -> Training:
    """Reads the training of a run.

    Raises:
        ProjectError: the run has no evaluation.
    """
    if record.accuracy is None:
        raise ProjectError(f"a run must evaluate its model to be measured; this one did not: {record.sentence}")
    path = pathlib.Path(record.artifacts["train.model_run"]) / "training.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    return Training(
        parameters=summary["parameters"],
        steps=summary["steps"],
        seconds=summary["seconds"],
        val=summary["epochs"][summary["best_epoch"] - 1]["val_accuracy"],
        test=record.accuracy,
    )


def cells_of(model: str, trainings: Sequence[Training], quick: bool) -> list[str]:
    """Returns the cells of a model's line."""
    data = "--dataset digits" if quick else "--data-dir DIR"
    steps = f" --train-steps {_QUICK_STEPS}" if quick else ""
    return [
        f"`{model}`",
        f"{trainings[0].parameters:,}",
        f"{statistics.mean(training.steps for training in trainings):,.0f}",
        f"{statistics.mean(training.seconds for training in trainings):.0f}",
        _percent([training.val for training in trainings]),
        _percent([training.test for training in trainings]),
        str(len(trainings)),
        table.today(),
        f"`runner_local.py {data} --model {model}{steps}`",
    ]


def _percent(shares: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(shares):.2f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.2f}{spread}"


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 measured; 2 wrong usage, 1 anything else."""
    return exit_code(lambda: run(parse(arguments)))


if __name__ == "__main__":
    environment.prepare()
    sys.exit(main(sys.argv[1:]))
