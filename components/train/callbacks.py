# SPDX-License-Identifier: Apache-2.0
"""Keras callbacks: validation after each epoch, the choice of the best weights, early stopping, divergence, history."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from components import progress
from components.errors import GateStopped
from components.train import data
from components.train.data import InMemoryDataset
from components.train.distribution import GRADIENT_NORM

_BATCH_SIZE = 500
_MIN_PROBABILITY = 1e-7  # the clip of Keras's cross-entropy


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """The result of a training besides the weights: the contents of training.json.

    Attributes:
        devices: names of the training devices, such as "CPU:0".
        precision: of the layers' computations, "float32" or "bfloat16".
        batch_size: images per step of all devices together.
        steps: number of steps taken.
        epochs: the rows of `History`.
        best_epoch: the epoch, from 1, whose weights are exported.
        stopped_early: whether `patience` ended it before its last step.
        seconds: wall time, validation included; summed over all processes if it was resumed.
        parameters: number of trainable parameters.
    """

    devices: list[str]
    precision: str
    batch_size: int
    steps: int
    epochs: list[dict[str, float]]
    best_epoch: int
    stopped_early: bool
    seconds: float
    parameters: int


class EpochValidation(keras.callbacks.Callback):
    """Evaluates the inference network on val after each epoch; must be the first of the callbacks that need its logs.

    The inference network computes in float32 on this process's first device, whatever the training uses. Its weights
    are the training's, or their moving averages if the optimizer keeps any. Adds `val_loss` and `val_accuracy` to the
    logs and sets `probabilities`, float32 [n, classes], of all val images.
    """

    def __init__(self, inference_network: keras.Model, val: InMemoryDataset):
        super().__init__()
        self.val = val
        self.probabilities = np.zeros((0, 0), np.float32)
        self._inference_network = inference_network

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        copy_weights(self.model, self._inference_network)
        self.probabilities = self._inference_network.predict(data.eval_batches(self.val, _BATCH_SIZE), verbose=0)
        labels = self.val.labels
        valid = (labels >= 0) & (labels < self.probabilities.shape[1])
        label_probabilities = np.maximum(self.probabilities[valid, labels[valid]], _MIN_PROBABILITY)
        if logs is not None:
            logs["val_loss"] = float(-np.log(label_probabilities).mean()) if valid.any() else 0.0
            logs["val_accuracy"] = float((self.probabilities.argmax(axis=1) == labels).mean())


class BestWeights(keras.callbacks.Callback):
    """Saves the weights of the best epoch and stops a training that has stopped improving.

    The best epoch is the latest whose val accuracy is at most one standard error below the highest (L. Breiman et al.,
    "Classification and Regression Trees", 1984). Accuracy, because the gates use it, and because val loss often rises
    from overconfidence while accuracy still improves. The latest, because the highest of many accuracies that differ by
    chance is a lucky one, and because the learning rate is lowest at the end.
    """

    def __init__(self, inference_network: keras.Model, rows: Sequence[dict[str, float]], images: int, patience: int):
        """Starts with the inference network's weights.

        Args:
            inference_network: of `EpochValidation`.
            rows: of `History`, which must come before it among the callbacks.
            images: number of val images.
            patience: epochs without a higher accuracy after which the training stops; 0: never.
        """
        super().__init__()
        self.weights: list[np.ndarray] = inference_network.get_weights()
        self._inference_network, self._rows, self._images, self._patience = inference_network, rows, images, patience

    @property
    def epoch(self) -> int:
        """The best epoch, from 1."""
        highest = max(row["val_accuracy"] for row in self._rows)
        # Two successes and two failures are added, so that the standard error of 100 % on few images is not 0 (Agresti
        # and Coull, "Approximate Is Better than 'Exact'", 1998).
        count = self._images + 4
        share = (highest * self._images + 2) / count
        threshold = highest - math.sqrt(share * (1 - share) / count)
        return int(max(row["epoch"] for row in self._rows if row["val_accuracy"] >= threshold))

    @property
    def out_of_patience(self) -> bool:
        """True if the last `patience` epochs brought no higher accuracy."""
        if not self._patience or not self._rows:
            return False
        highest = max(self._rows, key=lambda row: (row["val_accuracy"], -row["epoch"]))["epoch"]
        return self._rows[-1]["epoch"] - highest >= self._patience

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.epoch == epoch + 1:
            self.weights = self._inference_network.get_weights()
        if self.out_of_patience:
            self.model.stop_training = True


def copy_weights(network: keras.Model, inference_network: keras.Model) -> None:
    """Copies the weights of a network, or their moving averages if its optimizer keeps any, to its inference network.

    Args:
        network: compiled.
        inference_network: gets the weights; has the same layers, but for those without weights.
    """
    averages: dict[int, Any] = {}
    if network.optimizer.use_ema:
        variables = network.optimizer._model_variables_moving_average  # Keras has no public name for them
        averages = {id(weight): average for weight, average in zip(network.trainable_weights, variables, strict=True)}
    for target, weight in zip(inference_network.weights, network.weights, strict=True):
        target.assign(keras.ops.convert_to_numpy(averages.get(id(weight), weight)))


class StopAfterSteps(keras.callbacks.Callback):
    """Stops the training after a number of steps, possibly in the middle of an epoch."""

    def __init__(self, steps: int):
        super().__init__()
        self._remaining = steps

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._remaining -= 1
        if self._remaining <= 0:
            self.model.stop_training = True


_MAX_GRADIENT_NORM = 1e6  # healthy gradients stay below 100


class DivergenceWatch(keras.callbacks.Callback):
    """Raises GateStopped when the training diverges.

    It checks the loss and the gradient of each step, and the weights after each epoch: relu turns NaN into 0, so
    weights can be NaN while loss and gradient are finite.
    """

    def __init__(self, first_step: int, train_steps: int, learning_rate: float):
        super().__init__()
        self._step, self._train_steps, self._learning_rate = first_step, train_steps, learning_rate

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._step += 1
        metrics = logs or {}
        # The mean of the epoch so far: once it is not finite, it stays so.
        loss, norm = metrics.get("loss", 0.0), metrics.get(GRADIENT_NORM, 0.0)
        if not math.isfinite(loss):
            self._stop(f"its loss must be a finite number, but was {loss}")
        if not norm <= _MAX_GRADIENT_NORM:
            self._stop(f"the norm of its gradient must stay below {_MAX_GRADIENT_NORM:g}, but was {norm:.3g}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for variable in self.model.variables:
            if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
                self._stop(f"all weights must be finite numbers, but {variable.path} has NaN or infinite values")

    def _stop(self, reason: str) -> None:
        raise GateStopped(
            f"the training was stopped because {reason} at step {self._step} of {self._train_steps}; "
            f"lower the learning rate, now {self._learning_rate:g}"
        )


class History(keras.callbacks.Callback):
    """Adds a row for each epoch and logs it as progress.

    A row has `epoch` from 1, `steps` and `seconds` since the start, `loss`, `accuracy`, `val_loss`, `val_accuracy`, and
    `learning_rate` at the end of the epoch.
    """

    def __init__(self, rows: list[dict[str, float]], epochs: int, train_steps: int, show: bool = True):
        """Starts after `rows`, which has the epochs of the interrupted process if any; `show` enables progress."""
        super().__init__()
        self._rows, self._epochs, self._train_steps, self._show = rows, epochs, train_steps, show
        self._steps = int(rows[-1]["steps"]) if rows else 0
        self._start_time = time.monotonic() - (rows[-1]["seconds"] if rows else 0)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._steps += 1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        metrics = {name: float((logs or {})[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
        learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        seconds = time.monotonic() - self._start_time
        self._rows.append(
            {"epoch": epoch + 1, "steps": self._steps, "seconds": seconds, **metrics, "learning_rate": learning_rate}
        )
        if not self._show:
            return
        progress.report(
            progress.EpochEnd(
                epoch=epoch + 1,
                epochs=self._epochs,
                step=self._steps,
                steps=self._train_steps,
                loss=metrics["loss"],
                accuracy=metrics["accuracy"],
                val_accuracy=metrics["val_accuracy"],
                seconds=seconds,
            )
        )
