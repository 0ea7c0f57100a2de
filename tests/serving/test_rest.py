# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's REST interface: right answers, and its statuses and words for wrong requests."""

from __future__ import annotations

import numpy as np
import pytest

from tests.serving.conftest import as_b64, as_png

PREDICT = "/v1/models/mnist:predict"


def test_a_picture_of_another_size_is_named(server, digits):
    small, right = as_b64(as_png(digits[0][0][:20, :24])), as_b64(as_png(digits[0][0]))
    answer = server.call(PREDICT, {"instances": [right, small]})
    assert answer.status == 400
    assert "number 1 (from 0) is a PNG of 24x20 pixels, 8-bit, colour type 0" in answer.json["error"]


def test_all_forms_of_a_request_get_the_right_answer(server, digits):
    images, labels = digits
    chosen = [3, 14, 159]
    pngs = [as_b64(as_png(images[index])) for index in chosen]
    pixels = images[chosen].tolist()
    examples = [as_b64(_example(images[index])) for index in chosen]
    bodies = [
        {"instances": pngs},
        {"instances": [{"image_bytes": png} for png in pngs]},
        {"inputs": pngs},
        {"inputs": {"image_bytes": pngs}},
        {"signature_name": "serving_pixels", "instances": pixels},
        {"signature_name": "serving_pixels", "inputs": {"pixels": pixels}},
        {"signature_name": "serving_examples", "instances": examples},
    ]
    answers = [server.call(PREDICT, body) for body in bodies]
    assert [answer.status for answer in answers] == [200] * len(bodies)
    rows = answers[0].json["predictions"]
    assert [row["classes"] for row in rows] == labels[chosen].tolist()
    assert np.allclose([sum(row["probabilities"]) for row in rows], 1, atol=1e-5)
    for answer in answers[1:]:
        document = answer.json
        if "outputs" in document:
            columns = document["outputs"]
            found = [
                {"classes": label, "probabilities": row}
                for label, row in zip(columns["classes"], columns["probabilities"], strict=True)
            ]
        else:
            found = document["predictions"]
        assert [row["classes"] for row in found] == [row["classes"] for row in rows]
        for one, other in zip(found, rows, strict=True):
            assert np.allclose(one["probabilities"], other["probabilities"], atol=1e-6)


def test_versions_labels_and_content_type(server, digits):
    body = {"instances": [as_b64(as_png(digits[0][0]))]}
    for path in (
        "/v1/models/mnist/versions/1:predict",
        "/v1/models/mnist/labels/stable:predict",
        "/V1/Models/mnist:PREDICT",
    ):
        answer = server.call(path, body)
        assert answer.status == 200, path
        assert answer.headers["x-model-version"] == "1"
        assert answer.headers["content-type"] == "application/json"


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
    ("path", "body", "status", "words"),
    [
        (PREDICT, b"", 400, "JSON Parse error: The document is empty"),
        (PREDICT, b"{", 400, "JSON Parse error: "),
        (PREDICT, b"[" * 100_000, 400, "JSON Parse error: "),
        (PREDICT, b"[]", 400, "JSON Value: [] Is not object"),
        (PREDICT, b"{}", 400, "Missing 'inputs' or 'instances' key"),
        (PREDICT, {"instances": [1], "inputs": [1]}, 400, "expecting only one of 'inputs' or 'instances' keys"),
        (PREDICT, {"instances": 1}, 400, "Excepting 'instances' to be an list/array"),
        (PREDICT, {"instances": []}, 400, "No values in 'instances' array"),
        (PREDICT, {"instances": [1]}, 400, "JSON Value: 1 Type: Number is not of expected type: string"),
        (PREDICT, {"instances": [{"b64": "?"}]}, 400, "Unable to base64 decode"),
        (PREDICT, {"instances": [{"b64": 1}]}, 400, "does not have named input: b64"),
        (PREDICT, {"instances": [{"other": 1}]}, 400, "does not have named input: other"),
        (PREDICT, {"instances": [[[1]]]}, 400, "is not of expected type: string"),
        (PREDICT, {"instances": ["no png"]}, 400, "image_bytes takes PNG files of 28x28 pixels"),
        (PREDICT, {"inputs": {"other": ["a"]}}, 400, "Missing named input: image_bytes in 'inputs' object."),
        (PREDICT, {"inputs": []}, 400, "at least one image"),
        (PREDICT, {"signature_name": 1, "instances": [1]}, 400, "'signature_name' key must be a string value."),
        (PREDICT, {"signature_name": "x", "instances": [1]}, 400, 'Serving signature name: "x" not found'),
        (PREDICT, {"signature_name": "serving_pixels", "instances": [[[256]]]}, 400, "not of expected type: uint8"),
        (PREDICT, {"signature_name": "serving_pixels", "instances": [[[1.5]]]}, 400, "not of expected type: uint8"),
        (PREDICT, {"signature_name": "serving_pixels", "instances": [[[True]]]}, 400, "Type: True is not of expected"),
        (
            PREDICT,
            {"signature_name": "serving_pixels", "instances": [[[1, 2], [3]]]},
            400,
            "unexpected size: 1 at level: 1",
        ),
        (PREDICT, {"signature_name": "serving_pixels", "instances": [[[1]]]}, 400, "received the shape [1, 1, 1]"),
        (PREDICT, {"signature_name": "serving_examples", "instances": ["x"]}, 400, "Could not parse example"),
        ("/v1/models/half:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(half)"),
        ("/v1/models/mnist/versions/9:predict", {"instances": [1]}, 404, "request: Specific(mnist, 9)"),
        ("/v1/models/mnist/labels/x:predict", {"instances": [1]}, 400, "Unrecognized servable version label: x"),
        (f"/v1/models/mnist/versions/{'9' * 40}:predict", {}, 400, "Failed to convert version"),
        ("/v1/models/mnist:explain", {}, 400, "Malformed request: POST /v1/models/mnist:explain"),
        ("/v1/models/half", None, 404, "Could not find any versions of model half"),
        ("/v1/models/mnist/versions/9", None, 404, "Could not find version 9 of model mnist"),
        ("/v1/nothing", None, 400, "Malformed request: GET /v1/nothing"),
        ("/nothing", None, 404, "Not found"),
    ],
)
def test_what_is_wrong_is_said(server, path, body, status, words):
    answer = server.call(path, body)
    assert (answer.status, list(answer.json)) == (status, ["error"])
    assert words in answer.json["error"]
    assert len(answer.body) < 2000


def test_a_graph_that_refuses_is_told_in_one_sentence(server, digits):
    cut_off = as_png(digits[0][0])[:-30]  # its head is right
    answer = server.call(PREDICT, {"instances": [as_b64(cut_off)]})
    assert answer.status == 400
    assert "{{node" not in answer.json["error"]


def _example(image: np.ndarray) -> bytes:
    import tensorflow as tf

    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()]))
    return tf.train.Example(features=tf.train.Features(feature={"image": feature})).SerializeToString()
