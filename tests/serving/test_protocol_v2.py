# SPDX-License-Identifier: Apache-2.0
"""KServe's V2 protocol."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from tests.serving.conftest import as_png

INFER = "/v2/models/mnist/infer"
BLANK = np.zeros((1, 28, 28), int)


def _request(images: np.ndarray, **changes) -> dict[str, Any]:
    tensor = {"name": "pixels", "shape": list(images.shape), "datatype": "UINT8", "data": images.ravel().tolist()}
    return {"inputs": [{**tensor, **changes}]}


def test_inference(server, digits):
    images, labels = digits
    response = server.call(INFER, {"id": "seven", **_request(images[7:9])}).json
    assert (response["model_name"], response["model_version"]) == ("mnist", "1")
    assert response["id"] == "seven"
    outputs = {output["name"]: output for output in response["outputs"]}
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
    response = server.call("/v2/models/mnist/versions/1/infer", by_bytes).json
    assert [output["name"] for output in response["outputs"]] == ["classes"]
    assert response["outputs"][0]["data"] == [labels[7]]


def test_health_and_metadata(server):
    assert server.call("/v2").json["name"]
    assert server.call("/v2/health/live").json == {"live": True}
    assert server.call("/v2/health/ready").json == {"ready": True}
    assert server.call("/v2/models/mnist/ready").json == {"ready": True}
    metadata = server.call("/v2/models/mnist").json
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "image_bytes", "datatype": "BYTES", "shape": [-1]}]
    assert metadata["outputs"][1] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (INFER, b"{", "the body must be JSON: "),
        (INFER, [], "an inference request must be an object with a list of inputs"),
        (INFER, {"inputs": []}, "the inputs must be image_bytes; or examples; or pixels; received none"),
        (INFER, {"inputs": [1]}, "each input must be an object with name, shape, datatype and data"),
        (INFER, _request(BLANK, datatype="FP32"), 'the datatype of pixels must be UINT8; received "FP32"'),
        (INFER, _request(BLANK, shape=[1, 2]), "pixels of shape [1, 2] must have 2 elements; received 784"),
        (INFER, _request(BLANK, shape=[2**40]), "the shape of pixels must be a list of whole numbers from 0"),
        (INFER, _request(BLANK, data=[0] * 783 + [-1]), "pixels[783] must be a whole number of 0 to 255; received -1"),
        (INFER, _request(BLANK, name="x"), "the inputs must be image_bytes; or examples; or pixels; received x"),
        (INFER, _request(BLANK) | {"id": 1}, "the id of a request must be a string; received 1"),
        (
            INFER,
            _request(BLANK) | {"outputs": [{"name": "x"}]},
            'the model has the outputs classes, probabilities; received "x"',
        ),
        ("/v2/models/other/infer", _request(BLANK), "this server has the model mnist; received 'other'"),
        ("/v2/models/mnist/versions/7/infer", _request(BLANK), "version 7 of mnist is not loaded"),
        ("/v2/models/mnist/versions/x", None, "a version is a number; received 'x'"),
    ],
)
def test_error_messages(server, path, body, message):
    response = server.call(path, body)
    assert list(response.json) == ["error"]
    assert message in response.json["error"]
