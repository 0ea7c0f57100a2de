# SPDX-License-Identifier: Apache-2.0
"""Does the pipeline come to the same on every engine that Beam runs on? Runs it on each, and compares what it wrote.

    python -m benchmarks.beam_engines [DATA_DIR] [--steps 100] [--engine NAME]
        [--flink-job-server JAR]   adds Flink: a cluster of its own within the job server, with this process as worker
        [--spark-job-server JAR]   adds Spark, likewise
        [--beam-arg ARG]           adds the engine that these options name, such as a cluster

The first run is on the runner that the pipeline takes by itself. DATA_DIR has four IDX files; without it, the digits of
scikit-learn are taken. The jars are Beam's job servers (docs/beam.md); they need Java, nothing else here does. It ends
with 0 where all is equal, in the sense of `benchmarks/artifacts_compared.py`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks import artifacts_compared
from benchmarks.processes import ROOT, timed
from components import environment
from components.errors import BadInput, ProjectError, exit_code
from components.ingest import digits

MULTI_PROCESSING, LOOPBACK, FLINK, SPARK, GIVEN = "multi-processing", "loopback", "flink", "spark", "given"
_STAGES = ("ingest", "statistics", "transform", "evaluate")
_SHOWN = 5


def engines(args: argparse.Namespace) -> dict[str, list[str]]:
    """The options of Beam for each engine."""
    known = {
        MULTI_PROCESSING: ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"],
        # Beam's own job server: what Flink and Spark do is asked through the same interface.
        LOOPBACK: ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"],
    }
    if args.flink_job_server:
        known[FLINK] = [
            "--runner=FlinkRunner",
            f"--flink_job_server_jar={_jar(args.flink_job_server)}",
            "--flink_master=[local]",
            "--environment_type=LOOPBACK",
            "--parallelism=2",
        ]
    if args.spark_job_server:
        known[SPARK] = [
            "--runner=SparkRunner",
            f"--spark_job_server_jar={_jar(args.spark_job_server)}",
            "--spark_master_url=local[2]",
            "--environment_type=LOOPBACK",
        ]
    if args.beam_arg:
        known[GIVEN] = args.beam_arg
    for name in args.engine or ():
        if name not in known:
            raise BadInput(
                f"--engine takes {', '.join(known)}; received {name!r}. Flink and Spark need their job server."
            )
    return {name: known[name] for name in args.engine or known}


def _jar(path: pathlib.Path) -> pathlib.Path:
    if not path.is_file():
        raise BadInput(f"a job server must be a jar file; {path} is none. docs/beam.md says where it is to be had.")
    return path.resolve()


def run(data_dir: pathlib.Path, folder: pathlib.Path, steps: int, options: Sequence[str]) -> dict[str, Any]:
    """Runs the whole pipeline in a process of its own, in a folder that is not the checkout's; returns the record."""
    folder.mkdir(parents=True)
    record = folder / "record.json"
    command = [sys.executable, ROOT / "runner_local.py", "--data-dir", data_dir, "--train-steps", steps]
    told = [f"--beam-arg={option}" for option in options]
    # A gate may stop it after so few steps: that is after all that is compared.
    timed([*command, *told, "--output", folder / "output", "--json", record], folder, good=(0, 3))
    row: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    if not set(_STAGES) <= {stage["name"] for stage in row["stages"] if stage["state"] == "done"}:
        raise ProjectError(f"a run must come to its evaluation to be compared; this one did not: {row['sentence']}")
    return row


def compare(args: argparse.Namespace) -> bool:
    """Runs on every engine and says what differs; whether nothing does.

    Raises:
        BadInput: for arguments that cannot be.
        ProjectError: an engine does not run.
    """
    if args.steps < 1:
        raise BadInput(f"--steps must be at least 1, not {args.steps}")
    chosen = engines(args)
    equal = True
    with tempfile.TemporaryDirectory(prefix="mnist-tfx-engines-") as folder:
        scratch = pathlib.Path(folder).resolve()
        data_dir = args.data_dir.resolve() if args.data_dir else scratch / "digits"
        if not args.data_dir:
            digits.write(data_dir)
        usual = run(data_dir, scratch / "usual", args.steps, ())
        print(f"the usual runner: {_seconds(usual)}", flush=True)
        for name, options in chosen.items():
            other = run(data_dir, scratch / name, args.steps, options)
            print(f"{name}: {_seconds(other)}", flush=True)
            for one in artifacts_compared.compare(usual["artifacts"], other["artifacts"]):
                print(f"  {'DIFFERENT' if one.differences else 'equal'}: {one.what}", flush=True)
                for difference in one.differences[:_SHOWN]:
                    print(f"    {difference}", flush=True)
                equal &= not one.differences
    return equal


def _seconds(record: dict[str, Any]) -> str:
    taken = {stage["name"]: stage["seconds"] for stage in record["stages"]}
    return ", ".join(f"{name} {taken[name]:.1f} s" for name in _STAGES)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 all equal, 3 something differs, 2 wrong usage, 1 an engine does not run."""
    parser = argparse.ArgumentParser(prog="benchmarks.beam_engines", allow_abbrev=False)
    parser.add_argument(
        "data_dir", nargs="?", type=pathlib.Path, help="folder with the four IDX files; else the digits"
    )
    parser.add_argument("--steps", type=int, default=100, help="training steps; default: 100")
    parser.add_argument("--engine", action="append", metavar="NAME", help="only this one; may be given again")
    parser.add_argument("--flink-job-server", type=pathlib.Path, metavar="JAR", help="Beam's job server for Flink")
    parser.add_argument("--spark-job-server", type=pathlib.Path, metavar="JAR", help="Beam's job server for Spark")
    parser.add_argument("--beam-arg", action="append", metavar="ARG", help="an option of an engine of your own")
    return exit_code(lambda: 0 if compare(parser.parse_args(arguments)) else 3)


if __name__ == "__main__":
    environment.prepare()
    sys.exit(main(sys.argv[1:]))
