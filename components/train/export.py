# SPDX-License-Identifier: Apache-2.0
"""The exported model: three ways in, one transform graph, one network, and a guard before each.

The guards are part of the graph, so any server is protected by them. What they refuse is an InvalidArgumentError that
states the rule, what was received and the way out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from components import features
from components.train.data import TransformGraph

# The largest PNG that is opened: all its pixels uncompressed, twice, and room for text and colour-profile chunks.
_EXTRA_PNG_BYTES = 16 * 1024
_HEADER_BYTES = 26
_COLOUR_TYPES = {0: "greyscale", 2: "colour", 3: "palette", 4: "greyscale with alpha", 6: "colour with alpha"}


def export(network: keras.Model, transform: TransformGraph, folder: str) -> None:
    """Writes a SavedModel with the signatures of `features`; TensorFlow alone is enough to load it.

    Args:
        network: float32 [n, height, width, 1] -> probabilities float32 [n, classes].
        transform: string [n] of image bytes -> what `network` takes.
        folder: is made.
    """
    module = ServingModel(network, transform)
    signatures = {
        features.SIGNATURE_BYTES: module.from_png.get_concrete_function(),
        features.SIGNATURE_PIXELS: module.from_pixels.get_concrete_function(),
        features.SIGNATURE_EXAMPLES: module.from_examples.get_concrete_function(),
    }
    tf.saved_model.save(module, folder, signatures=signatures)


def _function(takes: tf.TensorSpec) -> Callable[[Callable[..., Any]], Any]:
    """A graph of one tensor. No Python branches on a tensor here, and to look for that takes longer than the rest."""
    return tf.function(input_signature=[takes], autograph=False)


class ServingModel(tf.Module):
    """Owns all that the signatures use. All three go through image bytes and the transform graph."""

    def __init__(self, network: keras.Model, transform: TransformGraph):
        super().__init__(name="serving")
        self._transform = transform
        # The network is called, not owned: a tracked Keras model would be traced and saved once more in its own format.
        self._predict = _without_tracking(network)
        self._weights = [variable.value for variable in network.variables]

    @_function(tf.TensorSpec([None], tf.string, name=features.IMAGE_BYTES_INPUT))
    def from_png(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """PNG files, 8-bit greyscale, height x width; string [n]."""
        with tf.control_dependencies([_refuse_other_png(image_bytes)]):
            checked = tf.identity(image_bytes)
        pixels = tf.map_fn(_decode_png, checked, fn_output_signature=tf.TensorSpec(features.IMAGE_SHAPE, tf.uint8))
        return self._answer(_to_bytes(pixels))

    @_function(tf.TensorSpec([None, *features.IMAGE_SHAPE], tf.uint8, name=features.PIXELS_INPUT))
    def from_pixels(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Decoded images; uint8 [n, height, width]."""
        with tf.control_dependencies([_refuse_other_shape(pixels)]):
            return self._answer(_to_bytes(tf.identity(pixels)))

    @_function(tf.TensorSpec([None], tf.string, name=features.EXAMPLES_INPUT))
    def from_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Serialized tf.Examples with the feature `image`, as ingest writes them; string [n]."""
        image = tf.io.parse_example(examples, {features.IMAGE: tf.io.FixedLenFeature([], tf.string)})[features.IMAGE]
        with tf.control_dependencies([_refuse_other_length(image)]):
            return self._answer(tf.identity(image))

    def _answer(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([_refuse_none(image)]):
            image = tf.identity(image)
        probabilities = self._predict(self._transform(image))
        return {
            features.CLASS_OUTPUT: tf.argmax(probabilities, axis=-1, output_type=tf.int64),
            features.PROBABILITIES_OUTPUT: tf.cast(probabilities, tf.float32),
        }


def _without_tracking(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda images: network(images, training=False)


def _decode_png(data: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.io.decode_png(data, channels=1, dtype=tf.uint8)[:, :, 0], features.IMAGE_SHAPE)


def _to_bytes(pixels: tf.Tensor) -> tf.Tensor:
    """uint8 [n, height, width] -> string [n] of height * width bytes.

    TensorFlow has no inverse of decode_raw. Joining one-byte strings takes some 30 microseconds for an image.
    """
    height, width = features.IMAGE_SHAPE
    rows = tf.reshape(pixels, [tf.shape(pixels)[0], height * width])
    table = tf.constant([bytes([value]) for value in range(256)])
    return tf.strings.reduce_join(tf.gather(table, tf.cast(rows, tf.int32)), axis=1)


def _refuse_other_png(image_bytes: tf.Tensor) -> tf.Operation:
    """Looks at the first 26 bytes and the length of each file, before anything is decoded.

    The size that a decoder allocates comes from the header: without this look a file of 274 KB takes 17 GB of memory.
    Layout: PNG specification, section 5.2 (signature) and 11.2.1 (IHDR).
    """
    height, width = features.IMAGE_SHAPE
    expected = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBB", 13, b"IHDR", width, height, 8, 0)
    most_bytes = _EXTRA_PNG_BYTES + 2 * height * width
    wrong = tf.logical_or(
        tf.not_equal(tf.strings.substr(image_bytes, 0, _HEADER_BYTES), expected),
        tf.greater(tf.strings.length(image_bytes), most_bytes),
    )

    def refuse() -> tf.Operation:
        first = tf.argmax(tf.cast(wrong, tf.int32), output_type=tf.int32)
        message = tf.strings.join(
            [
                f"{features.IMAGE_BYTES_INPUT} takes PNG files of {width}x{height} pixels, 8-bit greyscale, of at most "
                f"{most_bytes} bytes, but number ",
                tf.strings.as_string(first),
                " (from 0) is ",
                _describe(image_bytes[first], expected),
                "; convert it before sending it",
            ]
        )
        return tf.debugging.Assert(False, [message])

    return tf.cond(tf.reduce_any(wrong), lambda: _always(refuse()), lambda: tf.constant(True)).op


def _always(operation: tf.Operation | None) -> tf.Tensor:
    with tf.control_dependencies([operation] if operation is not None else []):
        return tf.constant(True)


def _describe(data: tf.Tensor, expected: bytes) -> tf.Tensor:
    """One file, in words: what its header says, or that it is no PNG file."""
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 0, _HEADER_BYTES), tf.uint8, fixed_length=26), tf.int64)
    big_endian = tf.constant([2**24, 2**16, 2**8, 1], tf.int64)
    width, height = (tf.reduce_sum(header[start : start + 4] * big_endian) for start in (16, 20))
    names = tf.constant([_COLOUR_TYPES.get(value, f"of unknown colour type {value}") for value in range(256)])
    length = tf.strings.as_string(tf.strings.length(data))
    as_png = tf.strings.join(
        [
            "a PNG of ",
            tf.strings.as_string(width),
            "x",
            tf.strings.as_string(height),
            " pixels, ",
            tf.strings.as_string(header[24]),
            "-bit ",
            tf.gather(names, header[25]),
            ", of ",
            length,
            " bytes",
        ]
    )
    # Magic, length and name of the first chunk.
    is_png = tf.equal(tf.strings.substr(data, 0, 16), expected[:16])
    return tf.where(is_png, as_png, tf.strings.join(["no PNG file (", length, " bytes)"]))


def _refuse_none(image: tf.Tensor) -> tf.Operation:
    return tf.debugging.Assert(tf.size(image) > 0, ["a request must hold at least one image, but holds none"])


def _refuse_other_shape(pixels: tf.Tensor) -> tf.Operation:
    """Looks at the shape once more when the graph runs: a server does not hold a request against the signature's."""
    height, width = features.IMAGE_SHAPE
    shape = tf.shape(pixels)
    message = tf.strings.format(
        f"{features.PIXELS_INPUT} takes images of {height} rows of {width} pixels, uint8 [n, {height}, {width}], but "
        "received the shape {}; resize the images before sending them",
        shape,
    )
    return tf.debugging.Assert(tf.reduce_all(tf.equal(shape[1:], features.IMAGE_SHAPE)), [message])


def _refuse_other_length(image: tf.Tensor) -> tf.Operation:
    height, width = features.IMAGE_SHAPE
    lengths = tf.strings.length(image)
    wrong = tf.not_equal(lengths, height * width)
    message = tf.strings.format(
        f"the feature {features.IMAGE} must hold {height * width} bytes ({height} rows of {width} pixels), but the "
        "examples of this request hold {}; write them as ingest does",
        lengths,
        summarize=3,
    )
    return tf.debugging.Assert(tf.logical_not(tf.reduce_any(wrong)), [message])
