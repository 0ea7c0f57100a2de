# SPDX-License-Identifier: Apache-2.0
"""Measures the pipeline's time and memory, each part against its floor, and writes the table of docs/performance.md.

With --only or --quick the table is only printed, unless --page names a file.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import os
import pathlib
import pkgutil
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks import table, tfx_example
from benchmarks.measurement import ROOT, Measurement, Options, last_words
from components import environment, features
from components.errors import BadInput, ProjectError, exit_code
from components.ingest import digits, source

TFX_EXAMPLE = "tfx-example"
# Name -> function that measures it.
PARTS = {
    "run": "benchmarks.runs:measure_runs",
    "stages": "benchmarks.stages:measure_executors",
    "training": "benchmarks.stages:measure_training",
    "start-up": "benchmarks.runs:measure_start_up",
    "growth": "benchmarks.growth:measure",
    TFX_EXAMPLE: "benchmarks.tfx_example:measure",
}
PAGE = ROOT / "docs/performance.md"
# Measured in a single round: they take long, and their goals leave room for the noise.
_SINGLE_ROUND = frozenset({"growth", TFX_EXAMPLE})
_FACTORS, _QUICK_FACTORS = (3, 10), (2,)
_STEPS, _ROUNDS = 1290, 3
_QUICK_STEPS, _QUICK_ROUNDS = 60, 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "data_dir", nargs="?", type=pathlib.Path, help="folder with the four files of MNIST; default: MNIST_DATA_DIR"
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part; may be repeated")
    parser.add_argument("--rounds", type=int, help=f"rounds to take the medians of; default: {_ROUNDS}")
    parser.add_argument("--steps", type=int, help=f"training steps of 128 images; default: {_STEPS}")
    parser.add_argument(
        "--factor",
        type=int,
        action="append",
        help="size of a data set for the growth, in multiples of the data; may be repeated; default: 3 and 10",
    )
    parser.add_argument(
        "--tfx-example", type=pathlib.Path, metavar="DIR", help="folder of TFX's own example for MNIST, measured too"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a smoke test: the digits of scikit-learn, {_QUICK_STEPS} steps, one round",
    )
    parser.add_argument("--page", type=pathlib.Path, help="file between whose markers the table is written")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace, command: str) -> None:
    """Measures, prints and writes.

    Raises:
        BadInput: an argument is invalid.
        ProjectError: a process that is measured failed.
    """
    rounds = args.rounds if args.rounds is not None else _QUICK_ROUNDS if args.quick else _ROUNDS
    steps = args.steps if args.steps is not None else _QUICK_STEPS if args.quick else _STEPS
    factors = tuple(args.factor or (_QUICK_FACTORS if args.quick else _FACTORS))
    for name, value, minimum in (("--rounds", rounds, 1), ("--steps", steps, 1), ("--factor", min(factors), 2)):
        if value < minimum:
            raise BadInput(f"{name} must be at least {minimum}; received {value}")
    parts = args.only or [name for name in PARTS if args.tfx_example or name != TFX_EXAMPLE]
    example = tfx_example.check_folder(args.tfx_example) if TFX_EXAMPLE in parts else None
    page = args.page or (None if args.only or args.quick else PAGE)
    if page:
        table.check_page(page)
    load = os.getloadavg()[0]
    _echo(f"The load average is {load:.1f}. The values are reliable only on an idle machine.")
    with tempfile.TemporaryDirectory(prefix="mnist-tfx-bench-") as folder:
        scratch = pathlib.Path(folder).resolve()
        digits.write(scratch / "digits")
        data_dir = scratch / "digits" if args.quick else args.data_dir or os.environ.get("MNIST_DATA_DIR")
        if not data_dir:
            raise BadInput("make bench needs the folder with MNIST's files: make bench DATA_DIR=DIR; received none")
        dataset = source.resolve(data_dir=pathlib.Path(data_dir).resolve(), image_shape=features.IMAGE_SHAPE).source
        options = Options(
            data_dir=pathlib.Path(dataset.directory),
            digits_dir=scratch / "digits",
            scratch=scratch,
            rounds=rounds,
            steps=steps,
            factors=factors,
            cache=None if args.quick else source.default_cache_dir() / "distorted",
            example=example,
        )
        single = dataclasses.replace(options, rounds=1)
        rows = [row for name in parts for row in _measure(name, single if name in _SINGLE_ROUND else options)]
    data = f"data set {dataset.name}, {dataset.images:,} images; {steps:,} training steps of 128"
    facts = [
        f"Measured {table.today()}: {data}",
        f"Medians of {rounds} rounds, in each of which a process and its floor take turns"
        + "".join(f"; one round of {name}" for name in parts if name in _SINGLE_ROUND),
        f"{table.machine()}; load average before: {load:.1f}",
        table.versions(),
        f"`{command}`",
    ]
    text = table.render_measurements(rows, facts)
    print(f"\n{text}")
    if page:
        table.write_table(page, text)
        _echo(f"\nThe table is in {page}.")


def _measure(name: str, options: Options) -> list[Measurement]:
    """Measures a part in a process of its own, which no other part has warmed up."""
    _echo(f"{name} …")
    start = time.monotonic()
    log = options.scratch / f"{name}.log"
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, _redirect_output, (log,)) as pool:
        try:
            rows = pool.submit(_call, PARTS[name], options).result()
        except ProjectError:
            raise
        except Exception as error:
            output = log.read_text(errors="replace") if log.exists() else ""
            message = f"the part {name} must succeed, but failed: {type(error).__name__}: {error}; {last_words(output)}"
            raise ProjectError(message) from error
    for row in rows:
        _echo(f"  {table.line(table.cells_of(row))}")
    _echo(f"{name}: {time.monotonic() - start:.0f} s")
    return rows


_terminal = 1


def _redirect_output(log: pathlib.Path) -> None:
    """Sends the messages of TensorFlow, Keras and Beam to a file; the terminal is for the progress."""
    global _terminal
    _terminal = os.dup(1)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)


def _call(function: str, options: Options) -> list[Measurement]:
    rows: list[Measurement] = pkgutil.resolve_name(function)(options, _echo)
    return rows


def _echo(text: str) -> None:
    sys.stdout.flush()
    os.write(_terminal, f"{text}\n".encode())


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 measured, whether or not the goals are met; 2 wrong usage, 1 anything else."""

    def work() -> None:
        args = parse(arguments)
        run(args, f"python -m benchmarks.bench {_without_paths(arguments, args)}".strip())

    return exit_code(work)


def _without_paths(arguments: Sequence[str], args: argparse.Namespace) -> str:
    """Returns the arguments without the names of this machine's folders."""
    words = shlex.join(arguments)
    for path, name in ((args.data_dir, "DATA_DIR"), (args.page, "FILE"), (args.tfx_example, "DIR")):
        words = words.replace(str(path), name) if path else words
    return words


if __name__ == "__main__":
    environment.prepare()
    sys.exit(main(sys.argv[1:]))
