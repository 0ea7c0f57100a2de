# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's classify and regress calls: examples in JSON in, labels with scores or values out.

A model answers them where it has a signature of that method, which takes serialized tf.Examples; the models of this
project have none, those of other projects may.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from serving import answers, json_text
from serving.refusal import Refusal
from serving.savedmodel import Arrays, Signature
from serving.tensors import from_base64

METHODS = {
    "classify": ("classification", "tensorflow/serving/classify"),
    "regress": ("regression", "tensorflow/serving/regress"),
}
_INPUTS = "inputs"


def read(document: dict[str, Any], signature: Signature, method: str, max_rows: int) -> Arrays:
    """The serialized examples of a classify or regress request, string [n].

    Args:
        document: the parsed body.
        signature: the one that the request names.
        method: `classify` or `regress`.
        max_rows: number of examples that a request may hold.

    Raises:
        Refusal: the document holds no examples, or the signature is for another method.
    """
    kind, wanted = METHODS[method]
    if signature.method != wanted:
        raise Refusal(400, f"Expected {kind} signature method_name to be {wanted}. Was: {signature.method}")
    if signature.inputs.keys() != {_INPUTS}:
        raise Refusal(400, f"Expected one input, {_INPUTS}; the signature has {', '.join(signature.inputs)}")
    context = _features(document["context"]) if "context" in document else {}
    rows = document.get("examples")
    if "examples" not in document:
        raise Refusal(
            400,
            f"JSON Value: {json_text.shown(document)} When method is classify, key 'examples' is "
            "expected and was not found",
        )
    if not isinstance(rows, list):
        raise Refusal(400, f"JSON Value: {json_text.shown(document)} Expecting 'examples' value to be an list/array")
    if not rows:
        raise Refusal(400, f"JSON Value: {json_text.shown(document)} 'examples' value is an empty array")
    if len(rows) > max_rows:
        raise Refusal(400, f"a request may hold {max_rows} examples, but holds {len(rows)}; send several requests")
    serialized = np.empty(len(rows), object)
    serialized[:] = [_serialize({**context, **_features(row)}) for row in rows]
    return {_INPUTS: serialized}


def write(outputs: Arrays, method: str) -> bytes:
    """The body that answers: a value, or label and score of each class, for each example.

    Raises:
        Refusal: the outputs are not those of the method.
    """
    if method == "regress":
        values = outputs.get("outputs")
        if values is None or values.ndim not in (1, 2) or values.size != len(values):
            raise Refusal(400, "Expected the output 'outputs' of one value for each example")
        return _json(values.reshape(-1))
    labels, scores = outputs.get("classes"), outputs.get("scores")
    known = scores if scores is not None else labels
    if (
        known is None
        or known.ndim != 2
        or any(found is not None and found.shape != known.shape for found in (labels, scores))
    ):
        raise Refusal(400, "Expected the outputs 'classes' and 'scores', or one of them, of [examples, classes]")
    rows, columns = known.shape
    return _json(
        [
            [
                [
                    answers.as_text(labels[row, column]) if labels is not None else "",
                    scores[row, column] if scores is not None else np.float32(0),
                ]
                for column in range(columns)
            ]
            for row in range(rows)
        ]
    )


def _json(results: Any) -> bytes:
    return json_text.write_with_special_numbers({"results": results})


def _features(example: Any) -> dict[str, Any]:
    if not isinstance(example, dict):
        raise Refusal(400, f"Example must be JSON object but got JSON {_kind(example)}")
    return {name: _feature(name, value if isinstance(value, list) else [value]) for name, value in example.items()}


def _feature(name: str, values: list[Any]) -> Any:
    import tensorflow as tf

    plain: list[Any] = [from_base64(value["b64"]) if _is_b64(value) else value for value in values]
    for value in plain:
        if value is None or isinstance(value, dict | list):
            raise Refusal(400, f"Feature: {name[:80]} has element with unexpected JSON type: {_kind(value)}")
    if all(isinstance(value, str | bytes) for value in plain):
        data = [value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value for value in plain]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=data))
    if all(isinstance(value, int) for value in plain):
        if any(not -(2**63) <= value < 2**63 for value in plain):
            raise Refusal(400, f"Feature: {name[:80]} has uint64 element. Only int64 is supported.")
        return tf.train.Feature(int64_list=tf.train.Int64List(value=plain))
    if all(isinstance(value, float) for value in plain):
        largest = float(np.finfo(np.float32).max)
        if any(abs(value) > largest and np.isfinite(value) for value in plain):
            raise Refusal(400, f"Feature: {name[:80]} has a number that no float holds without loss of precision.")
        return tf.train.Feature(float_list=tf.train.FloatList(value=plain))
    expected = {str: "bytes", bytes: "bytes", float: "float"}.get(type(plain[0]), "int64")
    raise Refusal(400, f"Unexpected element type in feature: {name[:80]} expecting type: {expected}")


def _serialize(features: dict[str, Any]) -> bytes:
    import tensorflow as tf

    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    return {type(None): "Null", dict: "Object", list: "Array", str: "String"}.get(type(value), "Number")
