# SPDX-License-Identifier: Apache-2.0
"""Limits of a request."""

from __future__ import annotations

import socket

from tests.serving.conftest import as_b64, as_png

PREDICT = "/v1/models/mnist:predict"


def test_large_bodies_are_refused(tight):
    response = tight.call(PREDICT, b" " * 100_001)
    assert response.status == 413
    assert response.json["error"] == "the body of a request may have 100000 bytes; this one has 100001"


def test_large_bodies_without_a_content_length_are_refused(tight):
    with socket.create_connection(("127.0.0.1", tight.port)) as connection:
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        connection.sendall(chunk + chunk)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_many_images_are_refused(tight, digits):
    image = as_b64(as_png(digits[0][0]))
    assert tight.call(PREDICT, {"instances": [image] * 20}).status == 200
    response = tight.call(PREDICT, {"instances": [image] * 21})
    assert response.status == 400
    assert response.json["error"] == "a request may have 20 instances; received 21. Send several requests"
