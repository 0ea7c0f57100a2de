# SPDX-License-Identifier: Apache-2.0
"""Throughput, latency and memory of this project's server, against KServe's Python server with the same model.

    python benchmarks/serving.py --model-dir output/serving/mnist
        [--kserve-python PYTHON]   Python of an environment with kserve and tensorflow; default: one is made
        [--seconds 4] [--rounds 5] [--requests 200000] [--json FILE]

Both serve the same SavedModel on this machine, one PNG image per request, and take turns: in each round both get one
load with 1 connection and one with 16, so that other work of the machine affects both. The load comes from the same
machine. The values are medians over the rounds. Then `--requests` requests with 16 connections go to this server
alone, and its resident memory is read ten times.

The exit code is 0 if all goals are met: at least 1.7 times KServe's throughput and a lower p50 and p99, with 1
connection and with 16; and at most 5 % more memory after the requests than after the first tenth of them. Otherwise
it is 1, and 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import dataclasses
import functools
import io
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
KSERVE = ("kserve==0.21.0", "tensorflow==2.21.0")
CONNECTIONS = (1, 16)
MIN_FACTOR = 1.7
MAX_GROWTH = 1.05


@dataclasses.dataclass
class Load:
    """Responses per second, and percentiles of their latency in milliseconds."""

    rate: float
    p50: float
    p99: float


class _HttpConnection(asyncio.Protocol):
    """Sends one request after the other, each when the response to the last is complete."""

    def __init__(
        self, request: bytes, latencies: list[float], deadline: float, budget: list[int], end: asyncio.Future[None]
    ):
        self._request, self._latencies, self._deadline = request, latencies, deadline
        self._budget, self._end = budget, end
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

    def _send(self) -> None:
        now = time.perf_counter()
        if now >= self._deadline or self._budget[0] <= 0:
            self._transport.close()
            if not self._end.done():
                self._end.set_result(None)
            return
        self._budget[0] -= 1
        self._start = now
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        if b" 200 " not in head[:16]:
            self._end.set_exception(RuntimeError(f"the response must be 200; received {head[:40]!r} {body[:200]!r}"))
            return
        self._buffer = b""
        self._latencies.append(time.perf_counter() - self._start)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._end.done():
            self._end.set_exception(RuntimeError(f"the connection was closed: {exc}"))


def load(port: int, path: str, body: bytes, connections: int, seconds: float = 1e9, requests: int = 10**9) -> Load:
    """Sends requests for a number of seconds, or a number of requests."""
    request = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    latencies: list[float] = []
    budget = [requests]

    async def run() -> None:
        loop = asyncio.get_running_loop()
        deadline = time.perf_counter() + seconds
        futures = [loop.create_future() for _ in range(connections)]
        for future in futures:
            await loop.create_connection(
                functools.partial(_HttpConnection, request, latencies, deadline, budget, future), "127.0.0.1", port
            )
        await asyncio.gather(*futures)

    import uvloop

    start = time.perf_counter()
    uvloop.run(run())
    elapsed = time.perf_counter() - start
    latencies.sort()
    count = len(latencies)
    return Load(count / elapsed, 1e3 * latencies[count // 2], 1e3 * latencies[int(count * 0.99)])


def predict_request() -> bytes:
    """Returns the body of a predict request with one image: a PNG of 28x28 with a stroke on it."""
    import numpy as np
    from PIL import Image

    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 13:15] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return json.dumps({"instances": [{"b64": base64.b64encode(file.getvalue()).decode()}]}).encode()


def serve_with_kserve(model_dir: str, port: int) -> None:
    """Serves the model with KServe's Python server, in an environment that has it."""
    import kserve
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    class Digits(kserve.Model):
        def load(self) -> bool:
            self._saved_model = tf.saved_model.load(model_dir)
            self._signature = self._saved_model.signatures["serving_default"]
            self.ready = True
            return True

        def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
            images = [base64.b64decode(instance["b64"]) for instance in payload["instances"]]
            response = self._signature(image_bytes=tf.constant(images))
            columns = {name: tensor.numpy().tolist() for name, tensor in response.items()}
            return {
                "predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            }

    model = Digits("mnist")
    model.load()
    kserve.ModelServer(http_port=port, enable_grpc=False, workers=1, access_log_format=None).start([model])


def start(command: list[str], port: int, log: pathlib.Path) -> subprocess.Popen[bytes]:
    """Starts a server and waits for its first response."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT)
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"{command[0]} ended with {process.returncode}; see {log}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/mnist", timeout=1).read()
            return process
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"{command[0]} did not respond within two minutes; see {log}")


def resident_mib(process: subprocess.Popen[bytes]) -> float:
    """Returns the resident memory of a process."""
    pages = int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def kserve_python() -> pathlib.Path:
    """Returns the Python of KServe's environment in the cache folder, which is made if missing."""
    folder = pathlib.Path.home() / ".cache" / "mnist-tfx" / "kserve"
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"Making an environment for KServe in {folder}")
        uv = str(ROOT / ".uv" / "bin" / "uv")
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *KSERVE], check=True)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures this server against KServe's Python server.")
    parser.add_argument("--model-dir", type=pathlib.Path, default=ROOT / "output/serving/mnist", help="its versions")
    parser.add_argument("--kserve-python", type=pathlib.Path, help="default: an environment in the cache folder")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one load; default: 4")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take the medians of; default: 5")
    parser.add_argument("--requests", type=int, default=200_000, help="for the memory; 0 skips it; default: 200000")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="file for the values")
    parser.add_argument("--log-dir", type=pathlib.Path, default=pathlib.Path("/tmp"))
    parser.add_argument("--as-kserve", nargs=2, metavar=("VERSION_DIR", "PORT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_kserve:
        serve_with_kserve(args.as_kserve[0], int(args.as_kserve[1]))
        return 0
    versions = [path for path in args.model_dir.glob("*") if path.name.isdecimal()]
    if not versions:
        parser.error(f"--model-dir must hold a version of a model; received {args.model_dir}")
    version = max(versions, key=lambda path: int(path.name))
    ports = {"project": free_port(), "kserve": free_port()}
    commands = {
        "project": [
            sys.executable, "-m", "serving", "--model-dir", str(args.model_dir), "--port", str(ports["project"])
        ],
        "kserve": [
            str(args.kserve_python or kserve_python()), str(pathlib.Path(__file__).resolve()),
            "--as-kserve", str(version), str(ports["kserve"]),
        ],
    }  # fmt: skip
    processes: dict[str, subprocess.Popen[bytes]] = {}
    values: dict[str, object] = {"cpus": os.cpu_count(), "load_average": os.getloadavg()[0]}
    try:
        for name, command in commands.items():
            processes[name] = start(command, ports[name], args.log_dir / f"benchmark-{name}.log")
        met = compare(ports, args, values)
        if args.requests:
            met &= watch_memory(processes["project"], ports["project"], args.requests, values)
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        for process in processes.values():
            process.wait(60)
    if args.json:
        args.json.write_text(json.dumps(values, indent=1))
    print("All goals are met." if met else "NOT all goals are met.")
    return 0 if met else 1


def compare(ports: dict[str, int], args: argparse.Namespace, values: dict[str, object]) -> bool:
    """Prints and stores the loads of both servers; returns whether the goals are met."""
    body, path = predict_request(), "/v1/models/mnist:predict"
    met = True
    print(f"{'':24}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}")
    for connections in CONNECTIONS:
        loads: dict[str, list[Load]] = {name: [] for name in ports}
        for port in ports.values():
            load(port, path, body, connections, seconds=1)  # warm-up
        for _ in range(args.rounds):
            for name, port in ports.items():
                loads[name].append(load(port, path, body, connections, args.seconds))
        medians = {
            name: Load(*map(statistics.median, zip(*map(dataclasses.astuple, rounds), strict=True)))
            for name, rounds in loads.items()
        }
        for name, median in medians.items():
            print(f"{name:8}{connections:3} connections {median.rate:12.0f}{median.p50:9.2f}{median.p99:9.2f}")
        project, kserve = medians["project"], medians["kserve"]
        holds = project.rate >= MIN_FACTOR * kserve.rate and project.p50 < kserve.p50 and project.p99 < kserve.p99
        print(f"{'':8}{project.rate / kserve.rate:.2f} times the throughput: {'holds' if holds else 'DOES NOT HOLD'}")
        met &= holds
        values[f"connections_{connections}"] = {name: dataclasses.asdict(median) for name, median in medians.items()}
    return met


def watch_memory(process: subprocess.Popen[bytes], port: int, requests: int, values: dict[str, object]) -> bool:
    """Prints and stores the resident memory over the requests; returns whether the goal is met."""
    body, path = predict_request(), "/v1/models/mnist:predict"
    sizes = []
    for _ in range(10):
        load(port, path, body, 16, requests=requests // 10)
        sizes.append(resident_mib(process))
    print(f"memory over {requests} requests, MiB: {' '.join(f'{size:.0f}' for size in sizes)}")
    values["memory_mib"] = sizes
    holds = sizes[-1] <= MAX_GROWTH * sizes[0]
    print(f"grew by {100 * (sizes[-1] / sizes[0] - 1):.1f} %: {'holds' if holds else 'DOES NOT HOLD'}")
    return holds


if __name__ == "__main__":
    sys.exit(main())
