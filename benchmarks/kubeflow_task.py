# SPDX-License-Identifier: Apache-2.0
"""A task of Kubeflow that does nothing: this project's entrypoint against TFX's own.

Both get the same task. Of this project's, what surrounds it is left out: the notes in the store, as what those take
depends on the store.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from collections.abc import Callable

from benchmarks.measurement import Measurement, Options
from benchmarks.processes import timed
from components import environment
from pipeline import code_digest
from pipeline.kubeflow import entrypoint, task_records

_TFX = "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor"
_OURS = "benchmarks.kubeflow_task"


def measure(options: Options, say: Callable[[str], None]) -> list[Measurement]:
    """Runs the task with both once for each round."""
    ours, theirs = [], []
    for number in range(1, options.rounds + 1):
        folder = options.scratch / f"task-{number}"
        theirs.append(_cpu_seconds(_TFX, folder / "tfx", []))
        more = ["--task", "nothing", "--code_digest", code_digest.of_project()]
        ours.append(_cpu_seconds(_OURS, folder / "ours", more))
        say(f"  round {number} of {options.rounds}: {ours[-1]:.1f} / {theirs[-1]:.1f} CPU s")
    return [Measurement("entrypoint of a Kubeflow task / TFX's own", "CPU s", ours, theirs, at_most=0.6)]


def _cpu_seconds(module: str, folder: pathlib.Path, more: list[str]) -> float:
    made = folder / "pipeline/run/nothing/model"
    made.mkdir(parents=True)
    kind = {"instanceSchema": "title: tfx.Model\ntype: object\n"}
    told = {
        "inputs": {},
        "outputs": {
            "artifacts": {"model": {"artifacts": [{"uri": str(made), "type": kind, "metadata": {}}]}},
            "outputFile": str(folder / "task/executor_output.json"),
        },
    }
    names = (
        ("--executor_class_path", "--json_serialized_invocation_args") if module == _TFX else ("--executor", "--input")
    )
    arguments = [names[0], "benchmarks.empty_task.Executor", names[1], json.dumps(told)]
    return timed([sys.executable, "-m", module, *arguments, *more]).cpu_seconds


def _main() -> int:
    """This project's entrypoint as in a pod, but for the notes."""
    os.environ["KFP_POD_NAME"] = "pod"
    task_records.write_task_record = lambda prefix, note: None
    return entrypoint.main(sys.argv[1:])


if __name__ == "__main__":
    environment.prepare()
    sys.exit(_main())
