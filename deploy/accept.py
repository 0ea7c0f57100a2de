# SPDX-License-Identifier: Apache-2.0
"""Checks on a real Kubeflow that this project works there, by its own command line, and prints a table.

    make accept HOST=http://localhost:8080 IMAGE=registry.example/mnist:1

It makes a pipeline, an experiment, about eight runs and a schedule, named accept-TIME, in UTC. At the end it deletes
the schedule and terminates the runs that have not ended.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import pathlib
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from components import environment, stdio
from components.errors import BadInput, ProjectError, exit_code
from deploy import cluster
from deploy.cluster import AcceptanceFailure, CommandLine
from pipeline import tables
from pipeline.cli import Parser

SERVING_DIR = "s3://mlpipeline/serving"  # in the storage of Kubeflow's own installation
PASSED, FAILED, NOT_RUN = "passed", "FAILED", "not run"
TASK = "train"  # the longest, whose pod is deleted


class NotRun(Exception):
    """A check that was not run; the message is the option, or the earlier check, that it needs."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A check's line of the table."""

    check: str
    result: str
    seconds: float
    note: str


class Acceptance(CommandLine):
    """The checks: each method in CHECKS returns a note for the table."""

    _pushed: Mapping[str, Any] = {}
    _pushed_run = ""

    def upload(self) -> str:
        self._result("upload", self._package, "--pipeline", self.name)
        self._call("upload", self._package, "--pipeline", self.name)
        versions = self._result("list", "versions", "--pipeline", self.name)["versions"]
        if len(versions) != 1:
            raise AcceptanceFailure(f"one package, uploaded twice, is {len(versions)} versions")
        return "the second upload made no second version"

    def push(self) -> str:
        self._pushed_run = self._start("models")
        self._pushed = self._push(self._pushed_run)
        return str(self._pushed["sentence"])

    def judge(self) -> str:
        before = self._need_push()
        row = self._end(self._start("models", seed=2))
        baseline = self._field(row, "baseline")
        if row["exit_code"] not in (0, 3) or not baseline or baseline["version"] != before["model"]["version"]:
            raise AcceptanceFailure(f"not judged against version {before['model']['version']}: {row['sentence']}")
        return str(row["sentence"])

    def gate(self) -> str:
        row = self._end(self._start("models", train_steps=1))
        closed = [gate["name"] for gate in self._field(row, "gates") if not gate["passed"]]
        if row["exit_code"] != 3 or not closed or not row["report"]:
            raise AcceptanceFailure(
                f"not stopped with exit code 3, findings and report: {row['exit_code']}, {row['sentence']}"
            )
        return str(row["sentence"])

    def two_at_once(self) -> str:
        runs = [self._start("two", seed=seed) for seed in (3, 4)]
        rows = [self._end(run) for run in runs]
        if sorted(row["exit_code"] for row in rows) != [0, 3] or [row["verdict"] for row in rows].count("pushed") != 1:
            raise AcceptanceFailure(f"not one pushed and one refused: {'; '.join(row['sentence'] for row in rows)}")
        return next(str(row["sentence"]) for row in rows if row["exit_code"])

    def pod(self) -> str:
        if not self._args.kubeconfig:
            raise NotRun("KUBECONFIG")
        import kubernetes

        version = self._connect().version
        is_older = re.match(r"v?2\.(\d|1[0-6])\.", version) is not None
        run = self._start("pod")
        name = self._poll(cluster.RUN_SECONDS, f"a running pod of {TASK}", lambda: self._running_pod(run))
        try:
            core = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(self._args.kubeconfig))
            namespace = self._args.namespace or "kubeflow"
            core.delete_namespaced_pod(name, namespace, _request_timeout=cluster.COMMAND_SECONDS)
        except Exception as error:  # of the client, of urllib3, or of a kubeconfig
            raise AcceptanceFailure(f"the pod {name} could not be deleted ({type(error).__name__})") from None
        row = self._end(run)
        if is_older:  # there, no lost pod is started again, and the run fails
            if row["verdict"] != "failed":
                raise AcceptanceFailure(f"a run whose pod was deleted did not fail: {row['sentence']}")
            return f"{version} starts no pod again: {row['sentence']}"
        pods = next(task["pods"] for task in self._status(run)["tasks"] if task["name"] == TASK)
        if row["verdict"] != "pushed" or len(pods) < 2:
            raise AcceptanceFailure(f"{len(pods)} pods of {TASK}: {row['sentence']}")
        return f"{TASK} got another pod: {row['sentence']}"

    def logs(self) -> str:
        self._need_push()
        tasks = [task["name"] for task in self._status(self._pushed_run)["tasks"] if task["state"] == "done"]
        texts = self._result("logs", self._pushed_run, shown=False)
        silent = [task for task in tasks if not (texts.get(task) or "").strip()]
        if silent or not tasks:
            raise AcceptanceFailure(f"no log of {', '.join(silent) or 'any task'}")
        return f"of {len(tasks)} tasks"

    def schedule(self) -> str:
        cron = ("--cron", "0 * * * * *", "--name", self.name)
        key = self._result("schedule", *cron, *self._options("schedule"))["schedule_id"]
        run = self._poll(cluster.CHANGE_SECONDS, "a run of the schedule", lambda: next(self._fired(key), ""))
        self._delete_schedules()
        if any(row["id"] == key for row in self._result("list", "schedules", shown=False)["schedules"]):
            raise AcceptanceFailure("it was deleted and is still listed")
        return f"started {run}, then was deleted"

    def terminate(self) -> str:
        run = self._start("terminated")
        self._poll(cluster.CHANGE_SECONDS, "a task", lambda: self._has(run, "running"))
        self._result("terminate", run)
        state = self._poll(cluster.CHANGE_SECONDS, "the end of a terminated run", lambda: self._ended(run))
        if state != "terminated":
            raise AcceptanceFailure(f"a terminated run ended as {state}")
        self._unfinished.remove(run)
        return "the run ended as terminated"

    def volume(self) -> str:
        if not self._args.pvc:
            raise NotRun("PVC")
        return self._push_to(self._args.pvc.partition("=")[2])

    def object_store(self) -> str:
        if "://" not in self._args.serving_dir:
            raise NotRun("SERVING_DIR at an object store")
        return self._push_to(self._args.serving_dir)

    def _running_pod(self, run: str) -> str:
        row = self._status(run)
        if row["state"] in cluster.ENDED:
            raise AcceptanceFailure(f"the run ended before {TASK} had a pod, as {row['state']}")
        tasks = [task for task in row["tasks"] if task["name"] == TASK and task["state"] == "running"]
        return next((pod for task in tasks for pod in task["pods"]), "")

    def _push_to(self, base: str) -> str:
        row = self._need_push() if self._args.serving_dir.startswith(base) else self._push(self._start("volume", base))
        if not str(row["model"]["path"]).startswith(base):
            raise AcceptanceFailure(f"the model is not in {base} but in {row['model']['path']}")
        return f"has version {row['model']['version']} of the model"

    def _push(self, run: str) -> dict[str, Any]:
        row = self._end(run)
        if (row["exit_code"], row["verdict"]) != (0, "pushed"):
            raise AcceptanceFailure(str(row["sentence"]))
        self._field(row, "model")
        return row

    def _need_push(self) -> Mapping[str, Any]:
        if not self._pushed:
            raise NotRun("the check push")
        return self._pushed

    def _field(self, row: dict[str, Any], name: str) -> Any:
        if name not in row:
            raise AcceptanceFailure("the record is out of reach: HOST must be the user interface, and reach the store")
        return row[name]


