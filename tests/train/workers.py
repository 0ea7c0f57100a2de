# SPDX-License-Identifier: Apache-2.0
"""Real workers of one training: processes of this machine that talk over loopback."""

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

# Runs `run_fn`, says what it is doing, and ends as the task of a training job would.
WORKER = """
import json, logging, os, sys, types
sys.path.insert(0, sys.argv[1])
from components.errors import ProjectError
logging.getLogger("progress").addHandler(logging.FileHandler(sys.argv[3]))
logging.getLogger("progress").setLevel(logging.INFO)
from components.train import trainer
{before}
try:
    trainer.run_fn(types.SimpleNamespace(**json.loads(sys.argv[2])))
except ProjectError as error:
    print("ended:", type(error).__name__, error, flush=True)
    os._exit(70 + error.exit_code)
print("ended: well", flush=True)
"""
ROOT = pathlib.Path(__file__).resolve().parents[2]


class Worker:
    """One process of a training, and what it says."""

    def __init__(self, arguments: Any, log: pathlib.Path, tf_config: dict[str, Any] | None, before: str = ""):
        log.parent.mkdir(parents=True, exist_ok=True)
        self._progress, self._output = log.with_suffix(".progress"), log
        env = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
        if tf_config:
            env["TF_CONFIG"] = json.dumps(tf_config)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", WORKER.replace("{before}", before), str(ROOT), json.dumps(vars(arguments)),
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
    def ended(self) -> str:
        """The sentence that it ended with."""
        said = [line for line in self.output.splitlines() if line.startswith("ended: ")]
        return said[-1].removeprefix("ended: ") if said else self.output[-2000:]

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Waits until its progress says something."""
        until = time.monotonic() + seconds
        while text not in self.progress:
            assert self.process.poll() is None, self.output[-3000:]
            assert time.monotonic() < until, f"no {text!r} after {seconds} s: {self.output[-3000:]}"
            time.sleep(0.02)


@contextlib.contextmanager
def started(arguments: Sequence[Any], folder: pathlib.Path, before: str = "") -> Iterator[list[Worker]]:
    """Starts a worker with each of these `fn_args`; whatever is left of them in the end is killed."""
    with contextlib.ExitStack() as sockets:
        held = [sockets.enter_context(socket.socket()) for _ in arguments]
        for one in held:
            one.bind(("127.0.0.1", 0))
        cluster = {"worker": [f"127.0.0.1:{one.getsockname()[1]}" for one in held]}
    workers = []
    try:
        for index, one in enumerate(arguments):
            tf_config = {"cluster": cluster, "task": {"type": "worker", "index": index}} if len(arguments) > 1 else None
            workers.append(Worker(one, folder / f"worker-{index}.log", tf_config, before))
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait(timeout=30)
