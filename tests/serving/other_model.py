# SPDX-License-Identifier: Apache-2.0
"""Writes the model that the examples of TensorFlow Serving's REST document are about, and of its other passages."""

from __future__ import annotations

import pathlib

import tensorflow as tf

_v1 = tf.compat.v1


def export(folder: pathlib.Path) -> None:
    """Writes `half_plus_three` (y = x / 2 + 3) and signatures that give back what they are sent."""
    build = _v1.saved_model.signature_def_utils
    info = _v1.saved_model.utils.build_tensor_info
    with tf.Graph().as_default(), _v1.Session() as session:

        def predict(inputs: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]):
            named = [{name: info(tensor) for name, tensor in tensors.items()} for tensors in (inputs, outputs)]
            return build.build_signature_def(*named, "tensorflow/serving/predict")

        def echo(dtype: tf.DType, *shape: int | None, name: str = "y"):
            x = _v1.placeholder(dtype, shape)
            return predict({"x": x}, {name: tf.identity(x)})

        x = _v1.placeholder(tf.float32, [None])
        serialized = _v1.placeholder(tf.string, [None])
        parsed = tf.io.parse_example(serialized, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        labels = tf.tile(tf.constant([["half", "three"]]), [tf.shape(parsed)[0], 1])
        tag = _v1.placeholder(tf.string, [None])
        signal, sensor = _v1.placeholder(tf.int64, [None, 5]), _v1.placeholder(tf.int64, [None, 2, 2])
        total = tf.reduce_sum(signal, 1) + tf.reduce_sum(sensor, [1, 2])
        builder = _v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": predict({"x": x}, {"y": x * 0.5 + 3}),
                "tensorflow/serving/regress": build.regression_signature_def(serialized, parsed * 0.5 + 3),
                "classify": build.classification_signature_def(
                    serialized, labels, tf.concat([parsed / 2, parsed + 3], 1)
                ),
                "strings": echo(tf.string, None),
                "bytes": echo(tf.string, None, name="y_bytes"),
                "nested": echo(tf.int64, None, 1, 2),
                "floats": echo(tf.float32, None, None),
                "truth": echo(tf.bool, None),
                "scalar": predict({"x": (one := _v1.placeholder(tf.float32, []))}, {"y": one + 1}),
                "named": predict(
                    {"tag": tag, "signal": signal, "sensor": sensor}, {"tag": tf.identity(tag), "total": total}
                ),
            },
        )
        builder.save()
