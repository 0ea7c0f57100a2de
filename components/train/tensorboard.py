# SPDX-License-Identifier: Apache-2.0
"""TensorBoard logs: curves and graph by Keras's callback, hyperparameters, and pictures of the errors on val."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image, ImageDraw
from tensorboard.plugins.hparams import api as hparams

from components import features
from components.train.callbacks import EpochValidation
from components.train.hyperparameters import Hyperparameters

_MAX_ERRORS = 32  # images in the gallery


class StepCurves(keras.callbacks.TensorBoard):
    """Keras's callback without its work per batch, a millisecond that writes nothing when curves are per epoch."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch)


class TensorBoardLogs(keras.callbacks.Callback):
    """Writes the hyperparameters, and after each epoch pictures of the predictions on val.

    Tags:
        `val/confusion_matrix`: rows are the true classes.
        `val/mistakes`: the misclassified images with the least probability of their true class, each with true class,
            predicted class and its probability in percent.
    """

    def __init__(self, log_folder: str, validation: EpochValidation, hyperparameters: Hyperparameters):
        """Opens the log folder; `validation` must come before it among the callbacks."""
        super().__init__()
        self._validation = validation
        self._hyperparameters = {
            name: value for name, value in hyperparameters.to_config().items() if value is not None
        }
        self._writer = tf.summary.create_file_writer(log_folder)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        with self._writer.as_default():
            hparams.hparams_config(
                hparams=[hparams.HParam(name) for name in self._hyperparameters],
                metrics=[
                    hparams.Metric("epoch_accuracy", group="validation", display_name="accuracy on val"),
                    hparams.Metric("epoch_loss", group="validation", display_name="loss on val"),
                ],
            )
            hparams.hparams(self._hyperparameters)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        probabilities, labels = self._validation.probabilities, self._validation.val.labels
        predictions = probabilities.argmax(axis=1)
        valid = np.flatnonzero((labels >= 0) & (labels < len(features.CLASSES)))
        matrix = np.zeros((len(features.CLASSES), len(features.CLASSES)), np.int64)
        np.add.at(matrix, (labels[valid], predictions[valid]), 1)
        errors = valid[predictions[valid] != labels[valid]]
        errors = errors[np.argsort(probabilities[errors, labels[errors]], kind="stable")][:_MAX_ERRORS]
        with self._writer.as_default(step=epoch):
            tf.summary.image("val/confusion_matrix", draw_confusion_matrix(matrix, features.CLASSES)[None])
            if len(errors):
                captions = [
                    f"{features.CLASSES[labels[row]]} as {features.CLASSES[predictions[row]]}, "
                    f"{100 * probabilities[row, predictions[row]]:.0f}%"
                    for row in errors
                ]
                tf.summary.image("val/mistakes", draw_gallery(self._validation.val.images[errors], captions)[None])
        self._writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._writer.close()


_CELL = 34  # pixels; fits a count of four digits
_COLUMNS = 8
_SIDE, _CAPTION, _GAP = 64, 14, 12  # pixels of a gallery image, of its caption, and between images
_BLUE, _RED, _WHITE, _BLACK, _GREY = (59, 125, 216), (217, 66, 54), (255, 255, 255), (0, 0, 0), (120, 120, 120)


def draw_confusion_matrix(matrix: npt.NDArray[np.int64], names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Draws a confusion matrix, correct predictions in blue, errors in red with a scale of their own.

    Args:
        matrix: counts [true class, predicted class].
        names: of the classes.

    Returns:
        RGB, uint8 [height, width, 3].
    """
    errors = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    max_correct, max_errors = max(int(np.diag(matrix).max()), 1), max(int(errors.max()), 1)
    side = _CELL * (len(names) + 1)
    picture = Image.new("RGB", (side, side), _WHITE)
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(names):
        y = _CELL * (row + 1)
        _draw_text(draw, (y, 0), name, _GREY)
        _draw_text(draw, (0, y), name, _GREY)
        for column, count in enumerate(matrix[row].tolist()):
            max_count, color = (max_correct, _BLUE) if column == row else (max_errors, _RED)
            corner = (_CELL * (column + 1), y)
            if count:
                shade = _mix_with_white(color, 0.15 + 0.85 * count / max_count)
                draw.rectangle((*corner, corner[0] + _CELL - 2, corner[1] + _CELL - 2), fill=shade)
                _draw_text(draw, corner, str(count), _WHITE if count > 0.6 * max_count else _BLACK)
    return np.asarray(picture)


def draw_gallery(images: npt.NDArray[np.floating], captions: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Draws images in rows, each with a caption below.

    Args:
        images: [n, height, width, 1] in [0, 1]; n is 1 or more.
        captions: one for each image.

    Returns:
        RGB, uint8 [height, width, 3].
    """
    rows = -(-len(images) // _COLUMNS)
    picture = Image.new("RGB", (_COLUMNS * (_SIDE + _GAP), rows * (_SIDE + _CAPTION)), _WHITE)
    draw = ImageDraw.Draw(picture)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = (index % _COLUMNS) * (_SIDE + _GAP), (index // _COLUMNS) * (_SIDE + _CAPTION)
        pixels = (np.clip(image[..., 0], 0.0, 1.0) * 255).round().astype(np.uint8)
        picture.paste(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (x, y))
        draw.text((x + 2, y + _SIDE + 1), caption, fill=_BLACK)
    return np.asarray(picture)


def _draw_text(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, color: tuple[int, int, int]) -> None:
    draw.text((corner[0] + _CELL / 2, corner[1] + _CELL / 2), text[:5], fill=color, anchor="mm")


def _mix_with_white(color: tuple[int, int, int], strength: float) -> tuple[int, ...]:
    return tuple(round(255 + strength * (channel - 255)) for channel in color)
