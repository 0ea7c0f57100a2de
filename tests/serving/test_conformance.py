# SPDX-License-Identifier: Apache-2.0
"""The requests and answers of TensorFlow Serving's REST document, as data, and further passages of its contract."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.serving import other_model

CASES = json.loads((pathlib.Path(__file__).parent / "conformance.json").read_text())


@pytest.fixture(scope="module")
def other(tmp_path_factory, start):
    folder = tmp_path_factory.mktemp("other") / "half_plus_three"
    other_model.export(folder / "123")
    return start(folder)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_case(other, case):
    model = f"/v1/models/{case.get('model', 'half_plus_three')}"
    if "get" in case:
        answer = other.call(model + case["get"])
    else:
        answer = other.call(model + case["post"], case["body"].encode())
    assert answer.status == case.get("status", 200), answer.body
    if "text" in case:
        assert answer.body.decode() == case["text"]
    else:
        assert answer.json == case["answer"]


def test_metadata_of_every_signature(other):
    found = other.call("/v1/models/half_plus_three/metadata").json["metadata"]["signature_def"]["signature_def"]
    assert found["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert found["tensorflow/serving/regress"]["method_name"] == "tensorflow/serving/regress"
    assert found["named"]["inputs"]["sensor"]["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}, {"size": "2", "name": ""}],
        "unknown_rank": False,
    }
