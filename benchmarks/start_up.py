# SPDX-License-Identifier: Apache-2.0
"""What it takes until a run comes to its first stage, against `import tensorflow` alone."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable

from benchmarks.measurement import Measurement, Options
from benchmarks.processes import Timed, timed

_TENSORFLOW = "import sys, tensorflow; print(len(sys.modules))"
# --explain goes through all that a run does up to the first stage: data found, graph built, compiled, looked up.
_OURS = "import sys, runner_local; code = runner_local.main(sys.argv[1:]); print(len(sys.modules)); sys.exit(code)"


def measure(options: Options, say: Callable[[str], None]) -> list[Measurement]:
    """Starts both once for each round; on the small data set, as reading images is no part of it."""
    ours: list[Timed] = []
    floors: list[Timed] = []
    for number in range(1, options.rounds + 1):
        floors.append(timed([sys.executable, "-c", _TENSORFLOW]))
        output: pathlib.Path = options.scratch / f"explained-{number}"
        told = ["--explain", "--data-dir", options.digits_dir, "--output", output]
        ours.append(timed([sys.executable, "-c", _OURS, *told]))
        say(f"  round {number} of {options.rounds}: {ours[-1].cpu_seconds:.1f} / {floors[-1].cpu_seconds:.1f} CPU s")
    return [
        Measurement(
            "start-up, up to the first stage / `import tensorflow`",
            "CPU s",
            [one.cpu_seconds for one in ours],
            [one.cpu_seconds for one in floors],
            at_most=1.8,
        ),
        Measurement("the same, modules imported", "modules", _modules(ours), _modules(floors)),
    ]


def _modules(ended: list[Timed]) -> list[float]:
    return [float(one.stdout.split()[-1]) for one in ended]
