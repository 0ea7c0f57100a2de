# SPDX-License-Identifier: Apache-2.0
"""The infrastructure gate: the exported model runs with nothing but TensorFlow and computes what was trained.

A fresh process loads the model and serves golden requests through every signature. Its predictions are compared with
those in training: the same test images through tf.Transform's graph and the Keras model.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from components import datasets, features
from components.evaluate import golden
from components.evaluate.limits import InfraLimits
from components.findings import GateResult

_IMAGES = 64
_TIMEOUT = 300.0


def check(model: pathlib.Path, transform_graph: str, split_folder: str, limits: InfraLimits) -> Iterator[GateResult]:
    """Checks an exported model.

    Args:
        model: folder of a Model artifact: Format-Serving/ and keras/model.keras.
        transform_graph: folder of the TransformGraph artifact that it was trained with.
        split_folder: folder with TFRecords, for the images.
        limits: of the infrastructure gate.

    Yields:
        One result for each limit; only the first if the model returns no predictions.
    """
    serialized = np.array(list(itertools.islice(_records(split_folder), _IMAGES)), dtype=object)
    with futures.ThreadPoolExecutor(1) as pool:
        trained = pool.submit(_trained_probabilities, model / "keras" / "model.keras", transform_graph, serialized)
        predictions, failure = _predict(model / "Format-Serving", serialized)
    yield GateResult(
        "infra-predictions",
        None,
        None,
        not failure,
        failure
        or f"a fresh process served {len(serialized)} golden requests through each of {len(predictions)} signatures",
    )
    if failure:
        return
    slowest = max(predictions, key=lambda name: statistics.median(predictions[name]["seconds"]))
    latency = 1000 * statistics.median(predictions[slowest]["seconds"])
    reason = f"one image through {slowest} takes {latency:.1f} ms (median of {golden.SINGLE_REQUESTS}), the limit is"
    reason += f" {limits.latency_ms:g} ms"
    if latency > limits.latency_ms:
        reason += f", exceeded by {latency - limits.latency_ms:.1f} ms: take a smaller network, or raise the limit"
    yield GateResult("infra-latency", latency, limits.latency_ms, latency <= limits.latency_ms, reason)

    expected = trained.result()
    differences = {
        name: float(np.max(np.abs(np.array(outputs[features.PROBABILITIES_OUTPUT]) - expected)))
        for name, outputs in predictions.items()
    }
    worst = max(differences, key=lambda name: differences[name])
    passed = differences[worst] <= limits.difference
    reason = (
        f"the largest difference of a probability between training and the signature {worst} is "
        f"{differences[worst]:.2g}, the limit is {limits.difference:g}"
    )
    if not passed:
        times = differences[worst] / limits.difference
        reason += f", {times:.3g} times as much: the exported model does not compute what was trained"
    yield GateResult("training-serving-skew", differences[worst], limits.difference, passed, reason)


def _predict(saved_model: pathlib.Path, serialized: np.ndarray) -> tuple[dict[str, Any], str]:
    """Runs every signature in a process of its own; returns the predictions, and the failure or ""."""
    requests = _requests(serialized)
    with tempfile.TemporaryDirectory() as folder:
        for name, tensor in requests.items():
            (pathlib.Path(folder) / f"{name}.tensor").write_bytes(tf.io.serialize_tensor(tensor).numpy())
        output = pathlib.Path(folder) / "predictions.json"
        command = [sys.executable, str(golden.__file__), str(saved_model), folder, str(output)]
        env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
        try:
            process = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT, env=env, cwd=folder, check=False
            )
        except subprocess.TimeoutExpired:
            return {}, f"the exported model must run in a fresh process, but did not finish within {_TIMEOUT:g} s"
        if process.returncode:
            last = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            return {}, f"the exported model must load and run in a fresh process, but: {last[:300]}"
        predictions = json.loads(output.read_text(encoding="utf-8"))
    return predictions, next(_faults(predictions, len(serialized)), "")


def _faults(predictions: Mapping[str, Any], count: int) -> Iterator[str]:
    for name, outputs in predictions.items():
        probabilities = np.array(outputs[features.PROBABILITIES_OUTPUT])
        classes = np.array(outputs[features.CLASS_OUTPUT])
        expected = (count, len(features.CLASSES))
        if probabilities.shape != expected or classes.shape != (count,):
            yield f"{name} must return probabilities of shape {expected} and {count} classes, not {probabilities.shape}"
        elif not np.all(np.isfinite(probabilities)):
            yield f"{name} must return finite probabilities, but {int(np.sum(~np.isfinite(probabilities)))} are not"
        elif (error := float(np.max(np.abs(probabilities.sum(axis=1) - 1)))) > 1e-4:
            yield f"{name} must return probabilities that sum to 1, but a sum is off by {error:.2g}"
        elif not np.array_equal(classes, probabilities.argmax(axis=1)):
            yield f"{name} must return the class with the highest probability, and does not"


def _requests(serialized: np.ndarray) -> dict[str, tf.Tensor]:
    parsed = tf.io.parse_example(serialized.tolist(), {features.IMAGE: tf.io.FixedLenFeature([], tf.string)})
    pixels = tf.reshape(tf.io.decode_raw(parsed[features.IMAGE], tf.uint8), [-1, *features.IMAGE_SHAPE])
    return {
        features.SIGNATURE_EXAMPLES: tf.constant(serialized.tolist()),
        features.SIGNATURE_PIXELS: pixels,
        features.SIGNATURE_BYTES: tf.stack([tf.io.encode_png(image[:, :, None]) for image in pixels]),
    }


def _trained_probabilities(keras_file: pathlib.Path, transform_graph: str, serialized: np.ndarray) -> np.ndarray:
    """Computes probabilities by tf.Transform's own loader and the Keras model, float32 [n, classes]."""
    transform = tft.TFTransformOutput(transform_graph)
    raw = tf.io.parse_example(serialized.tolist(), transform.raw_feature_spec())
    images = transform.transform_raw_features(raw)[features.IMAGE]
    return np.asarray(keras.saving.load_model(keras_file, compile=False)(images, training=False))


def _records(split_folder: str) -> Iterator[bytes]:
    for record in datasets.records(datasets.files(split_folder)):
        yield record.numpy()
