# SPDX-License-Identifier: Apache-2.0
"""Servers in processes of their own, and a client for them."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pathlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Servers are forked from a process that has imported TensorFlow: that takes longer than most tests.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.serving.preload"])


@dataclasses.dataclass
class Response:
    """A response; status 0 without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A server in a process of its own, on any free port.

    Args:
        model_dir: `--model-dir`.
        log: file for its output.
        arguments: further ones.
        forked: False starts `python -m serving`, with settings for Keras and TensorFlow that must not matter.
    """

    def __init__(self, model_dir: pathlib.Path, log: pathlib.Path, *arguments: str, forked: bool = True):
        self.log = log
        log.touch()
        options = ["--model-dir", str(model_dir), "--port", "0", *arguments]
        self.process: subprocess.Popen[bytes] | ForkServerProcess
        if forked:
            self.process = _CONTEXT.Process(target=_run, args=(options, str(log)), daemon=True)
            self.process.start()
        else:
            settings = {"KERAS_BACKEND": "none", "TF_CONFIG": "none", "TF_XLA_FLAGS": "none"}
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **settings}
            command = [sys.executable, "-m", "serving", *options]
            with log.open("wb") as output:
                self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        self.url = ""
        self.wait_for(self._has_started)
        self.port = int(self.url.rsplit(":", 1)[1])
        self.wait_for(lambda: self.call("/readyz").status == 200)

    def _has_started(self) -> bool:
        text = self.log.read_text()
        if self.exit_code is not None:
            raise RuntimeError(f"the server ended with {self.exit_code}: {text}")
        if match := re.search(r"serving .* on (http://\S+)\n", text):
            self.url = match[1]
        return bool(self.url)

    def call(self, path: str, body: Any = None, method: str | None = None) -> Response:
        """Sends a request; `body` is sent as JSON unless it is bytes."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Response(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            return Response(error.code, dict(error.headers), error.read())
        except urllib.error.URLError as error:
            return Response(0, {}, str(error).encode())

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(self.log.read_text())
            time.sleep(0.05)

    def resident_mib(self) -> float:
        pages = int(pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.poll() if isinstance(self.process, subprocess.Popen) else self.process.exitcode

    def stop(self) -> int | None:
        """Sends SIGTERM; returns the exit code."""
        self.process.terminate()
        if isinstance(self.process, subprocess.Popen):
            return self.process.wait(60)
        self.process.join(60)
        return self.process.exitcode


def _run(arguments: list[str], log: str) -> None:
    from serving.__main__ import main

    descriptor = os.open(log, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.exit(main(arguments))
