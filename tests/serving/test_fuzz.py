# SPDX-License-Identifier: Apache-2.0
"""Random requests: never a 500, never the end of the server, and no memory leak."""

from __future__ import annotations

import json
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.conftest import as_b64, as_png

PREDICT, INFER = "/v1/models/mnist:predict", "/v2/models/mnist/infer"
SIGNATURES = ["serving_default", "serving_pixels", "serving_examples"]
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_anything = st.recursive(
    _scalars | st.builds(lambda data: {"b64": data}, st.text(max_size=20)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
_names = st.sampled_from(["image_bytes", "pixels", "examples", "x"])
_predict_bodies = st.fixed_dictionaries(
    {},
    optional={
        "signature_name": st.sampled_from(SIGNATURES) | _anything,
        "instances": _anything
        | st.lists(_anything, max_size=3)
        | st.lists(st.dictionaries(_names, _anything), max_size=3),
        "inputs": _anything | st.dictionaries(_names, _anything, max_size=3),
    },
)
_tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": _names | _anything,
        "shape": st.lists(st.integers(-1, 30), max_size=4) | _anything,
        "datatype": st.sampled_from(["UINT8", "BYTES", "FP32"]) | _anything,
        "data": st.lists(_anything, max_size=5) | _anything,
        "parameters": st.just({"content_type": "base64"}) | _anything,
    },
)
_infer_bodies = st.fixed_dictionaries(
    {"inputs": st.lists(_tensors, max_size=3) | _anything},
    optional={
        "id": _anything,
        "outputs": _anything,
        "parameters": st.just({"signature_name": "serving_pixels"}) | _anything,
    },
)
_settings = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@_settings
@given(body=_predict_bodies)
def test_predict_bodies(server, body):
    _check(server.call(PREDICT, body))


@_settings
@given(body=_infer_bodies)
def test_infer_bodies(server, body):
    _check(server.call(INFER, body))


@_settings
@given(body=st.binary(max_size=300), path=st.sampled_from([PREDICT, INFER]))
def test_bytes(server, body, path):
    _check(server.call(path, body))


@_settings
@given(data=st.data())
def test_damaged_requests(server, digits, data):
    """A valid request in which a few bytes are changed."""
    png = bytearray(as_png(digits[0][0]))
    for _ in range(data.draw(st.integers(0, 3))):
        png[data.draw(st.integers(0, len(png) - 1))] = data.draw(st.integers(0, 255))
    body = bytearray(json.dumps({"instances": [as_b64(bytes(png))]}).encode())
    for _ in range(data.draw(st.integers(0, 2))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    _check(server.call(PREDICT, bytes(body)))


def test_requests_by_the_api_documentation(server):
    interface = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    checks = [schemathesis.checks.not_a_server_error, schemathesis.checks.response_schema_conformance]
    labels = set()
    result: Any
    for result in interface.get_all_operations():
        operation = result.ok()

        @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case):
            case.validate_response(case.call(), checks=checks)

        check()
        labels.add(operation.label)
    assert {"POST /v1/models/{name}:predict", "POST /v2/models/{name}/infer", "GET /readyz"} <= labels


def test_refused_requests_leak_no_memory(server, digits):
    bad = [
        json.dumps({"instances": [as_b64(as_png(digits[0][0])[:-30])]}).encode(),
        json.dumps({"instances": ["not a png" * 1000]}).encode(),
        b'{"instances": ' + b"[" * 5000,
        json.dumps({"inputs": [[0] * 100] * 100}).encode(),
        json.dumps({f"key{number}": "value" for number in range(1000)}).encode(),
    ]
    for _ in range(100):
        for body in bad:
            assert server.call(PREDICT, body).status == 400
    before = server.resident_mib()
    for _ in range(400):
        for body in bad:
            assert server.call(PREDICT, body).status == 400
    assert server.resident_mib() < before + 20


def _check(response) -> None:
    assert response.status in (200, 400, 413), (response.status, response.body)
    if response.status != 200:
        assert list(response.json) == ["error"]
