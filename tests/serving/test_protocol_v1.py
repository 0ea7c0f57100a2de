# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's REST interface: responses, error messages, and the examples of its document."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from tests.serving import other_model
from tests.serving.conftest import as_b64, as_example, as_png

PREDICT = "/v1/models/mnist:predict"
CASES = json.loads((pathlib.Path(__file__).parent / "conformance.json").read_text())


@pytest.fixture(scope="module")
def other(tmp_path_factory, start):
    """A server of a model that is not of this project."""
    folder = tmp_path_factory.mktemp("other") / "half_plus_three"
    other_model.export(folder / "123")
    return start(folder)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_conformance(other, case):
    model = f"/v1/models/{case.get('model', 'half_plus_three')}"
    if "get" in case:
        response = other.call(model + case["get"])
    else:
        response = other.call(model + case["post"], case["body"].encode())
    assert response.status == case.get("status", 200), response.body
    if "text" in case:
        assert response.body.decode() == case["text"]
    elif "response" in case:
        assert response.json == case["response"]


def test_metadata_has_every_signature(other):
    content = other.call("/v1/models/half_plus_three/metadata").json["metadata"]["signature_def"]["signature_def"]
    assert content["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert content["named"]["inputs"]["sensor"]["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}, {"size": "2", "name": ""}],
        "unknown_rank": False,
    }


def test_all_forms_of_a_request_give_the_same_predictions(server, digits):
    images, labels = digits
    indices = [3, 14, 159]
    pngs = [as_b64(as_png(images[index])) for index in indices]
    pixels = images[indices].tolist()
    examples = [as_b64(as_example(images[index])) for index in indices]
    bodies = [
        {"instances": pngs},
        {"instances": [{"image_bytes": png} for png in pngs]},
        {"inputs": pngs},
        {"inputs": {"image_bytes": pngs}},
        {"signature_name": "serving_pixels", "instances": pixels},
        {"signature_name": "serving_pixels", "inputs": {"pixels": pixels}},
        {"signature_name": "serving_examples", "instances": examples},
    ]
    responses = [server.call(PREDICT, body) for body in bodies]
    assert [response.status for response in responses] == [200] * len(bodies)
    expected = responses[0].json["predictions"]
    assert [row["classes"] for row in expected] == labels[indices].tolist()
    assert np.allclose([sum(row["probabilities"]) for row in expected], 1, atol=1e-5)
    for response in responses[1:]:
        document = response.json
        rows = document.get("predictions")
        if rows is None:
            columns = document["outputs"]
            rows = [
                {"classes": label, "probabilities": probabilities}
                for label, probabilities in zip(columns["classes"], columns["probabilities"], strict=True)
            ]
        assert [row["classes"] for row in rows] == [row["classes"] for row in expected]
        for row, expected_row in zip(rows, expected, strict=True):
            assert np.allclose(row["probabilities"], expected_row["probabilities"], atol=1e-6)


@pytest.mark.parametrize(
    "path",
    ["/v1/models/mnist/versions/1:predict", "/v1/models/mnist/labels/stable:predict", "/V1/Models/mnist:PREDICT"],
)
def test_headers_name_version_and_content_type(server, digits, path):
    response = server.call(path, {"instances": [as_b64(as_png(digits[0][0]))]})
    assert response.status == 200
    assert response.headers["x-model-version"] == "1"
    assert response.headers["content-type"] == "application/json"


