# SPDX-License-Identifier: Apache-2.0
"""A model with the signatures of the examples in TensorFlow Serving's document of its REST interface."""

from __future__ import annotations

import pathlib

import tensorflow as tf

_v1 = tf.compat.v1


def export(folder: pathlib.Path) -> None:
    """Writes `half_plus_three` (y = x / 2 + 3), with more signatures that return their inputs."""
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
        tag = _v1.placeholder(tf.string, [None])
        signal, sensor = _v1.placeholder(tf.int64, [None, 5]), _v1.placeholder(tf.int64, [None, 2, 2])
        total = tf.reduce_sum(signal, 1) + tf.reduce_sum(sensor, [1, 2])
        builder = _v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": predict({"x": x}, {"y": x * 0.5 + 3}),
                "strings": echo(tf.string, None),
                "bytes": echo(tf.string, None, name="y_bytes"),
                "nested": echo(tf.int64, None, 1, 2),
                "floats": echo(tf.float32, None, None),
                "truth": echo(tf.bool, None),
                "scalar": predict({"x": (scalar := _v1.placeholder(tf.float32, []))}, {"y": scalar + 1}),
                "named": predict(
                    {"tag": tag, "signal": signal, "sensor": sensor}, {"tag": tf.identity(tag), "total": total}
                ),
            },
        )
        builder.save()
