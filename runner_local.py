#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the pipeline on this machine: arguments, configuration, run."""

from __future__ import annotations

import pathlib
import sys

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))  # which `python -P` leaves out
    from components import stdio

    stdio.prepare()

from collections.abc import Sequence

from components import environment, stdio
from components.errors import exit_code
from pipeline.local import commands, supervisor


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 done, 2 wrong usage or bad input, 3 stopped by a gate, 1 anything else."""
    from pipeline.local import run_command  # needs packages, without which `doctor` must start

    try:
        return exit_code(lambda: run_command.run(run_command.parse(arguments)))
    except OSError as error:
        print(f"FAILED: {error}; the same command resumes from what is finished", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(run_command.INTERRUPTED, file=sys.stderr)
        return 1


def record_death(arguments: Sequence[str], number: int, folder: pathlib.Path | None) -> int:
    """Reports that a signal ended the process of the run; see `run_command.record_death`."""
    from pipeline.local import run_command

    return run_command.record_death(arguments, number, folder)


if __name__ == "__main__":
    environment.prepare()
    if sys.argv[1:] and sys.argv[1] in commands.NAMES:
        stdio.run(lambda: commands.main(sys.argv[1:]))
    stdio.run(
        lambda: supervisor.call(
            lambda: main(sys.argv[1:]), lambda number, folder: record_death(sys.argv[1:], number, folder)
        )
    )
