# SPDX-License-Identifier: Apache-2.0
"""Measures how fast the pipeline is, each part against its floor, and writes the table of docs/performance.md.

Without --only and --quick the table is written; with one of them it is only shown, unless --page names a file.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import importlib
import multiprocessing
import os
import pathlib
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks import table, tfx_example
from benchmarks.measurement import Measurement, Options
from benchmarks.processes import ROOT
from components import environment, features
from components.errors import BadInput, ProjectError, exit_code
from components.ingest import digits, source

# Name -> module; each has a function `measure`.
PARTS = {
    "whole": "benchmarks.whole_run",
    "stages": "benchmarks.stages",
    "training": "benchmarks.training",
    "start-up": "benchmarks.start_up",
    "kubeflow": "benchmarks.kubeflow_task",
    "growth": "benchmarks.growth",
    "tfx-example": "benchmarks.tfx_example",
}
# Measured once, however many rounds the others take: it takes long, and differences of a tenth do not matter to it.
_ONCE = frozenset({"growth", "tfx-example"})
_FACTORS, _QUICK_FACTORS = (3, 10), (2,)
PAGE = ROOT / "docs/performance.md"
_STEPS, _ROUNDS = 1290, 3
_QUICK_STEPS, _QUICK_ROUNDS = 60, 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "data_dir", nargs="?", type=pathlib.Path, help="folder with the four files of MNIST; else MNIST_DATA_DIR"
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part; may be given again")
    parser.add_argument("--rounds", type=int, help=f"of which the medians are taken; default: {_ROUNDS}")
    parser.add_argument("--steps", type=int, help=f"training steps of 128 images; default: {_STEPS}")
    parser.add_argument(
        "--factor",
        type=int,
        action="append",
        help="how many times the images the growth is measured on; may be given again; default: 3 and 10",
    )
    parser.add_argument(
        "--tfx-example",
        type=pathlib.Path,
        metavar="DIR",
        help="folder of TFX's own example for MNIST, to be measured against; without it that part is left out",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small: the digits of scikit-learn, 60 steps, one round, to see that it works",
    )
    parser.add_argument("--page", type=pathlib.Path, help="file between whose markers the table is written")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace, command: str) -> None:
    """Measures, shows and writes.

    Raises:
        BadInput: for arguments that cannot be.
        ProjectError: something that is measured does not run.
    """
    rounds = args.rounds if args.rounds is not None else _QUICK_ROUNDS if args.quick else _ROUNDS
    steps = args.steps if args.steps is not None else _QUICK_STEPS if args.quick else _STEPS
    factors = tuple(args.factor or (_QUICK_FACTORS if args.quick else _FACTORS))
    for name, value, least in (("--rounds", rounds, 1), ("--steps", steps, 1), ("--factor", min(factors), 2)):
        if value < least:
            raise BadInput(f"{name} must be at least {least}, not {value}")
    parts = args.only or [name for name in PARTS if args.tfx_example or name != "tfx-example"]
    example = tfx_example.check(args.tfx_example) if "tfx-example" in parts else None
    page = args.page or (None if args.only or args.quick else PAGE)
    if page:
        table.check(page)
    load = os.getloadavg()[0]
    _say(f"The load average is {load:.1f}; on a machine that does other things, the figures mean little.")
    with tempfile.TemporaryDirectory(prefix="mnist-tfx-bench-") as folder:
        scratch = pathlib.Path(folder).resolve()
        digits.write(scratch / "digits")
        told = scratch / "digits" if args.quick else args.data_dir or os.environ.get("MNIST_DATA_DIR")
        if not told:
            raise BadInput("the folder with MNIST's files must be named: make bench DATA_DIR=DIR; received none")
        data = source.resolve(data_dir=pathlib.Path(told).resolve(), image_shape=features.IMAGE_SHAPE).source
        options = Options(
            pathlib.Path(data.directory),
            scratch / "digits",
            scratch,
            rounds,
            steps,
            factors,
            None if args.quick else source.default_cache_dir() / "distorted",
            example,
        )
        once = dataclasses.replace(options, rounds=1)
        rows = [row for name in parts for row in _part(name, once if name in _ONCE else options)]
    facts = [
        f"Measured {table.today()}: data set {data.name}, {data.images:,} images; {steps:,} training steps of 128",
        f"Medians of {rounds} rounds, in each of which what is measured and its floor take turns"
        + "".join(f"; one round of {name}" for name in parts if name in _ONCE),
        f"{table.machine()}; load average before: {load:.1f}",
        table.versions(),
        f"`{command}`",
    ]
    text = table.render(rows, facts)
    print(f"\n{text}")
    if page:
        table.put(page, text)
        _say(f"\nThe table is in {page}.")


def _part(name: str, options: Options) -> list[Measurement]:
    """Measures one part in a process of its own, so that none finds anything imported."""
    _say(f"{name} …")
    began = time.monotonic()
    log = options.scratch / f"{name}.log"
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, _into_log, (log,)) as pool:
        try:
            rows = pool.submit(_measure, PARTS[name], options).result()
        except ProjectError:
            raise
        except Exception as error:
            told = " ".join(log.read_text(errors="replace").split()) if log.exists() else ""
            message = (
                f"the part {name} must run, but failed: {type(error).__name__}: {error}; its log ends: …{told[-1500:]}"
            )
            raise ProjectError(message) from error
    for row in rows:
        _say(f"  {table.line(row)}")
    _say(f"{name}: {time.monotonic() - began:.0f} s")
    return rows


def _into_log(log: pathlib.Path) -> None:
    """Sends what TensorFlow, Keras and Beam write to a file, and keeps the terminal for the progress."""
    global _terminal
    _terminal = os.dup(1)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)


_terminal = 1


def _measure(module: str, options: Options) -> list[Measurement]:
    rows: list[Measurement] = importlib.import_module(module).measure(options, _say)
    return rows


def _say(text: str) -> None:
    sys.stdout.flush()
    os.write(_terminal, f"{text}\n".encode())


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 measured, whatever the goals; 2 wrong usage, 1 anything else."""

    def work() -> None:
        args = parse(arguments)
        run(args, f"python -m benchmarks.bench {_public(arguments, args)}".strip())

    return exit_code(work)


def _public(arguments: Sequence[str], args: argparse.Namespace) -> str:
    """The arguments without the names of this machine's folders."""
    told = shlex.join(arguments)
    for path, name in ((args.data_dir, "DATA_DIR"), (args.page, "FILE"), (args.tfx_example, "DIR")):
        told = told.replace(str(path), name) if path else told
    return told


if __name__ == "__main__":
    environment.prepare()
    sys.exit(main(sys.argv[1:]))