def test_status_and_metadata(server):
    status = {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    assert server.call("/v1/models/mnist").json == status
    assert server.call("/v1/models/mnist/versions/1").json == status
    assert server.call("/v1/models/mnist/labels/stable").json == status
    metadata = server.call("/v1/models/mnist/metadata").json
    assert metadata["model_spec"] == {"name": "mnist", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    assert signature["inputs"]["image_bytes"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert server.call("/v1/models").json == {"models": ["mnist"]}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (PREDICT, b"{", "the body must be JSON: "),
        (PREDICT, b"[]", "the body must be a JSON object; received a list"),
        (PREDICT, {}, 'a request has either "instances" (row form) or "inputs" (column form)'),
        (PREDICT, {"instances": []}, "instances must be a list with at least one item; received an empty list"),
        (PREDICT, {"instances": 1}, "instances must be a list with at least one item; received 1"),
        (PREDICT, {"instances": [1]}, 'image_bytes[0] must be a string or {"b64": "…"}; received 1'),
        (PREDICT, {"instances": [{"b64": "?"}]}, "image_bytes[0] must be valid base64; received an object"),
        (PREDICT, {"instances": [{"x": 1}]}, "each instance must have image_bytes; instance 0 has x"),
        (PREDICT, {"inputs": {"x": ["a"]}}, "inputs must have image_bytes; it lacks image_bytes"),
        (PREDICT, {"inputs": []}, "a request must have at least one image; received none"),
        (PREDICT, {"instances": ["a"]}, "image 0 (from 0) is not a PNG file (1 bytes). Convert it before you send it"),
        (PREDICT, {"signature_name": 1, "instances": [1]}, "signature_name must be a string; received 1"),
        (
            PREDICT,
            {"signature_name": "x", "instances": [1]},
            "the model has the signatures serving_default, serving_examples, serving_pixels; received 'x'",
        ),
        (
            PREDICT,
            {"signature_name": "serving_pixels", "instances": [[[0, 256]]]},
            "pixels[0][0][1] must be a whole number of 0 to 255; received 256",
        ),
        (
            PREDICT,
            {"signature_name": "serving_pixels", "instances": [[[1, 2], [3]]]},
            "the lists of pixels must have equal lengths",
        ),
        (
            PREDICT,
            {"signature_name": "serving_pixels", "instances": [[[1]]]},
            "pixels must be uint8 [n, 28, 28]; received the shape [1, 1, 1]",
        ),
        ("/v1/models/half:predict", {"instances": [1]}, "this server has the model mnist; received 'half'"),
        ("/v1/models/mnist/versions/9:predict", {"instances": [1]}, "version 9 of mnist is not loaded"),
        ("/v1/models/mnist/labels/x:predict", {"instances": [1]}, "mnist has the labels stable; received 'x'"),
        (f"/v1/models/mnist/versions/{'9' * 40}", None, "a version is a number of up to 63 bits; received 999"),
        ("/v1/models/mnist:classify", {}, ":classify is not supported; use :predict"),
        ("/v1/models/half/versions/9:regress", {}, ":regress is not supported; use :predict"),
        ("/v1/models/mnist:explain", {}, "not a call of this protocol: POST /v1/models/mnist:explain"),
        ("/v1/models/mnist/versions/9", None, "there is no version 9 of mnist"),
        ("/nothing", None, "Not Found: GET /nothing"),
    ],
)
def test_error_messages(server, path, body, message):
    response = server.call(path, body)
    assert list(response.json) == ["error"]
    assert message in response.json["error"]


def test_a_picture_of_another_size_is_named(server, digits):
    small, full = as_b64(as_png(digits[0][0][:20, :24])), as_b64(as_png(digits[0][0]))
    response = server.call(PREDICT, {"instances": [full, small]})
    assert response.status == 400
    assert "image 1 (from 0) is a PNG of 24x20 pixels, 8-bit, colour type 0" in response.json["error"]


def test_an_error_of_the_graph_is_one_sentence(server, digits):
    truncated = as_png(digits[0][0])[:-30]  # with a valid header
    response = server.call(PREDICT, {"instances": [as_b64(truncated)]})
    assert response.status == 400
    assert "{{node" not in response.json["error"]


def test_an_error_repeats_lone_surrogates(server):
    response = server.call(PREDICT, b'{"instances": [{"\\ud800": NaN}]}')
    assert response.status == 400
    assert response.json["error"].endswith("instance 0 has \ud800")
