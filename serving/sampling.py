# SPDX-License-Identifier: Apache-2.0
"""Samples what is served, as TFRecords of tf.Examples, for `python -m serving.drift`.

An example holds the same scalars that ingest computes of a training image, the predicted class under `label`, so that
the two can be compared, and the version that answered. The image itself is kept only when that is asked for.
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
from serving.savedmodel import Arrays, SavedModel, Signature

CONFIDENCE, VERSION, SERVED_AT = "confidence", "version", "served_at"
SUFFIX = ".tfrecord"
_WAITING = 1024  # requests; when the disk cannot follow, samples are lost and not requests
_log = logging.getLogger("serving")


class _Request(NamedTuple):
    version: int
    signature: str
    inputs: list[Any]
    labels: npt.NDArray[np.int64]
    confidences: npt.NDArray[np.float32]
    image_shape: tuple[int, int]


class FileSampler:
    """Writes samples into a folder.

    Args:
        folder: is made; each server writes files of its own in it.
        share: of the images that are answered, 0 to 1.
        max_bytes: that all samples in the folder may have.
        with_images: whether the images are kept too.

    Raises:
        BadInput: the folder cannot be written to.
    """

    def __init__(self, folder: pathlib.Path, share: float, max_bytes: int, with_images: bool = False):
        self._share, self._max_bytes, self._with_images = share, max_bytes, with_images
        self._random = random.Random()
        self._queue: queue.Queue[_Request | None] = queue.Queue(_WAITING)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._written = sum(path.stat().st_size for path in folder.glob(f"*{SUFFIX}"))
            now = datetime.datetime.now(datetime.UTC)
            self._path = folder / f"samples-{now:%Y%m%dT%H%M%S%f}-{os.getpid()}{SUFFIX}"
            self._path.touch()
        except OSError as error:
            raise BadInput(f"--sample-dir takes a folder to write to; {folder} is none: {error.strerror}") from None
        self._thread = threading.Thread(target=self._work, name="samples", daemon=True)
        self._thread.start()

    def offer(self, model: SavedModel, signature: Signature, inputs: Arrays, outputs: Arrays) -> None:
        """Takes note of a share of the images of a request."""
        if features.CLASS_OUTPUT not in outputs or features.PROBABILITIES_OUTPUT not in outputs:
            return
        ((_, array),) = inputs.items()
        chosen = [row for row in range(len(array)) if self._random.random() < self._share]
        if not chosen:
            return
        request = _Request(
            model.number,
            signature.name,
            [array[row] for row in chosen],
            outputs[features.CLASS_OUTPUT][chosen],
            outputs[features.PROBABILITIES_OUTPUT][chosen].max(axis=1),
            model.image_shape(),
        )
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(request)

    def close(self) -> None:
        """Writes what waits and closes the file."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        import tensorflow as tf

        with tf.io.TFRecordWriter(str(self._path)) as writer:
            while (request := self._queue.get()) is not None:
                if self._written >= self._max_bytes:
                    continue
                try:
                    for record in self._examples(request):
                        writer.write(record)
                        self._written += len(record) + 16  # a record's lengths and checksums
                    if self._queue.empty():
                        writer.flush()
                except Exception as error:  # serving goes on, whatever a sample or the disk is like
                    _log.error("a sample is lost: %s", error)
                if self._written >= self._max_bytes:
                    _log.warning("samples have reached %s bytes: no more are taken", self._max_bytes)

    def _examples(self, request: _Request) -> list[bytes]:
        import tensorflow as tf

        images = np.stack([_pixels(request.signature, one, request.image_shape) for one in request.inputs])
        columns = encode.scalars(images)
        height, width = request.image_shape
        now = int(time.time())

        def whole(value: int) -> Any:
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

        def real(value: float) -> Any:
            return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))

        records = []
        for row in range(len(images)):
            feature = {
                features.LABEL: whole(int(request.labels[row])),
                features.HEIGHT: whole(height),
                features.WIDTH: whole(width),
                CONFIDENCE: real(float(request.confidences[row])),
                VERSION: whole(request.version),
                SERVED_AT: whole(now),
                **{name: real(float(column[row])) for name, column in columns.items()},
            }
            if self._with_images:
                value = tf.train.BytesList(value=[images[row].tobytes()])
                feature[features.IMAGE] = tf.train.Feature(bytes_list=value)
            records.append(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
        return records


def _pixels(signature: str, value: Any, image_shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The pixels of one image of a request that was answered, uint8 [height, width]."""
    if signature == features.SIGNATURE_BYTES:
        from PIL import Image

        with Image.open(io.BytesIO(value), formats=("PNG",)) as image:
            return np.asarray(image)
    if signature == features.SIGNATURE_EXAMPLES:
        import tensorflow as tf

        feature = tf.train.Example.FromString(value).features.feature
        return np.frombuffer(feature[features.IMAGE].bytes_list.value[0], np.uint8).reshape(image_shape)
    return np.asarray(value)
