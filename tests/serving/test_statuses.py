# SPDX-License-Identifier: Apache-2.0
"""HTTP statuses of the server, as a table of requests."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.serving.conftest import MAX_BODY_BYTES, as_b64, as_png

PREDICT, INFER = "/v1/models/mnist:predict", "/v2/models/mnist/infer"
ZEROS = np.zeros((1, 28, 28), np.uint8)
PNG = as_b64(as_png(ZEROS[0]))
PIXELS = "serving_pixels"
# The first half of a PNG file, whose header is that of a whole one.
HALF_PNG = as_b64(as_png(ZEROS[0])[:40])


def tensor(**changes: Any) -> dict[str, Any]:
    """An inference request with one blank image as pixels."""
    values = {"name": "pixels", "shape": [1, 28, 28], "datatype": "UINT8", "data": [0] * 784}
    return {"inputs": [{**values, **changes}]}


def png_tensor(**changes: Any) -> dict[str, Any]:
    """An inference request with one blank image as a PNG file."""
    return tensor(name="image_bytes", shape=[1], datatype="BYTES", data=[PNG["b64"]], **changes)


GET: list[tuple[str, str, Any, int]] = [
    ("GET", path, None, status)
    for path, status in (
        # Health, metrics and pages
        ("/", 200),
        ("/docs", 200),
        ("/openapi.json", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/about", 200),
        ("/nothing", 404),
        ("/redoc", 404),
        # V1: models, versions, labels, metadata
        ("/v1", 400),
        ("/v1/", 400),
        ("/v1/nothing", 400),
        ("/v1/models", 200),
        ("/v1/models/", 400),
        ("/v1/models/mnist", 200),
        ("/v1/models/mnist/", 400),
        ("/v1/models/%6dnist", 200),
        ("/V1/Models/mnist", 200),
        ("/v1/models/other", 404),
        ("/v1/models/mnist/versions/1", 200),
        ("/v1/models/mnist/versions/01", 200),
        ("/v1/models/mnist/versions/9", 404),
        ("/v1/models/mnist/versions/x", 400),
        ("/v1/models/mnist/versions/" + "9" * 40, 400),
        ("/v1/models/mnist/versions/" + str(2**63), 400),
        ("/v1/models/mnist/versions/" + str(2**63 - 1), 404),
        ("/v1/models/mnist/labels/stable", 200),
        ("/v1/models/mnist/labels/x", 400),
        ("/v1/models/other/labels/stable", 404),
        ("/v1/models/mnist/metadata", 200),
        ("/v1/models/mnist/METADATA", 200),
        ("/v1/models/other/metadata", 404),
        ("/v1/models/mnist/versions/1/metadata", 200),
        ("/v1/models/mnist/versions/9/metadata", 404),
        ("/v1/models/mnist/labels/stable/metadata", 200),
        ("/v1/models/mnist/labels/x/metadata", 400),
        ("/v1/models/mnist/nothing", 400),
        # V2: server, health, models, versions
        ("/v2", 200),
        ("/v2/", 200),
        ("/v2/nothing", 404),
        ("/v2/health/live", 200),
        ("/v2/health/ready", 200),
        ("/v2/models/mnist", 200),
        ("/v2/models/other", 404),
        ("/v2/models/mnist/ready", 200),
        ("/v2/models/other/ready", 404),
        ("/v2/models/mnist/versions/1", 200),
        ("/v2/models/mnist/versions/9", 404),
        ("/v2/models/mnist/versions/x", 404),
        ("/v2/models/mnist/versions/" + "9" * 40, 404),
        ("/v2/models/mnist/versions/1/ready", 200),
        ("/v2/models/mnist/versions/9/ready", 404),
        ("/v2/models/mnist/nothing", 404),
    )
]
METHODS: list[tuple[str, str, Any, int]] = [
    ("GET", PREDICT, None, 400),
    ("PUT", PREDICT, {"instances": [PNG]}, 400),
    ("DELETE", "/v1/models/mnist", None, 400),
    ("PATCH", "/v1/models/mnist", {}, 400),
    ("HEAD", "/v1/models/mnist", None, 400),
    ("OPTIONS", "/v1/models/mnist", None, 400),
    ("TRACE", "/v1/models/mnist", None, 405),
    ("POST", "/v1/models/mnist", {}, 400),
    ("POST", "/v1/models", {}, 400),
    ("POST", "/v1/models/mnist:explain", {}, 400),
    ("GET", "/v1/models/mnist:classify", None, 400),
    ("GET", INFER, None, 405),
    ("POST", "/v2/models/mnist", {}, 405),
    ("POST", "/healthz", {}, 405),
    ("HEAD", "/healthz", None, 405),
    ("DELETE", "/", None, 405),
]
V1: list[tuple[str, str, Any, int]] = [
    ("POST", path, {"instances": [PNG]}, status)
    for path, status in (
        (PREDICT, 200),
        (PREDICT + "?x=1", 200),
        ("/V1/Models/mnist:PREDICT", 200),
        ("/v1/models/%6dnist:predict", 200),
        ("/v1/models/other:predict", 404),
        ("/v1/models/mnist/versions/1:predict", 200),
        ("/v1/models/mnist/versions/9:predict", 404),
        ("/v1/models/mnist/versions/x:predict", 400),
        ("/v1/models/mnist/versions/" + "9" * 40 + ":predict", 400),
        ("/v1/models/mnist/labels/stable:predict", 200),
        ("/v1/models/mnist/labels/x:predict", 400),
        ("/v1/models/other/labels/stable:predict", 404),
        ("/v1/models/mnist/versions/1/labels/stable:predict", 400),
    )
] + [
    ("POST", PREDICT, body, status)
    for body, status in (
        # JSON
        (b"", 400),
        (b" ", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b'{"instances": ' + b"[" * 5000, 400),
        (b'{"instances": [NaN]}', 400),
        (b"[]", 400),
        (b"1", 400),
        (b"null", 400),
        # Row and column form
        ({}, 400),
        ({"instances": [PNG], "inputs": [PNG]}, 400),
        ({"instances": 1}, 400),
        ({"instances": []}, 400),
        ({"instances": {}}, 400),
        ({"instances": [PNG, PNG]}, 200),
        ({"instances": [{"image_bytes": PNG}]}, 200),
        ({"instances": [{"image_bytes": PNG}, PNG]}, 400),
        ({"instances": [PNG, {"image_bytes": PNG}]}, 400),
        ({"instances": [{"other": PNG}]}, 400),
        ({"instances": [{"image_bytes": PNG, "other": PNG}]}, 400),
        ({"instances": [{}]}, 400),
        ({"inputs": [PNG]}, 200),
        ({"inputs": {"image_bytes": [PNG]}}, 200),
        ({"inputs": {"image_bytes": [PNG], "other": [PNG]}}, 200),
        ({"inputs": {"other": [PNG]}}, 400),
        ({"inputs": {}}, 400),
        ({"inputs": []}, 400),
        ({"inputs": PNG}, 400),
        ({"inputs": 1}, 400),
        ({"inputs": None}, 400),
        # Signatures
        ({"signature_name": "", "instances": [PNG]}, 200),
        ({"signature_name": "serving_default", "instances": [PNG]}, 200),
        ({"signature_name": 1, "instances": [PNG]}, 400),
        ({"signature_name": None, "instances": [PNG]}, 400),
        ({"signature_name": "x", "instances": [PNG]}, 400),
        ({"signature_name": "serving_examples", "instances": ["x"]}, 400),
        # Binary values
        ({"instances": ["no png"]}, 400),
        ({"instances": [1]}, 400),
        ({"instances": [None]}, 400),
        ({"instances": [[[1]]]}, 400),
        ({"instances": [{"b64": "?"}]}, 400),
        ({"instances": [{"b64": 1}]}, 400),
        ({"instances": [{"b64": PNG["b64"].rstrip("=")}]}, 200),
        ({"instances": [{"b64": " " + PNG["b64"]}]}, 200),
        ({"instances": [as_b64(as_png(ZEROS[0, :20]))]}, 400),
        ({"instances": [HALF_PNG]}, 400),
        ({"instances": [PNG, HALF_PNG]}, 400),
        # Numbers
        ({"signature_name": PIXELS, "instances": ZEROS.tolist()}, 200),
        ({"signature_name": PIXELS, "inputs": {"pixels": ZEROS.tolist()}}, 200),
        ({"signature_name": PIXELS, "inputs": ZEROS[0].tolist()}, 400),
        ({"signature_name": PIXELS, "instances": ZEROS[:, :27].tolist()}, 400),
        ({"signature_name": PIXELS, "instances": [[[1]]]}, 400),
        ({"signature_name": PIXELS, "instances": [[[256]]]}, 400),
        ({"signature_name": PIXELS, "instances": [[[-1]]]}, 400),
        ({"signature_name": PIXELS, "instances": [[[1.5]]]}, 400),
        ({"signature_name": PIXELS, "instances": [[[True]]]}, 400),
        ({"signature_name": PIXELS, "instances": [[["1"]]]}, 400),
        ({"signature_name": PIXELS, "instances": [[[1, 2], [3]]]}, 400),
        ({"signature_name": PIXELS, "instances": [[[1, 2], 3]]}, 400),
        ({"signature_name": PIXELS, "instances": [1, [2]]}, 400),
        ({"signature_name": PIXELS, "instances": [[[2**70]]]}, 400),
        # Size
        ({"instances": [PNG] * 1024}, 200),
        ({"instances": [PNG] * 1025}, 400),
        ({"inputs": [PNG] * 1025}, 400),
        (b" " * (MAX_BODY_BYTES + 1), 413),
    )
]
V2: list[tuple[str, str, Any, int]] = [
    ("POST", path, tensor(), status)
    for path, status in (
        (INFER, 200),
        ("/v2/models/other/infer", 404),
        ("/v2/models/mnist/versions/1/infer", 200),
        ("/v2/models/mnist/versions/9/infer", 404),
        ("/v2/models/mnist/versions/x/infer", 404),
        ("/v2/models/mnist/labels/stable/infer", 404),
        ("/V2/models/mnist/infer", 200),
    )
] + [
    ("POST", INFER, body, status)
    for body, status in (
        (b"", 400),
        (b"{", 400),
        ([], 400),
        ({}, 400),
        ({"inputs": 1}, 400),
        ({"inputs": []}, 400),
        ({"inputs": [1]}, 400),
        ({"inputs": [{}]}, 400),
        (tensor() | {"id": "a"}, 200),
        (tensor() | {"id": 1}, 400),
        (tensor() | {"id": None}, 400),
        (tensor() | {"parameters": {"signature_name": PIXELS}}, 200),
        (tensor() | {"parameters": {"signature_name": "serving_default"}}, 400),
        (tensor() | {"parameters": {"signature_name": "x"}}, 400),
        (tensor() | {"parameters": {"signature_name": 1}}, 400),
        (tensor() | {"parameters": 1}, 200),
        (tensor() | {"outputs": [{"name": "classes"}]}, 200),
        (tensor() | {"outputs": []}, 200),
        (tensor() | {"outputs": None}, 200),
        (tensor() | {"outputs": [{"name": "other"}]}, 400),
        (tensor() | {"outputs": [{}]}, 400),
        (tensor() | {"outputs": ["classes"]}, 400),
        (tensor() | {"outputs": 1}, 400),
        (tensor(name="other"), 400),
        (tensor(name=1), 400),
        (tensor(datatype="FP32"), 400),
        (tensor(datatype=None), 400),
        (tensor(shape=[1, 28, 27]), 400),
        (tensor(shape=[28, 28]), 400),
        (tensor(shape=[2**40]), 400),
        (tensor(shape=[-1, 28, 28]), 400),
        (tensor(shape=[True, 28, 28]), 400),
        (tensor(shape=None), 400),
        (tensor(shape=[0, 28, 28], data=[]), 400),
        (tensor(shape=[1025, 28, 28]), 400),
        (tensor(data=ZEROS.tolist()), 200),
        (tensor(data=[[[[[0] * 784]]]]), 200),
        (tensor(data=[0]), 400),
        (tensor(data=0), 400),
        (tensor(data=[-1] * 784), 400),
        (tensor(data=[0.5] * 784), 400),
        (tensor(data=["0"] * 784), 400),
        (tensor(data=[None] * 784), 400),
        # Binary values
        (png_tensor(), 200),
        (png_tensor(parameters={"content_type": "base64"}), 200),
        (tensor(name="image_bytes", shape=[1], datatype="BYTES", data=["?"]), 400),
        (tensor(name="image_bytes", shape=[1], datatype="BYTES", data=[HALF_PNG["b64"]]), 400),
        (tensor(name="image_bytes", shape=[1], datatype="BYTES", data=[1]), 400),
        (tensor(name="examples", shape=[1], datatype="BYTES", data=["x"]), 400),
        (
            tensor(name="examples", shape=[1], datatype="BYTES", data=["?"], parameters={"content_type": "base64"}),
            400,
        ),
        # The binary extension is not supported: the tensor follows the JSON.
        (json.dumps(tensor(parameters={"binary_data_size": 784}, data=[])).encode() + bytes(784), 400),
        (b" " * (MAX_BODY_BYTES + 1), 413),
    )
]
UNSUPPORTED: list[tuple[str, str, Any, int]] = [
    ("POST", f"/v1/models/{target}:{method}", body, 404)
    for method in ("classify", "regress", "CLASSIFY")
    for target in ("mnist", "mnist/versions/1", "mnist/labels/stable", "other", "mnist/versions/9", "mnist/labels/x")
    for body in ({"examples": [{"x": 1.0}]}, b"{")
]


REQUESTS = [*GET, *METHODS, *V1, *V2, *UNSUPPORTED]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    REQUESTS,
    ids=[f"{number} {method} {path[:40]}" for number, (method, path, _, _) in enumerate(REQUESTS)],
)
def test_status(server, method, path, body, status):
    response = server.call(path, body, method)
    assert response.status == status, response.body[:300]
    assert status == 200 or len(response.body) < 2000
