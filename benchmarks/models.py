# SPDX-License-Identifier: Apache-2.0
"""Trains every model with its default flags, by whole runs, and writes the table of docs/models.md.

Each model is trained once for each seed. Val is what models are chosen by; the test accuracy is what each run's one
evaluation gives. A model that is not measured keeps its line. With --quick the table is only shown, unless --page names
a file.
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
from typing import Any

from benchmarks import table
from benchmarks.processes import ROOT, timed
from components import environment
from components.errors import BadInput, ProjectError, exit_code
from components.train.hyperparameters import MODELS

PAGE = ROOT / "docs/models.md"
BEGIN = "<!-- what `make models` measured -->"
_HEAD = (
    "model", "parameters", "steps", "training, s", "accuracy on val, %", "on test, %", "seeds", "measured", "command"
)  # fmt: skip
_SEEDS = 3
_QUICK_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Trained:
    """One run.

    Attributes:
        parameters: of the network, those that are trained.
        steps: done.
        seconds: wall time of the training, without reading, start-up and evaluation.
        val: accuracy of what is exported, on val, 0 .. 1.
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
        "data_dir", nargs="?", type=pathlib.Path, help="folder with the four files of MNIST; else MNIST_DATA_DIR"
    )
    parser.add_argument("--only", choices=MODELS, action="append", help="measure this model; may be given again")
    parser.add_argument("--seeds", type=int, help=f"train with the seeds 1 .. N; default: {_SEEDS}")
    parser.add_argument(
        "--quick", action="store_true", help=f"the digits of scikit-learn, {_QUICK_STEPS} steps, to see that it works"
    )
    parser.add_argument("--page", type=pathlib.Path, help="file between whose markers the table is written")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    """Trains, shows and writes; the page is written after each model.

    Raises:
        BadInput: for arguments that cannot be.
        ProjectError: a run ended without a model.
    """
    seeds = args.seeds if args.seeds is not None else 1 if args.quick else _SEEDS
    if seeds < 1:
        raise BadInput(f"--seeds must be at least 1, not {seeds}")
    page = args.page or (None if args.quick else PAGE)
    kept = {row[0].strip("`"): row for row in table.get(page, BEGIN)} if page else {}
    data = ["--dataset", "digits"] if args.quick else ["--data-dir", _data_dir(args)]
    load = os.getloadavg()[0]
    print(f"The load average is {load:.1f}; where it is not near 0, the times mean little.", flush=True)
    facts = [
        f"{table.machine()}; load average before the last measurement: {load:.1f}",
        table.versions(),
        "Means over the seeds 1, 2, …, and ± the standard deviation of a single one",
    ]
    with tempfile.TemporaryDirectory(prefix="mnist-tfx-models-") as folder:
        for model in args.only or MODELS:
            rows = [_train(model, seed, data, args.quick, pathlib.Path(folder)) for seed in range(1, seeds + 1)]
            kept[model] = _cells(model, rows, args.quick)
            text = _render([kept[name] for name in MODELS if name in kept], facts)
            if page:
                table.put(page, text, BEGIN)
    print(f"\n{text}")
    if page:
        print(f"\nThe table is in {page}.")


def _data_dir(args: argparse.Namespace) -> pathlib.Path:
    told = args.data_dir or os.environ.get("MNIST_DATA_DIR")
    if not told:
        raise BadInput("the folder with MNIST's files must be named: make models DATA_DIR=DIR; received none")
    return pathlib.Path(told).resolve()


def _train(model: str, seed: int, data: Sequence[object], quick: bool, folder: pathlib.Path) -> Trained:
    file = folder / "record.json"
    file.unlink(missing_ok=True)
    # One output folder, so that what does not depend on the model is done once; each training has a serving folder of
    # its own, so that it is judged against no other. A gate that stops it is no reason not to show what it came to.
    timed(
        [
            sys.executable, "runner_local.py", *data, "--model", model, "--seed", seed,
            *(["--train-steps", _QUICK_STEPS] if quick else []), "--serving-name", f"{model}-{seed}",
            "--output", folder / "output", "--json", file,
        ],
        good=(0, 3),
    )  # fmt: skip
    record = json.loads(file.read_text(encoding="utf-8"))
    if record["metrics"] is None:
        raise ProjectError(f"a run must come to an evaluation, but that of {model} did not: {record['sentence']}")
    trained = _read(record)
    print(
        f"{model}, seed {seed}: {trained.seconds:.0f} s, val {trained.val:.2%}, test {trained.test:.2%}, "
        f"{record['verdict']}",
        flush=True,
    )
    return trained


def _read(record: dict[str, Any]) -> Trained:
    training = json.loads((pathlib.Path(record["artifacts"]["train.model_run"]) / "training.json").read_text("utf-8"))
    return Trained(
        parameters=training["parameters"],
        steps=training["steps"],
        seconds=training["seconds"],
        val=training["epochs"][training["best_epoch"] - 1]["val_accuracy"],
        test=record["metrics"]["accuracy"],
    )


def _cells(model: str, rows: Sequence[Trained], quick: bool) -> list[str]:
    data = "--dataset digits" if quick else "--data-dir DIR"
    steps = f" --train-steps {_QUICK_STEPS}" if quick else ""
    return [
        f"`{model}`",
        f"{rows[0].parameters:,}",
        f"{statistics.mean(row.steps for row in rows):,.0f}",
        f"{statistics.mean(row.seconds for row in rows):.0f}",
        _percent([row.val for row in rows]),
        _percent([row.test for row in rows]),
        str(len(rows)),
        table.today(),
        f"`runner_local.py {data} --model {model}{steps}`",
    ]


def _percent(shares: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(shares):.2f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.2f}{spread}"


def _render(rows: Sequence[Sequence[str]], facts: Sequence[str]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (_HEAD, ("---",) * len(_HEAD), *rows)]
    return "\n".join([*lines, "", *(f"- {fact}" for fact in facts)])


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 measured; 2 wrong usage, 1 anything else."""
    return exit_code(lambda: run(parse(arguments)))


if __name__ == "__main__":
    environment.prepare()
    sys.exit(main(sys.argv[1:]))
