# SPDX-License-Identifier: Apache-2.0
"""Runs a package's task `baseline` as its container would, on local folders: `try_task.py PACKAGE`."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile

import yaml

TASK = "baseline"  # it reads where models are pushed, and needs nothing of the tasks before it


def main(package: str) -> int:
    """Returns the exit code of the task's command; its last line says what the task has put out."""
    spec = next(yaml.safe_load_all(pathlib.Path(package).read_text(encoding="utf-8")))
    component = spec["components"][f"comp-{TASK}"]
    container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
    with tempfile.TemporaryDirectory() as folder:
        output_file = pathlib.Path(folder, "run", "task", "executor_output.json")
        outputs = {
            key: {"artifacts": [{"name": key, "uri": f"{folder}/{key}", "type": definition["artifactType"]}]}
            for key, definition in component["outputDefinitions"]["artifacts"].items()
        }
        executor_input = {
            "inputs": {"parameterValues": {"serving_dir": f"{folder}/serving", "state": "none"}},
            "outputs": {"artifacts": outputs, "outputFile": str(output_file)},
        }
        command = [*container["command"], *container["args"]]
        process = subprocess.run(
            [json.dumps(executor_input) if part == "{{$}}" else part for part in command], check=False
        )
        if process.returncode == 0:
            output = json.loads(output_file.read_text(encoding="utf-8"))
            sys.stdout.write(f"{TASK}: {', '.join(sorted(output['artifacts']))}\n")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
