# SPDX-License-Identifier: Apache-2.0
"""The exported model: its predictions, and the requests that it refuses."""

from __future__ import annotations

import os
import pathlib
import struct
import subprocess
import sys
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from components import features
from tests.transform import stages


@pytest.fixture(scope="module")
def loaded(trained):
    return tf.saved_model.load(str(pathlib.Path(trained["model"].uri) / "Format-Serving"))


@pytest.fixture(scope="module")
def signatures(loaded):
    return loaded.signatures


@pytest.fixture(scope="module")
def images(inputs):
    return inputs.splits[features.VAL][0][:20]


def encode_png(image):
    return tf.io.encode_png(image[..., None]).numpy()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def build_png(width, height, depth, colour_type, raw):
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


BLANK = np.zeros((28, 28), np.uint8)
BAD_PNGS = {
    "56x56": (encode_png(np.zeros((56, 56), np.uint8)), "is a PNG of 56x56 pixels, 8-bit greyscale"),
    "14x56": (encode_png(np.zeros((14, 56), np.uint8)), "is a PNG of 56x14 pixels"),
    "jpeg": (tf.io.encode_jpeg(BLANK[..., None]).numpy(), "is no PNG file"),
    "gif": (b"GIF89a" + bytes(800), "is no PNG file"),
    "16-bit": (tf.io.encode_png(np.zeros((28, 28, 1), np.uint16)).numpy(), "16-bit greyscale"),
    "colour": (tf.io.encode_png(np.zeros((28, 28, 3), np.uint8)).numpy(), "8-bit colour"),
    "colour with alpha": (tf.io.encode_png(np.zeros((28, 28, 4), np.uint8)).numpy(), "8-bit colour with alpha"),
    "greyscale with alpha": (tf.io.encode_png(np.zeros((28, 28, 2), np.uint8)).numpy(), "greyscale with alpha"),
    "palette": (build_png(28, 28, 8, 3, bytes(29 * 28)), "8-bit palette"),
    "1-bit": (build_png(28, 28, 1, 0, bytes(5 * 28)), "1-bit greyscale"),
    "bomb": (build_png(60_000, 60_000, 8, 0, bytes(60_001 * 2000)), "is a PNG of 60000x60000 pixels"),
    "too long": (encode_png(BLANK) + bytes(20_000), "of at most 17952 bytes, but number 1 (from 0)"),
    "empty": (b"", "is no PNG file (0 bytes)"),
    "header cut off": (encode_png(BLANK)[:20], "of 20 bytes"),
    "pixels cut off": (encode_png(BLANK)[:-30], "Invalid PNG"),
    "garbage after the magic": (encode_png(BLANK)[:8] + b"x" * 100, "is no PNG file"),
    "wrong checksum": (encode_png(BLANK)[:45] + b"\xff" + encode_png(BLANK)[46:], "Invalid PNG"),
    "raw pixels": (BLANK.tobytes(), "is no PNG file (784 bytes)"),
}


def test_names_shapes_and_types_of_the_signatures(signatures):
    inputs = {
        features.SIGNATURE_BYTES: (features.IMAGE_BYTES_INPUT, (None,), tf.string),
        features.SIGNATURE_PIXELS: (features.PIXELS_INPUT, (None, 28, 28), tf.uint8),
        features.SIGNATURE_EXAMPLES: (features.EXAMPLES_INPUT, (None,), tf.string),
    }
    assert set(signatures) == set(inputs)
    for name, (key, shape, dtype) in inputs.items():
        ((input_name, spec),) = signatures[name].structured_input_signature[1].items()
        assert (input_name, spec.dtype, tuple(spec.shape)) == (key, dtype, shape)
        outputs = signatures[name].structured_outputs
        assert outputs[features.CLASS_OUTPUT].dtype == tf.int64
        assert outputs[features.PROBABILITIES_OUTPUT].dtype == tf.float32
        assert tuple(outputs[features.PROBABILITIES_OUTPUT].shape) == (None, 10)


def test_all_signatures_and_the_keras_model_agree(signatures, trained, images):
    by_png = signatures[features.SIGNATURE_BYTES](image_bytes=tf.constant([encode_png(image) for image in images]))
    by_pixels = signatures[features.SIGNATURE_PIXELS](pixels=tf.constant(images))
    by_example = signatures[features.SIGNATURE_EXAMPLES](
        examples=tf.constant([stages.serialized_example(image.tobytes(), 0) for image in images])
    )
    network = keras.saving.load_model(pathlib.Path(trained["model"].uri) / "keras" / "model.keras")
    expected = network.predict(images[..., None] / np.float32(255), verbose=0)
    for outputs in (by_png, by_pixels, by_example):
        np.testing.assert_allclose(outputs[features.PROBABILITIES_OUTPUT], expected, atol=1e-6)
        np.testing.assert_array_equal(outputs[features.CLASS_OUTPUT], expected.argmax(axis=1))
    assert len(set(expected.argmax(axis=1))) > 5


