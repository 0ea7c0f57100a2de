# SPDX-License-Identifier: Apache-2.0
"""Workers of one training: processes on this machine that communicate over loopback."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

# Runs `run_fn`, writes its progress to a file, and exits like a worker of a training job.
WORKER = """
import json, logging, os, sys, types
sys.path.insert(0, sys.argv[1])
from components.errors import ProjectError
logging.getLogger("progress").addHandler(logging.FileHandler(sys.argv[3]))
logging.getLogger("progress").setLevel(logging.INFO)
from components.train import trainer
{setup}
try:
    trainer.run_fn(types.SimpleNamespace(**json.loads(sys.argv[2])))
except ProjectError as error:
    print("result:", type(error).__name__, error, flush=True)
    os._exit(70 + error.exit_code)
print("result: success", flush=True)
os._exit(0)  # skips TensorFlow's shutdown, which would wait for the other workers
"""
ROOT = pathlib.Path(__file__).resolve().parents[2]


class Worker:
    """One process of a training, with its progress and output."""

    def __init__(self, fn_args: Any, log: pathlib.Path, tf_config: dict[str, Any] | None, setup: str = ""):
        log.parent.mkdir(parents=True, exist_ok=True)
        self._progress, self._output = log.with_suffix(".progress"), log
        env = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
        if tf_config:
            env["TF_CONFIG"] = json.dumps(tf_config)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", WORKER.replace("{setup}", setup), str(ROOT), json.dumps(vars(fn_args)),
                 str(self._progress)],
                stdout=output, stderr=subprocess.STDOUT, env=env,
            )  # fmt: skip

    @property
    def progress(self) -> str:
        return self._progress.read_text() if self._progress.exists() else ""

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    @property
    def result(self) -> str:
        """The last line, with the error if there was one."""
        lines = [line for line in self.output.splitlines() if line.startswith("result: ")]
        return lines[-1].removeprefix("result: ") if lines else self.output[-2000:]

    def wait_for(self, text: str, seconds: float = 300) -> None:
        """Waits for a text in its progress."""
        deadline = time.monotonic() + seconds
        while text not in self.progress:
            assert self.process.poll() is None, self.output[-3000:]
            assert time.monotonic() < deadline, f"no {text!r} after {seconds} s: {self.output[-3000:]}"
            time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Returns ports of loopback that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for server in sockets:
            server.bind(("127.0.0.1", 0))
        return [server.getsockname()[1] for server in sockets]


@contextlib.contextmanager
def start(fn_args: Sequence[Any], folder: pathlib.Path, setup: str = "") -> Iterator[list[Worker]]:
    """Starts a worker with each of these `fn_args`, after the code `setup`; kills those that still run at the end."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(len(fn_args))]}
    workers = []
    try:
        for index, worker_args in enumerate(fn_args):
            tf_config = {"cluster": cluster, "task": {"type": "worker", "index": index}} if len(fn_args) > 1 else None
            workers.append(Worker(worker_args, folder / f"worker-{index}.log", tf_config, setup))
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait(timeout=30)
