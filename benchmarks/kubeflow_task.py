# SPDX-License-Identifier: Apache-2.0
"""A task of Kubeflow that does nothing: this project's entrypoint against TFX's own.

Both get the same task. This project's is called as on Vertex AI, so without the notes in the store that it writes on a
Kubeflow cluster: what those take depends on the store.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from collections.abc import Callable

from benchmarks.measurement import Measurement, Options
from benchmarks.processes import timed
from components.errors import BadInput
from pipeline import code_digest

_OURS, _TFX = "pipeline.kubeflow.entrypoint", "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor"


def measure(options: Options, say: Callable[[str], None]) -> list[Measurement]:
    """Runs the task with both once for each round.

    Raises:
        BadInput: this process is itself a task of Kubeflow.
    """
    if "KFP_POD_NAME" in os.environ:
        raise BadInput("the benchmark of the entrypoint must not run in a pod of Kubeflow; unset KFP_POD_NAME")
    ours, theirs = [], []
    for number in range(1, options.rounds + 1):
        folder = options.scratch / f"task-{number}"
        theirs.append(_cpu_seconds(_TFX, folder / "tfx", []))
        more = ["--task", "nothing", "--code_digest", code_digest.of_project()]
        ours.append(_cpu_seconds(_OURS, folder / "ours", more))
        say(f"  round {number} of {options.rounds}: {ours[-1]:.1f} / {theirs[-1]:.1f} CPU s")
    return [Measurement("entrypoint of a Kubeflow task / TFX's own", "CPU s", ours, theirs, at_most=0.6)]


def _cpu_seconds(module: str, folder: pathlib.Path, more: list[str]) -> float:
    made = folder / "model"
    made.mkdir(parents=True)
    kind = {"instanceSchema": "title: tfx.Model\ntype: object\n"}
    told = {
        "inputs": {},
        "outputs": {
            "artifacts": {"model": {"artifacts": [{"uri": str(made), "type": kind, "metadata": {}}]}},
            "outputFile": str(folder / "task/executor_output.json"),
        },
    }
    arguments = ["--executor_class_path", "benchmarks.empty_task.Executor"]
    arguments += ["--json_serialized_invocation_args", json.dumps(told)]
    return timed([sys.executable, "-m", module, *arguments, *more]).cpu_seconds