def test_every_pixel_value_is_preserved(signatures):
    ramp = np.resize(np.arange(256, dtype=np.uint8), (1, 28, 28))
    by_pixels = signatures[features.SIGNATURE_PIXELS](pixels=tf.constant(ramp))
    by_example = signatures[features.SIGNATURE_EXAMPLES](examples=[stages.serialized_example(ramp.tobytes(), 0)])
    np.testing.assert_array_equal(by_pixels["probabilities"], by_example["probabilities"])


@pytest.mark.parametrize("name", BAD_PNGS)
def test_other_files_are_refused_with_a_description(signatures, name):
    blob, message = BAD_PNGS[name]
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        signatures[features.SIGNATURE_BYTES](image_bytes=tf.constant([encode_png(BLANK), blob]))
    assert message in str(error.value)


def test_an_error_has_the_rule_and_the_way_out(signatures):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        signatures[features.SIGNATURE_BYTES](image_bytes=tf.constant([BAD_PNGS["56x56"][0]]))
    assert "image_bytes takes PNG files of 28x28 pixels, 8-bit greyscale, of at most 17952 bytes" in str(error.value)
    assert "number 0 (from 0)" in str(error.value)
    assert "convert it before sending it" in str(error.value)


def test_a_valid_request_after_an_invalid_one_succeeds(signatures):
    with pytest.raises(tf.errors.InvalidArgumentError):
        signatures[features.SIGNATURE_BYTES](image_bytes=tf.constant([b""]))
    assert signatures[features.SIGNATURE_BYTES](image_bytes=tf.constant([encode_png(BLANK)]))["classes"].shape == (1,)


def run_like_a_server(folder, signature, value):
    """Runs a signature like a C++ server, without the checks of TensorFlow's Python code."""
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(folder)).signature_def[signature]
        (tensor,) = meta.inputs.values()
        feeds = {graph.get_tensor_by_name(tensor.name)._as_tf_output(): value}
        fetch = graph.get_tensor_by_name(meta.outputs[features.CLASS_OUTPUT].name)._as_tf_output()
        return session._call_tf_sessionrun(None, feeds, [fetch], [], None)[0]


@pytest.mark.parametrize("shape", [(1, 56, 56), (1, 14, 56), (4, 14, 14), (28, 28), (1, 28, 28, 1)])
def test_other_shapes_are_refused(trained, signatures, shape):
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
        signatures[features.SIGNATURE_PIXELS](pixels=tf.zeros(shape, tf.uint8))
    folder = pathlib.Path(trained["model"].uri) / "Format-Serving"
    assert run_like_a_server(folder, features.SIGNATURE_PIXELS, np.zeros((1, 28, 28), np.uint8)).shape == (1,)
    with pytest.raises(tf.errors.InvalidArgumentError):
        run_like_a_server(folder, features.SIGNATURE_PIXELS, np.zeros(shape, np.uint8))


@pytest.mark.parametrize("sizes", [[784, 3136], [0], [783], [3136]])
def test_an_example_with_another_number_of_bytes_is_refused(signatures, sizes):
    examples = [stages.serialized_example(bytes(size), 0) for size in sizes]
    with pytest.raises(tf.errors.InvalidArgumentError, match="must hold 784 bytes"):
        signatures[features.SIGNATURE_EXAMPLES](examples=tf.constant(examples))


@pytest.mark.parametrize("blob", [b"", b"no example"])
def test_invalid_examples_are_refused(signatures, blob):
    with pytest.raises(tf.errors.InvalidArgumentError):
        signatures[features.SIGNATURE_EXAMPLES](examples=tf.constant([blob]))


@pytest.mark.parametrize("name", [features.SIGNATURE_BYTES, features.SIGNATURE_PIXELS, features.SIGNATURE_EXAMPLES])
def test_an_empty_request_is_refused(signatures, name):
    (key,) = signatures[name].structured_input_signature[1]
    empty = tf.zeros([0, 28, 28], tf.uint8) if name == features.SIGNATURE_PIXELS else tf.constant([], tf.string)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least one image"):
        signatures[name](**{key: empty})


TENSORFLOW_ONLY = """
import resource, sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
png, bomb = (tf.io.read_file(path)[tf.newaxis] for path in sys.argv[2:])
print(model.signatures["serving_default"](image_bytes=png)["classes"].numpy().tolist())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    model.signatures["serving_default"](image_bytes=bomb)
except tf.errors.InvalidArgumentError:
    print("refused", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024 < 20)
print([name for name in sys.modules if name.split(".")[0] in ("tensorflow_transform", "tf_keras", "tfx", "components")])
"""


def test_a_process_with_tensorflow_only(trained, signatures, images, tmp_path):
    (tmp_path / "a.png").write_bytes(encode_png(images[0]))
    (tmp_path / "bomb.png").write_bytes(BAD_PNGS["bomb"][0])
    folder = str(pathlib.Path(trained["model"].uri) / "Format-Serving")
    output = subprocess.run(
        [sys.executable, "-c", TENSORFLOW_ONLY, folder, "a.png", "bomb.png"],
        cwd=tmp_path,
        # tf.Transform sets it when it is imported, and then TensorFlow imports Keras 2.
        env={name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    expected = signatures[features.SIGNATURE_PIXELS](pixels=tf.constant(images[:1]))["classes"].numpy().tolist()
    assert output == [str(expected), "refused True", "[]"]
