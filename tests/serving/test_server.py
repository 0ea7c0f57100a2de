# SPDX-License-Identifier: Apache-2.0
"""Slow clients, and the end of the server."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest

from tests.serving.conftest import as_b64, as_png

PREDICT = "/v1/models/mnist:predict"


@pytest.mark.parametrize(
    ("request_part", "response"),
    [
        (b"", b""),
        (b"POST /v1/models/mnist:pre", b""),
        (b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{", b"HTTP/1.1 408"),
    ],
    ids=["silent", "half a head", "half a body"],
)
def test_slow_clients_time_out(tight, request_part, response):
    with socket.create_connection(("127.0.0.1", tight.port), timeout=20) as connection:
        connection.sendall(request_part)
        received = b""
        while data := connection.recv(1000):
            received += data
    assert received.startswith(response) if response else not received


def test_a_slow_second_request_times_out(tight):
    with socket.create_connection(("127.0.0.1", tight.port), timeout=20) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        response = b""  # head and body may arrive apart
        while not response.endswith(b'{"status":"ok"}'):
            response += connection.recv(1000)
        assert response.startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /healthz HT")
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000) == b""


def test_a_client_that_does_not_read_its_responses_is_disconnected(tight):
    size = len(tight.call("/openapi.json").body)
    requests = 20 * 2**20 // size  # more than the buffers between the two can hold
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", tight.port))
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * requests)
        time.sleep(3)  # the limit is a second
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(2**20):
                received += len(data)
    assert size < received < size * requests / 2
    assert tight.call("/healthz").status == 200


def test_requests_in_flight_at_sigterm_get_their_responses(tmp_path, push, start, digits):
    push(tmp_path / "mnist", 1)
    server = start(tmp_path / "mnist", forked=False)
    body = json.dumps({"instances": [as_b64(as_png(image)) for image in digits[0][:200]]}).encode()
    responses: list[bytes] = []
    resume = threading.Event()

    def send() -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            head = f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            connection.sendall(head + body[:1000])
            resume.wait()
            connection.sendall(body[1000:])
            received = b""
            while data := connection.recv(100_000):
                received += data
            responses.append(received)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)  # the heads and parts of the bodies arrive
    server.process.terminate()
    server.wait_for(lambda: "stopping" in server.log.read_text())
    resume.set()
    for thread in threads:
        thread.join()
    assert [response[:15] for response in responses] == [b"HTTP/1.1 200 OK"] * 4
    assert all(response.count(b'"classes"') == 200 for response in responses)
    assert server.stop() == 0
