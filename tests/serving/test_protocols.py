# SPDX-License-Identifier: Apache-2.0
"""KServe's V2 protocol, health, metrics and the documentation."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from tests.serving.conftest import as_png

INFER = "/v2/models/mnist/infer"


def _tensor(images: np.ndarray, **changes) -> dict[str, Any]:
    tensor = {"name": "pixels", "shape": list(images.shape), "datatype": "UINT8", "data": images.ravel().tolist()}
    return {"inputs": [{**tensor, **changes}]}


def test_inference(server, digits):
    images, labels = digits
    answer = server.call(INFER, {"id": "seven", **_tensor(images[7:9])}).json
    assert (answer["model_name"], answer["model_version"]) == ("mnist", "1")
    assert answer["id"] == "seven"
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["classes"]["datatype"] == "INT64"
    assert outputs["classes"]["shape"] == [2]
    assert outputs["classes"]["data"] == labels[7:9].tolist()
    assert outputs["probabilities"]["shape"] == [2, 10]
    assert sum(outputs["probabilities"]["data"]) == pytest.approx(2, abs=1e-4)
    nested = {"inputs": [{"name": "pixels", "shape": [1, 28, 28], "datatype": "UINT8", "data": images[7:8].tolist()}]}
    assert server.call(INFER, nested).json["outputs"][0]["data"] == [labels[7]]
    png = base64.b64encode(as_png(images[7])).decode()
    by_bytes = {
        "inputs": [{"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [png]}],
        "outputs": [{"name": "classes"}],
    }
    answer = server.call("/v2/models/mnist/versions/1/infer", by_bytes).json
    assert [output["name"] for output in answer["outputs"]] == ["classes"]
    assert answer["outputs"][0]["data"] == [labels[7]]


def test_health_and_metadata(server):
    assert server.call("/v2").json["name"]
    assert server.call("/v2/health/live").json == {"live": True}
    assert server.call("/v2/health/ready").json == {"ready": True}
    assert server.call("/v2/models/mnist/ready").json == {"ready": True}
    metadata = server.call("/v2/models/mnist").json
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "image_bytes", "datatype": "BYTES", "shape": [-1]}]
    assert metadata["outputs"][1] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}
    assert server.call("/healthz").status == 200
    assert server.call("/readyz").json == {"ready": True, "versions": [1], "labels": {"stable": 1}}
    assert server.call("/about").json["dataset"] == {"name": "digits"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (INFER, b"{", 400),
        (INFER, [], 400),
        (INFER, {"inputs": []}, 400),
        (INFER, {"inputs": [1]}, 400),
        (INFER, _tensor(np.zeros((1, 28, 28), int), datatype="FP32"), 400),
        (INFER, _tensor(np.zeros((1, 28, 28), int), shape=[1, 28, 27]), 400),
        (INFER, _tensor(np.zeros((1, 28, 28), int), shape=[2**40]), 400),
        (INFER, _tensor(np.zeros((1, 28, 28), int), data=[-1] * 784), 400),
        (INFER, _tensor(np.zeros((1, 28, 28), int), name="other"), 400),
        (INFER, {**_tensor(np.zeros((1, 28, 28), int)), "outputs": [{"name": "other"}]}, 400),
        (INFER, _tensor(np.zeros((0, 28, 28), int)), 400),
        ("/v2/models/other/infer", _tensor(np.zeros((1, 28, 28), int)), 404),
        ("/v2/models/mnist/versions/7/infer", _tensor(np.zeros((1, 28, 28), int)), 404),
        ("/v2/models/mnist/versions/x", None, 404),
    ],
)
def test_what_is_wrong_is_said(server, path, body, status):
    answer = server.call(path, body)
    assert (answer.status, list(answer.json)) == (status, ["error"])


def test_metrics_count_what_was_asked_and_answered(server, digits):
    def figures() -> dict[str, float]:
        lines = server.call("/metrics").body.decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}

    before = figures()
    label = server.call(INFER, _tensor(digits[0][:1])).json["outputs"][0]["data"][0]
    server.call(INFER, b"{")
    after = figures()

    def more(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert more('serving_requests_total{method="predict",protocol="v2",status="200"}') == 1
    assert more('serving_requests_total{method="predict",protocol="v2",status="400"}') == 1
    assert more('serving_request_seconds_count{method="predict",protocol="v2"}') == 2
    assert more("serving_batch_images_sum") == 1
    assert more(f'serving_predicted_class_total{{class="{label}",version="1"}}') == 1
    assert more('serving_confidence_count{version="1"}') == 1
    assert 0.1 <= after['serving_mean_confidence{version="1"}'] <= 1
    assert after['serving_version{label="stable"}'] == 1
    assert after["serving_waiting_images"] == 0


def test_documentation_loads_nothing_from_elsewhere(server):
    for path in ("/", "/docs"):
        page = server.call(path)
        assert page.status == 200
        assert b"http://" not in page.body
        assert b"https://" not in page.body
        assert "default-src 'self'" in page.headers["content-security-policy"]
    paths = server.call("/openapi.json").json["paths"]
    assert "/v1/models/{name}:predict" in paths
    assert "/v2/models/{name}/infer" in paths
