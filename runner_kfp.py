#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles the pipeline for Kubeflow Pipelines, checks the package, uploads, runs and watches it."""

from __future__ import annotations

import pathlib
import sys

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))  # which `python -P` leaves out
    from components import stdio

    stdio.prepare()

import importlib
from collections.abc import Sequence

from components import environment, stdio
from components.errors import exit_code
from pipeline import cli
from pipeline.cli import Parser

# Each registers its subcommands, and imports their libraries when they run.
COMMANDS = ("compile_command", "commands", "doctor")


def parser() -> Parser:
    """Returns the command line with all subcommands; each sets `run`, its function of the parsed arguments."""
    root = Parser(prog="runner_kfp.py", description=__doc__, allow_abbrev=False)
    cli.add_version_argument(root)
    subparsers = root.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for name in COMMANDS:
        importlib.import_module(f"pipeline.kubeflow.{name}").register(subparsers)
    return root


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 done, 2 wrong usage or bad input, 3 stopped by a gate, 1 anything else."""

    def work() -> int:
        args = parser().parse_args(arguments)
        return int(args.run(args))

    try:
        return exit_code(work)
    except KeyboardInterrupt:
        sys.stderr.write("stopped: runs on the server continue\n")
        return 1


if __name__ == "__main__":
    environment.prepare()
    stdio.run(lambda: main(sys.argv[1:]))
