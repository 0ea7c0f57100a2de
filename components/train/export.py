# SPDX-License-Identifier: Apache-2.0
"""The exported model: three signatures, each with an input check, then one transform graph and one network.

The checks are part of the graph, so they protect any server. They raise InvalidArgumentError with the rule, the value
received and the way out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from components import features
from components.train.data import TransformGraph

# A PNG may be as large as its pixels uncompressed, twice, plus this much for text and colour-profile chunks.
_EXTRA_PNG_BYTES = 16 * 1024
_HEADER_BYTES = 26
_COLOUR_TYPES = {0: "greyscale", 2: "colour", 3: "palette", 4: "greyscale with alpha", 6: "colour with alpha"}


def export(network: keras.Model, transform: TransformGraph, folder: str) -> None:
    """Writes a SavedModel with the signatures of `features`; loading it requires TensorFlow only.

    Args:
        network: float32 [n, height, width, 1] -> probabilities float32 [n, classes].
        transform: string [n] of image bytes -> the input of `network`.
        folder: created by this function.
    """
    module = ServingModel(network, transform)
    signatures = {
        features.SIGNATURE_BYTES: module.from_png.get_concrete_function(),
        features.SIGNATURE_PIXELS: module.from_pixels.get_concrete_function(),
        features.SIGNATURE_EXAMPLES: module.from_examples.get_concrete_function(),
    }
    tf.saved_model.save(module, folder, signatures=signatures)


def _function(spec: tf.TensorSpec) -> Callable[[Callable[..., Any]], Any]:
    """Decorates a method as a tf.function of one tensor, without AutoGraph, which would take longer than the rest."""
    return tf.function(input_signature=[spec], autograph=False)


class ServingModel(tf.Module):
    """The functions of the three signatures; all of them convert their input to image bytes for the transform graph."""

    def __init__(self, network: keras.Model, transform: TransformGraph):
        super().__init__(name="serving")
        self._transform = transform
        # A tracked Keras model would be traced and saved a second time, in Keras's format.
        self._predict = _untracked(network)
        self._weights = [variable.value for variable in network.variables]

    @_function(tf.TensorSpec([None], tf.string, name=features.IMAGE_BYTES_INPUT))
    def from_png(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Predicts from PNG files, 8-bit greyscale, height x width; string [n]."""
        with tf.control_dependencies([_check_png(image_bytes)]):
            checked = tf.identity(image_bytes)
        pixels = tf.map_fn(_decode_png, checked, fn_output_signature=tf.TensorSpec(features.IMAGE_SHAPE, tf.uint8))
        return self._classify(_to_bytes(pixels))

    @_function(tf.TensorSpec([None, *features.IMAGE_SHAPE], tf.uint8, name=features.PIXELS_INPUT))
    def from_pixels(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Predicts from decoded images; uint8 [n, height, width]."""
        with tf.control_dependencies([_check_shape(pixels)]):
            return self._classify(_to_bytes(tf.identity(pixels)))

    @_function(tf.TensorSpec([None], tf.string, name=features.EXAMPLES_INPUT))
    def from_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Predicts from serialized tf.Examples with the feature `image`, as ingest writes them; string [n]."""
        image = tf.io.parse_example(examples, {features.IMAGE: tf.io.FixedLenFeature([], tf.string)})[features.IMAGE]
        with tf.control_dependencies([_check_length(image)]):
            return self._classify(tf.identity(image))

    def _classify(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([_check_not_empty(image)]):
            image = tf.identity(image)
        probabilities = self._predict(self._transform(image))
        return {
            features.CLASS_OUTPUT: tf.argmax(probabilities, axis=-1, output_type=tf.int64),
            features.PROBABILITIES_OUTPUT: tf.cast(probabilities, tf.float32),
        }


def _untracked(network: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda images: network(images, training=False)


def _decode_png(data: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.io.decode_png(data, channels=1, dtype=tf.uint8)[:, :, 0], features.IMAGE_SHAPE)


def _to_bytes(pixels: tf.Tensor) -> tf.Tensor:
    """Converts uint8 [n, height, width] to string [n] of height * width bytes.

    TensorFlow has no inverse of decode_raw. Joining one-byte strings takes about 30 microseconds per image.
    """
    height, width = features.IMAGE_SHAPE
    rows = tf.reshape(pixels, [tf.shape(pixels)[0], height * width])
    table = tf.constant([bytes([value]) for value in range(256)])
    return tf.strings.reduce_join(tf.gather(table, tf.cast(rows, tf.int32)), axis=1)


def _check_png(image_bytes: tf.Tensor) -> tf.Operation:
    """Checks the first 26 bytes and the length of each file before any is decoded.

    A decoder allocates the size that the header states: without this check a file of 274 KB takes 17 GB of memory.
    Layout: PNG specification, sections 5.2 (signature) and 11.2.1 (IHDR).
    """
    height, width = features.IMAGE_SHAPE
    expected = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBB", 13, b"IHDR", width, height, 8, 0)
    max_bytes = _EXTRA_PNG_BYTES + 2 * height * width
    invalid = tf.logical_or(
        tf.not_equal(tf.strings.substr(image_bytes, 0, _HEADER_BYTES), expected),
        tf.greater(tf.strings.length(image_bytes), max_bytes),
    )

    def reject() -> tf.Operation:
        first = tf.argmax(tf.cast(invalid, tf.int32), output_type=tf.int32)
        message = tf.strings.join(
            [
                f"{features.IMAGE_BYTES_INPUT} takes PNG files of {width}x{height} pixels, 8-bit greyscale, of at most "
                f"{max_bytes} bytes, but number ",
                tf.strings.as_string(first),
                " (from 0) is ",
                _describe(image_bytes[first], expected),
                "; convert it before sending it",
            ]
        )
        return tf.debugging.Assert(False, [message])

    return tf.cond(tf.reduce_any(invalid), lambda: _true_after(reject()), lambda: tf.constant(True)).op


def _true_after(operation: tf.Operation | None) -> tf.Tensor:
    with tf.control_dependencies([operation] if operation is not None else []):
        return tf.constant(True)


def _describe(data: tf.Tensor, expected: bytes) -> tf.Tensor:
    """Describes a file for an error message: the format that its PNG header states, or that it is no PNG file."""
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 0, _HEADER_BYTES), tf.uint8, fixed_length=26), tf.int64)
    big_endian = tf.constant([2**24, 2**16, 2**8, 1], tf.int64)
    width, height = (tf.reduce_sum(header[start : start + 4] * big_endian) for start in (16, 20))
    names = tf.constant([_COLOUR_TYPES.get(value, f"of unknown colour type {value}") for value in range(256)])
    length = tf.strings.as_string(tf.strings.length(data))
    description = tf.strings.join(
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
    return tf.where(is_png, description, tf.strings.join(["no PNG file (", length, " bytes)"]))


def _check_not_empty(image: tf.Tensor) -> tf.Operation:
    return tf.debugging.Assert(tf.size(image) > 0, ["a request must hold at least one image, but holds none"])


def _check_shape(pixels: tf.Tensor) -> tf.Operation:
    """Checks the shape when the graph runs: servers do not compare a request with the signature."""
    height, width = features.IMAGE_SHAPE
    shape = tf.shape(pixels)
    message = tf.strings.format(
        f"{features.PIXELS_INPUT} takes images of {height} rows of {width} pixels, uint8 [n, {height}, {width}], but "
        "received the shape {}; resize the images before sending them",
        shape,
    )
    return tf.debugging.Assert(tf.reduce_all(tf.equal(shape[1:], features.IMAGE_SHAPE)), [message])


def _check_length(image: tf.Tensor) -> tf.Operation:
    height, width = features.IMAGE_SHAPE
    lengths = tf.strings.length(image)
    invalid = tf.not_equal(lengths, height * width)
    message = tf.strings.format(
        f"the feature {features.IMAGE} must hold {height * width} bytes ({height} rows of {width} pixels), but the "
        "examples of this request hold {}; write them as ingest does",
        lengths,
        summarize=3,
    )
    return tf.debugging.Assert(tf.logical_not(tf.reduce_any(invalid)), [message])