CHECKS: dict[str, Callable[[Acceptance], str]] = {
    "upload twice": Acceptance.upload,
    "a run that pushes": Acceptance.push,
    "one judged against it": Acceptance.judge,
    "one that a gate stops": Acceptance.gate,
    "two at once, one pushes": Acceptance.two_at_once,
    "a pod deleted": Acceptance.pod,
    "logs of each task": Acceptance.logs,
    "schedule": Acceptance.schedule,
    "terminate": Acceptance.terminate,
    "volume": Acceptance.volume,
    "object store": Acceptance.object_store,
}


def check(name: str, work: Callable[[], str]) -> Row:
    """Runs a check and times it."""
    print(f"== {name}", flush=True)
    start = time.monotonic()
    try:
        result, note = PASSED, work()
    except NotRun as missing:
        result, note = NOT_RUN, f"needs {missing}"
    except (AcceptanceFailure, ProjectError) as failure:
        result, note = FAILED, str(failure)
    print(f"    {result}: {note}", flush=True)
    note = re.sub(r"(, version \d+) in \S+$", r"\1", note)  # a long path would break the table
    return Row(name, result, time.monotonic() - start, note)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the options; those of `make accept` have the same names in upper case."""
    parser = Parser(prog="deploy.accept", description=__doc__, allow_abbrev=False)
    parser.add_argument("--host", required=True, help="of the user interface")
    parser.add_argument("--image", required=True, help="built of this checkout, in a registry that the cluster reaches")
    parser.add_argument("--namespace", help="the user's, on a server with users")
    parser.add_argument("--token-file", help="file that holds the token")
    parser.add_argument("--pvc", metavar="CLAIM=PATH", help="volume to push to")
    parser.add_argument("--data-dir", help="default: MNIST's public mirror")
    parser.add_argument("--serving-dir", default=SERVING_DIR, help=f"models go below it; default: {SERVING_DIR}")
    parser.add_argument("--kubeconfig", help="of an account that may delete a pod of a run")
    parser.add_argument("--steps", type=int, default=300, help="of the trainings; default: 300")
    args = parser.parse_args(arguments)
    if args.steps < 1:
        raise BadInput(f"--steps must be 1 or more. Received {args.steps}.")
    if args.kubeconfig and not pathlib.Path(args.kubeconfig).is_file():
        raise BadInput(f"--kubeconfig must be a file. Received {args.kubeconfig}.")
    return args


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 every check that ran passed, 1 a check failed, 2 wrong usage or no server."""
    args, rows = parse(arguments), list[Row]()
    with tempfile.TemporaryDirectory() as folder:
        acceptance = Acceptance(args, pathlib.Path(folder))
        acceptance.prepare()
        try:
            for name, work in CHECKS.items():
                rows.append(check(name, functools.partial(work, acceptance)))
        except KeyboardInterrupt:
            rows.append(Row("the rest", FAILED, 0.0, "interrupted"))
        finally:
            try:
                acceptance.clean_up()
            except (AcceptanceFailure, ProjectError) as error:
                rows.append(Row("clean-up", FAILED, 0.0, f"the schedule {acceptance.name} may still exist: {error}"))
            cells = [(row.check, row.result, f"{row.seconds:.0f}", row.note) for row in rows]
            tables.show(Console(highlight=False), cells, ("check", "result", "s", "note"), right=("s",), gap=2)
    return int(any(row.result == FAILED for row in rows))


if __name__ == "__main__":
    environment.prepare()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which cleans up
    stdio.run(lambda: exit_code(lambda: main(sys.argv[1:])))
