# SPDX-License-Identifier: Apache-2.0
"""The whole pipeline against a plain Keras script that does the same work: process start to a model on disk.

    python benchmarks/whole_run.py DATA_DIR [--runs 3] [--steps 1290]

Both read the same files, train the same network for the same steps, evaluate on the test images and export. The
pipeline also checks the data, measures with TFMA, tries the export in a fresh process, passes the gates, pushes and
reports. The two take turns, so that a machine whose speed drifts treats both alike. Prints one JSON object: seconds
(wall, CPU) of each run, and the medians of the ratios pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]


def timed(command: list[str]) -> dict[str, float]:
    """Runs a command; returns its wall seconds and the CPU seconds of it and all its children."""
    before, started = os.times(), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    wall, after = time.monotonic() - started, os.times()
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": round(wall, 2), "cpu": round(cpu, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=pathlib.Path, help="folder with the four files of MNIST")
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs (default: 3)")
    parser.add_argument("--steps", type=int, default=1290, help="training steps of 128 images (default: 1290)")
    args = parser.parse_args()
    data, steps = str(args.data_dir.absolute()), str(args.steps)
    pairs = []
    for _ in range(args.runs):
        with tempfile.TemporaryDirectory() as folder:
            plain = timed(
                [sys.executable, "benchmarks/plain_keras.py", data, "--steps", steps, "--export", f"{folder}/plain"]
            )
            whole = timed(
                [
                    sys.executable,
                    "runner_local.py",
                    "--data-dir",
                    data,
                    "--train-steps",
                    steps,
                    "--batch-size",
                    "128",
                    "--output",
                    f"{folder}/output",
                ]
            )
        pairs.append({"plain": plain, "pipeline": whole})
        print(json.dumps(pairs[-1]), file=sys.stderr)
    ratios = {
        kind: round(statistics.median(pair["pipeline"][kind] / pair["plain"][kind] for pair in pairs), 2)
        for kind in ("wall", "cpu")
    }
    print(json.dumps({"steps": args.steps, "pairs": pairs, "ratio": ratios}, indent=1))


if __name__ == "__main__":
    main()
