# SPDX-License-Identifier: Apache-2.0
"""What a request may cost, what it may spoil, and how the server ends."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import signal
import socket
import threading
import time

import pytest

from tests.serving.conftest import as_b64, as_png

PREDICT = "/v1/models/mnist:predict"


@pytest.fixture(scope="module")
def tight(tmp_path_factory, put, start):
    """A server with narrow limits."""
    folder = tmp_path_factory.mktemp("tight") / "mnist"
    put(folder, 1)
    return start(
        folder, "--max-body-bytes", "100000", "--max-instances", "20", "--max-queue", "16", "--request-seconds", "1"
    )


def test_one_bad_image_fails_only_its_own_request(server, digits):
    images, labels = digits
    damaged = bytearray(as_png(images[0]))
    damaged[-20] ^= 255  # its head is right: only the decoder finds out
    kinds = [
        lambda n: ({"instances": [as_b64(as_png(images[n]))]}, [labels[n]]),
        lambda n: ({"instances": [as_b64(bytes(damaged))]}, None),
        lambda n: ({"instances": [as_b64(as_png(images[n + k])) for k in range(3)]}, labels[n : n + 3].tolist()),
        lambda n: (
            {"signature_name": "serving_pixels", "instances": images[n : n + 2].tolist()},
            labels[n : n + 2].tolist(),
        ),
        lambda n: ({"instances": ["no png"]}, None),
    ]
    asked = [kinds[n % len(kinds)](n) for n in range(300)]
    right = {
        n: [row["classes"] for row in server.call(PREDICT, body).json["predictions"]]
        for n, (body, expected) in enumerate(asked)
        if expected is not None
    }
    assert sum(right[n] == asked[n][1] for n in right) > 0.8 * len(right)
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda one: server.call(PREDICT, one[0]), asked))
    for n, answer in enumerate(answers):
        if n in right:
            assert answer.status == 200, answer.body
            assert [row["classes"] for row in answer.json["predictions"]] == right[n]
        else:
            assert answer.status == 400
    joined = server.call("/metrics").body.decode()
    assert 'serving_batch_images_bucket{le="1.0"}' in joined
    calls = float(joined.split("serving_batch_images_count ")[1].split()[0])
    images_in_calls = float(joined.split("serving_batch_images_sum ")[1].split()[0])
    assert images_in_calls > calls  # some were joined


def test_long_bodies_and_large_batches_are_refused(tight, digits):
    assert tight.call(PREDICT, b" " * 100_001).status == 413
    image = as_b64(as_png(digits[0][0]))
    assert tight.call(PREDICT, {"instances": [image] * 20}).status == 200
    answer = tight.call(PREDICT, {"instances": [image] * 21})
    assert answer.status == 400
    assert answer.json["error"] == "a request may hold 20 instances, but holds 21; send several requests"


def test_a_long_body_that_does_not_say_so_is_refused(tight):
    with socket.create_connection(("127.0.0.1", tight.port)) as connection:
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        connection.sendall(chunk + chunk)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_full_queue_is_said(tight, digits):
    body = json.dumps({"instances": [as_b64(as_png(image)) for image in digits[0][:15]]}).encode()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        statuses = [answer.status for answer in pool.map(lambda _: tight.call(PREDICT, body), range(200))]
    assert set(statuses) == {200, 429}
    assert tight.call(PREDICT, body).status == 200


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"POST /v1/models/mnist:pre", b""),
        (b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{", b"HTTP/1.1 408"),
    ],
    ids=["silent", "half a head", "half a body"],
)
def test_slow_clients_time_out(tight, sent, answer):
    with socket.create_connection(("127.0.0.1", tight.port), timeout=20) as connection:
        connection.sendall(sent)
        received = b""
        while data := connection.recv(1000):
            received += data
    assert received.startswith(answer) if answer else not received


def test_a_slow_second_request_times_out_too(tight):
    with socket.create_connection(("127.0.0.1", tight.port), timeout=20) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b""  # The head and the body may come apart.
        while not answer.endswith(b'{"status":"ok"}'):
            answer += connection.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /healthz HT")
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000) == b""


def test_a_client_that_does_not_take_its_answers_is_cut_off(tight):
    size = len(tight.call("/openapi.json", None).body)
    requests = 20 * 2**20 // size  # more than the buffers between the two can hold
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", tight.port))
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * requests)
        time.sleep(3)  # the server's patience is a second
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(2**20):
                received += len(data)
    assert size < received < size * requests / 2
    assert tight.call("/healthz").status == 200


@pytest.mark.slow
def test_sigterm_finishes_what_is_in_flight(tmp_path, put, start, digits):
    put(tmp_path / "mnist", 1)
    server = start(tmp_path / "mnist")
    body = json.dumps({"instances": [as_b64(as_png(image)) for image in digits[0][:200]]}).encode()
    answers: list[bytes] = []

    def ask(first: bytes, rest: bytes, go: threading.Event) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            head = f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            connection.sendall(head + first)
            go.wait()
            connection.sendall(rest)
            received = b""
            while data := connection.recv(100_000):
                received += data
            answers.append(received)

    go = threading.Event()
    halves = [threading.Thread(target=ask, args=(body[:1000], body[1000:], go)) for _ in range(4)]
    for thread in halves:
        thread.start()
    time.sleep(0.5)  # they are in flight: their heads and some of their bodies have arrived
    server.process.send_signal(signal.SIGTERM)
    server.wait_for(lambda: "stopping" in server.log.read_text())
    go.set()
    for thread in halves:
        thread.join()
    assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * 4
    assert all(answer.count(b'"classes"') == 200 for answer in answers)
    assert server.process.wait(30) == 0
