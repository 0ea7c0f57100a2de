# SPDX-License-Identifier: Apache-2.0
"""The preprocessing of examples, the same in training and in serving.

This module holds functions only: TFX loads it a second time when it resolves `preprocessing_fn`.
"""

from __future__ import annotations

import tensorflow as tf

from components import features
from components.errors import BadInput


def preprocessing_fn(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Turns the bytes of an image into floats and passes the label on; drops all other features.

    It has no analyzers, so Transform need not read the data, and the exported graph has no statistics of it.

    Args:
        inputs: the features of the schema; `image` string [n] or [n, 1] of height * width bytes each, `label` int64
            [n] or [n, 1].

    Returns:
        `image` float32 [n, height, width, 1] in [0, 1], `label` int64 [n].

    Raises:
        BadInput: if the schema gives one of the two no fixed shape, so that it arrives as a sparse tensor.
        tf.errors.InvalidArgumentError: when the graph runs on an image with another number of bytes.
    """
    for name in (features.IMAGE, features.LABEL):
        if not isinstance(inputs[name], tf.Tensor):
            raise BadInput(
                f"the schema must give the feature {name!r} a fixed shape, but it arrives as "
                f"{type(inputs[name]).__name__}; add `shape {{}}` and full presence to it"
            )
    height, width = features.IMAGE_SHAPE
    data = tf.reshape(inputs[features.IMAGE], [-1])
    # The number of images is explicit, not inferred with -1: one 56x56 image must be an error, never four images.
    pixels = tf.reshape(tf.io.decode_raw(data, tf.uint8), [tf.size(data), height, width, 1])
    return {
        features.IMAGE: tf.cast(pixels, tf.float32) / 255.0,
        features.LABEL: tf.reshape(inputs[features.LABEL], [-1]),
    }
