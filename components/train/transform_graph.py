# SPDX-License-Identifier: Apache-2.0
"""The graph that Transform exported, as a function of the one feature that training and serving have: the image."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from components import features


class TransformGraph(tf.Module):
    """Image bytes in, what the network takes out. Owns the restored graph, so a module that owns this one exports it.

    It needs TensorFlow alone. tf.Transform's own layer is a Keras 2 layer, which a Keras 3 model cannot hold.
    """

    def __init__(self, folder: str):
        """Loads the graph from the URI of a TransformGraph artifact."""
        super().__init__(name="transform")
        self._restored = tf.saved_model.load(tf.io.gfile.join(folder, "transform_fn"))
        # One positional argument, a dict from the name of each feature of the schema to its TensorSpec.
        self._inputs = self._restored.transform_fn.structured_input_signature[0][0]

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        """Image bytes, string [n] of height * width bytes each -> float32 [n, height, width, 1] in [0, 1]."""
        # Sorted, so that two exports of one network are the same program.
        inputs = {name: _absent(self._inputs[name], tf.size(image)) for name in sorted(self._inputs)}
        rank = self._inputs[features.IMAGE].shape.rank
        inputs[features.IMAGE] = image if rank == 1 else image[:, tf.newaxis]
        return self._restored.transform_fn(inputs)[features.IMAGE]


def _absent(spec: Any, count: tf.Tensor) -> Any:
    """A stand-in for a feature on which the image does not depend; the graph asks for all of them."""
    empty = "" if spec.dtype == tf.string else tf.zeros([], spec.dtype)
    if isinstance(spec, tf.SparseTensorSpec):
        no_indices = tf.zeros([0, 2], tf.int64)
        return tf.SparseTensor(no_indices, tf.fill([0], empty), [tf.cast(count, tf.int64), 0])
    return tf.fill([count, *spec.shape[1:]], empty)
