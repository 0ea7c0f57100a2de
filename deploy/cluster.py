# SPDX-License-Identifier: Apache-2.0
"""Kubeflow by this project's own command line, for `deploy.accept`."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from components.errors import BadInput, ProjectError
from pipeline.kubeflow import client

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMAND_SECONDS, CHANGE_SECONDS, RUN_SECONDS = 120.0, 300.0, 3600.0  # limits of a command, a change, a run
POLL_SECONDS = 5.0
ENDED = ("succeeded", "failed", "terminated")
Result = TypeVar("Result")


class AcceptanceFailure(Exception):
    """A check that failed; the message is one line."""


def command(arguments: Sequence[str], seconds: float, shown: bool) -> tuple[int, str]:
    """Runs `runner_kfp.py` as a person does.

    Args:
        arguments: after the program's name.
        seconds: after which it is killed.
        shown: print its lines as they come.

    Returns:
        Its exit code and its last line.

    Raises:
        Failure: it was killed.
    """
    last = ""
    with subprocess.Popen(
        [sys.executable, str(ROOT / "runner_kfp.py"), *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    ) as process:  # fmt: skip
        limit = threading.Timer(seconds, process.kill)
        limit.start()
        try:
            for line in process.stdout or ():
                last = line.strip() or last
                if shown:
                    print(f"    {line.rstrip()}", flush=True)
            code = process.wait()
        finally:
            limit.cancel()
            process.kill()
    if code == -signal.SIGKILL:
        raise AcceptanceFailure(f"`{arguments[0]}` did not end within {seconds:.0f} s")
    return code, last.removeprefix("error: ")


class CommandLine:
    """A server, and the objects that an acceptance makes on it.

    Attributes:
        name: of the pipeline, the experiment, the schedule and the folders of models, with the time in UTC.
    """

    def __init__(self, args: argparse.Namespace, folder: pathlib.Path):
        """Takes the options, and a folder for the package and results."""
        self._args, self._folder, self._package = args, folder, str(folder / "pipeline.yaml")
        self.name = f"accept-{datetime.now(UTC):%Y%m%dt%H%M%Sz}"
        self._server = ["--host", args.host]
        self._run = ["--pipeline", self.name, "--experiment", self.name]
        if args.namespace:
            self._server += ["--namespace", args.namespace]
            root = f"minio://mlpipeline/private-artifacts/{args.namespace}/v2/artifacts"
            self._run += ["--service-account", "default-editor", "--pipeline-root", root]
        if args.token_file:
            self._server += ["--token-file", args.token_file]
        self._unfinished: list[str] = []

    def prepare(self) -> None:
        """Lists the server's runs, to see that it responds, and compiles the package.

        Raises:
            BadInput: an option is wrong, or the server does not respond.
            ProjectError: the server or the compilation failed.
        """
        volume = ["--pvc", self._args.pvc] if self._args.pvc else []
        data = ["--data-dir", self._args.data_dir] if self._args.data_dir else []
        package = ("compile", "--image", self._args.image, *volume, *data, "--output", self._package)
        for arguments in (("list", *self._server), package):
            code, last = command(arguments, COMMAND_SECONDS, True)
            if code:
                raise (BadInput if code == BadInput.exit_code else ProjectError)(last)

    def clean_up(self) -> None:
        """Deletes the schedule and terminates the runs that have not ended."""
        print("== cleaning up", flush=True)
        for run in self._unfinished:
            with contextlib.suppress(AcceptanceFailure):
                self._call("terminate", run)
        self._delete_schedules()
        print(f"Not deleted: the pipeline and the experiment {self.name}, their runs, and the models in {self.name}/.")

    def _start(self, folder: str, base: str = "", **parameters: int) -> str:
        """Starts a run that pushes to a folder of this acceptance; returns its id."""
        run = str(self._result("run", *self._options(folder, base, **parameters))["run_id"])
        self._unfinished.append(run)
        return run

    def _options(self, folder: str, base: str = "", **parameters: int) -> list[str]:
        url = f"{(base or self._args.serving_dir).rstrip('/')}/{self.name}/{folder}"
        values = {"serving_dir": url, "train_steps": self._args.steps} | parameters
        return [*self._run, *(part for name, value in values.items() for part in ("--param", f"{name}={value}"))]

    def _end(self, run: str) -> dict[str, Any]:
        """Waits for the end of a run and returns its record, with the command's exit code."""
        code, row, last = self._call("status", run, "--wait", seconds=RUN_SECONDS)
        if row is None:
            raise AcceptanceFailure(last)
        self._unfinished.remove(run)
        return row | {"exit_code": code}

    def _status(self, run: str) -> Any:
        return self._result("status", run, shown=False)

    def _has(self, run: str, state: str) -> bool:
        return any(task["state"] == state for task in self._status(run)["tasks"])

    def _ended(self, run: str) -> str:
        row = self._status(run)
        return str(row["state"]) * (row["state"] in ENDED)

    def _connect(self) -> client.Server:
        return client.connect(self._args.host, self._args.namespace, self._args.token_file)

    def _fired(self, schedule: str) -> Any:
        server = self._connect()
        options = {"page_size": 100, "sort_by": "created_at desc", "namespace": server.namespace or None}
        runs = server.call("list runs", server.kfp.list_runs, **options).runs or []
        return (run.run_id for run in runs if run.recurring_run_id == schedule)

    def _delete_schedules(self) -> None:
        for row in self._result("list", "schedules", shown=False)["schedules"]:
            if row["name"] == self.name:
                self._delete_schedule(row["id"])

    def _delete_schedule(self, key: str) -> None:
        """Pauses a schedule, ends its run, which could not end without its workflow, and deletes the schedule."""
        server = self._connect()
        server.call("pause a schedule", server.kfp.disable_recurring_run, key)
        try:
            for run in self._fired(key):
                if not self._ended(run):
                    self._call("terminate", run)
                    self._poll(CHANGE_SECONDS, "the end of the schedule's run", functools.partial(self._ended, run))
        finally:
            server.call("delete a schedule", server.kfp.delete_recurring_run, key)

    def _call(self, *arguments: str, seconds: float = COMMAND_SECONDS, shown: bool = True) -> tuple[int, Any, str]:
        """Runs a command on the server; returns its exit code, its result (None without one) and its last line."""
        file = self._folder / "result.json"
        file.unlink(missing_ok=True)
        code, last = command([*arguments, *self._server, "--json", str(file)], seconds, shown)
        return code, json.loads(file.read_text(encoding="utf-8")) if file.exists() else None, last

    def _result(self, *arguments: str, shown: bool = True) -> Any:
        code, result, last = self._call(*arguments, shown=shown)
        if code:
            raise AcceptanceFailure(last)
        return result

    def _poll(self, seconds: float, event: str, read: Callable[[], Result]) -> Result:
        print(f"    waiting for {event}", flush=True)
        end = time.monotonic() + seconds
        while not (result := read()):
            if time.monotonic() > end:
                raise AcceptanceFailure(f"{event}: not within {seconds:.0f} s")
            time.sleep(POLL_SECONDS)
        return result
