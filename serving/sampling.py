# SPDX-License-Identifier: Apache-2.0
"""Samples requests, as TFRecords of tf.Examples, for `python -m serving.drift`.

An example has the scalars that ingest computes of a training image, so that the two can be compared, the predicted
class as `label`, and the version. It has the image itself only with `with_images`.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import logging
import os
import pathlib
import queue
import random
import threading
import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components import features
from components.errors import BadInput
from components.ingest import encode
from serving.models import LoadedModel, Signature
from serving.tensors import Arrays

CONFIDENCE, VERSION, SERVED_AT = "confidence", "version", "served_at"
SUFFIX = ".tfrecord"
_MAX_QUEUE = 1024  # requests; if the disk is too slow, samples are lost and not requests
_log = logging.getLogger("serving")


class _Batch(NamedTuple):
    """The sampled images of one request, and their predictions."""

    version: int
    signature: str
    inputs: list[Any]
    labels: npt.NDArray[np.int64]
    confidences: npt.NDArray[np.float32]
    image_shape: tuple[int, int]


class Sampler:
    """Writes samples to a folder.

    Args:
        folder: created if missing; each server writes a file of its own.
        share: of the images, 0 to 1.
        max_bytes: of all samples in the folder.
        with_images: stores the images too.

    Raises:
        BadInput: the folder cannot be written to.
    """

    def __init__(self, folder: pathlib.Path, share: float, max_bytes: int, with_images: bool = False):
        self._share, self._max_bytes, self._with_images = share, max_bytes, with_images
        self._random = random.Random()
        self._queue: queue.Queue[_Batch | None] = queue.Queue(_MAX_QUEUE)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._bytes = sum(path.stat().st_size for path in folder.glob(f"*{SUFFIX}"))
            now = datetime.datetime.now(datetime.UTC)
            self._path = folder / f"samples-{now:%Y%m%dT%H%M%S%f}-{os.getpid()}{SUFFIX}"
            self._path.touch()
        except OSError as error:
            raise BadInput(f"--sample-dir takes a folder to write to; {folder}: {error.strerror}") from None
        self._thread = threading.Thread(target=self._write_batches, name="samples", daemon=True)
        self._thread.start()

    def offer(self, model: LoadedModel, signature: Signature, inputs: Arrays, outputs: Arrays) -> None:
        """Samples the images of a request."""
        if features.CLASS_OUTPUT not in outputs or features.PROBABILITIES_OUTPUT not in outputs:
            return
        ((_, array),) = inputs.items()
        indices = [row for row in range(len(array)) if self._random.random() < self._share]
        if not indices:
            return
        batch = _Batch(
            model.number,
            signature.name,
            [array[row] for row in indices],
            outputs[features.CLASS_OUTPUT][indices],
            outputs[features.PROBABILITIES_OUTPUT][indices].max(axis=1),
            model.image_shape,
        )
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(batch)

    def close(self) -> None:
        """Writes the queue and closes the file."""
        self._queue.put(None)
        self._thread.join()

    def _write_batches(self) -> None:
        import tensorflow as tf

        with tf.io.TFRecordWriter(str(self._path)) as writer:
            while (batch := self._queue.get()) is not None:
                if self._bytes >= self._max_bytes:
                    continue
                try:
                    for record in self._examples(batch):
                        writer.write(record)
                        self._bytes += len(record) + 16  # a record's lengths and checksums
                    if self._queue.empty():
                        writer.flush()
                except Exception as error:  # a bad sample or a full disk must not stop the server
                    _log.error("a sample is lost: %s", error)
                if self._bytes >= self._max_bytes:
                    _log.warning("samples have reached %s bytes: no more are written", self._max_bytes)

    def _examples(self, batch: _Batch) -> list[bytes]:
        import tensorflow as tf

        images = np.stack([_pixels(batch.signature, value, batch.image_shape) for value in batch.inputs])
        columns = encode.scalars(images)
        height, width = batch.image_shape
        now = int(time.time())

        def int64(value: int) -> Any:
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

        def float32(value: float) -> Any:
            return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))

        records = []
        for row in range(len(images)):
            feature = {
                features.LABEL: int64(int(batch.labels[row])),
                features.HEIGHT: int64(height),
                features.WIDTH: int64(width),
                CONFIDENCE: float32(float(batch.confidences[row])),
                VERSION: int64(batch.version),
                SERVED_AT: int64(now),
                **{name: float32(float(column[row])) for name, column in columns.items()},
            }
            if self._with_images:
                value = tf.train.BytesList(value=[images[row].tobytes()])
                feature[features.IMAGE] = tf.train.Feature(bytes_list=value)
            records.append(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
        return records


def _pixels(signature: str, value: Any, image_shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Returns the pixels of one image of a request, uint8 [height, width]."""
    if signature == features.SIGNATURE_BYTES:
        from PIL import Image

        with Image.open(io.BytesIO(value), formats=("PNG",)) as image:
            return np.asarray(image)
    if signature == features.SIGNATURE_EXAMPLES:
        import tensorflow as tf

        feature = tf.train.Example.FromString(value).features.feature
        return np.frombuffer(feature[features.IMAGE].bytes_list.value[0], np.uint8).reshape(image_shape)
    return np.asarray(value)
