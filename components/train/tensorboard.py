# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard shows: the curves and the graph, by Keras's own callback, and what is put beside them."""

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

_MISTAKES = 32  # images in the gallery


class StepCurves(keras.callbacks.TensorBoard):
    """Keras's own, which takes a millisecond for each batch to write nothing where it is to write once an epoch."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch)


class TensorBoardLogs(keras.callbacks.Callback):
    """Writes the hyperparameters, and after each epoch pictures of how the network does on val, from its answers there.

    Tags:
        `val/confusion_matrix`: rows are the true classes.
        `val/mistakes`: the images in whose true class the network believes least, each with class, answer and the
            probability of the answer in percent.
    """

    def __init__(self, log_folder: str, validation: EpochValidation, hyperparameters: Hyperparameters):
        """Prepares; `validation` must come before it among the callbacks."""
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
        answers = probabilities.argmax(axis=1)
        known = np.flatnonzero((labels >= 0) & (labels < len(features.CLASSES)))
        matrix = np.zeros((len(features.CLASSES), len(features.CLASSES)), np.int64)
        np.add.at(matrix, (labels[known], answers[known]), 1)
        wrong = known[answers[known] != labels[known]]
        wrong = wrong[np.argsort(probabilities[wrong, labels[wrong]], kind="stable")][:_MISTAKES]
        with self._writer.as_default(step=epoch):
            tf.summary.image("val/confusion_matrix", draw_confusion_matrix(matrix, features.CLASSES)[None])
            if len(wrong):
                captions = [
                    f"{features.CLASSES[labels[row]]} as {features.CLASSES[answers[row]]}, "
                    f"{100 * probabilities[row, answers[row]]:.0f}%"
                    for row in wrong
                ]
                tf.summary.image("val/mistakes", draw_gallery(self._validation.val.images[wrong], captions)[None])
        self._writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._writer.close()


_CELL = 34  # pixels; wide enough for a count of four digits
_COLUMNS = 8
_SIDE, _CAPTION, _GAP = 64, 14, 12  # pixels of an image in the gallery, the line below it, and between two
_BLUE, _RED, _WHITE, _BLACK, _GREY = (59, 125, 216), (217, 66, 54), (255, 255, 255), (0, 0, 0), (120, 120, 120)


def draw_confusion_matrix(matrix: npt.NDArray[np.int64], names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Draws a confusion matrix: rows are the true classes, right answers blue, wrong ones red on a scale of their own.

    Args:
        matrix: counts [class, answer].
        names: of the classes.

    Returns:
        RGB, uint8 [height, width, 3].
    """
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    most_right, most_wrong = max(int(np.diag(matrix).max()), 1), max(int(wrong.max()), 1)
    side = _CELL * (len(names) + 1)
    picture = Image.new("RGB", (side, side), _WHITE)
    draw = ImageDraw.Draw(picture)
    for index, name in enumerate(names):
        at = _CELL * (index + 1)
        _write(draw, (at, 0), name, _GREY)
        _write(draw, (0, at), name, _GREY)
        for column, count in enumerate(matrix[index].tolist()):
            most, color = (most_right, _BLUE) if column == index else (most_wrong, _RED)
            corner = (_CELL * (column + 1), at)
            if count:
                shade = _mixed(color, 0.15 + 0.85 * count / most)
                draw.rectangle((*corner, corner[0] + _CELL - 2, corner[1] + _CELL - 2), fill=shade)
                _write(draw, corner, str(count), _WHITE if count > 0.6 * most else _BLACK)
    return np.asarray(picture)


def draw_gallery(images: npt.NDArray[np.floating], captions: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Draws images side by side, each with a line below it.

    Args:
        images: [n, height, width, 1] in [0, 1]; n is 1 or more.
        captions: n of them.

    Returns:
        RGB, uint8 [height, width, 3].
    """
    rows = -(-len(images) // _COLUMNS)
    picture = Image.new("RGB", (_COLUMNS * (_SIDE + _GAP), rows * (_SIDE + _CAPTION)), _WHITE)
    draw = ImageDraw.Draw(picture)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = (number % _COLUMNS) * (_SIDE + _GAP), (number // _COLUMNS) * (_SIDE + _CAPTION)
        pixels = (np.clip(image[..., 0], 0.0, 1.0) * 255).round().astype(np.uint8)
        picture.paste(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (x, y))
        draw.text((x + 2, y + _SIDE + 1), caption, fill=_BLACK)
    return np.asarray(picture)


def _write(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, color: tuple[int, int, int]) -> None:
    draw.text((corner[0] + _CELL / 2, corner[1] + _CELL / 2), text[:5], fill=color, anchor="mm")


def _mixed(color: tuple[int, int, int], strength: float) -> tuple[int, ...]:
    return tuple(round(255 + strength * (part - 255)) for part in color)
