# SPDX-License-Identifier: Apache-2.0
"""Joined calls of the model: bad images among good ones, and a full queue."""

from __future__ import annotations

import concurrent.futures
import json

from tests.serving.conftest import as_b64, as_png

PREDICT = "/v1/models/mnist:predict"


def test_a_bad_image_fails_only_its_own_request(server, digits):
    images, labels = digits
    damaged = bytearray(as_png(images[0]))
    damaged[-20] ^= 255  # the header is valid: only the decoder fails
    kinds = [
        lambda n: ({"instances": [as_b64(as_png(images[n]))]}, [labels[n]]),
        lambda n: ({"instances": [as_b64(bytes(damaged))]}, None),
        lambda n: ({"instances": [as_b64(as_png(images[n + k])) for k in range(3)]}, labels[n : n + 3].tolist()),
        lambda n: (
            {"signature_name": "serving_pixels", "instances": images[n : n + 2].tolist()},
            labels[n : n + 2].tolist(),
        ),
        lambda n: ({"instances": ["not a png"]}, None),
    ]
    requests = [kinds[n % len(kinds)](n) for n in range(300)]
    expected = {
        n: [row["classes"] for row in server.call(PREDICT, body).json["predictions"]]
        for n, (body, label) in enumerate(requests)
        if label is not None
    }
    assert sum(expected[n] == requests[n][1] for n in expected) > 0.8 * len(expected)
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        responses = list(pool.map(lambda request: server.call(PREDICT, request[0]), requests))
    for n, response in enumerate(responses):
        if n in expected:
            assert response.status == 200, response.body
            assert [row["classes"] for row in response.json["predictions"]] == expected[n]
        else:
            assert response.status == 400
    metrics = server.call("/metrics").body.decode()
    assert 'serving_batch_images_bucket{le="1.0"}' in metrics
    calls = float(metrics.split("serving_batch_images_count ")[1].split()[0])
    images_in_calls = float(metrics.split("serving_batch_images_sum ")[1].split()[0])
    assert images_in_calls > calls


def test_a_full_queue_is_429(tight, digits):
    body = json.dumps({"instances": [as_b64(as_png(image)) for image in digits[0][:15]]}).encode()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda _: tight.call(PREDICT, body), range(200)))
    assert {response.status for response in responses} == {200, 429}
    refused = next(response for response in responses if response.status == 429)
    assert refused.json["error"].endswith("of 16 images wait; try again later")
    assert tight.call(PREDICT, body).status == 200
