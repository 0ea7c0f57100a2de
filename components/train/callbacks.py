# SPDX-License-Identifier: Apache-2.0
"""What the training has come to after each epoch, and which epoch's weights are exported."""

from __future__ import annotations

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
from components.train.optimization import GRADIENT_NORM

_BATCH = 500
_LEAST_PROBABILITY = 1e-7  # as Keras has it


class EpochValidation(keras.callbacks.Callback):
    """Measures on val, after each epoch, the network that would be exported now; must come before other callbacks.

    That network computes in float32 and on this process's first device, whatever trains; its weights are those of the
    training, or their running averages where the optimizer keeps some. Others find `val_loss` and `val_accuracy` in the
    logs, and the answers to all val images in `probabilities`, float32 [n, classes].
    """

    def __init__(self, exported: keras.Model, val: InMemoryDataset):
        super().__init__()
        self.val = val
        self.probabilities = np.zeros((0, 0), np.float32)
        self._exported = exported

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        copy_weights(self.model, self._exported)
        self.probabilities = self._exported.predict(data.in_order(self.val, _BATCH), verbose=0)
        labels = self.val.labels
        known = (labels >= 0) & (labels < self.probabilities.shape[1])
        of_truth = self.probabilities[known, labels[known]]
        if logs is not None:
            logs["val_loss"] = float(-np.log(np.maximum(of_truth, _LEAST_PROBABILITY)).mean()) if known.any() else 0.0
            logs["val_accuracy"] = float((self.probabilities.argmax(axis=1) == labels).mean())


class BestWeights(keras.callbacks.Callback):
    """Keeps the weights of the best epoch, and stops a training that has not become better for a while.

    Best is the latest epoch whose accuracy on val is at most one standard error below the highest. Accuracy is what the
    gates judge by, and the loss on val often rises from overconfidence while the accuracy still does too. But the
    highest of twenty accuracies that are equal but for luck is a lucky one, and the latest epoch had the lowest
    learning rate. (The rule of one standard error is L. Breiman et al.'s, "Classification and Regression Trees", 1984.)
    """

    def __init__(self, exported: keras.Model, rows: Sequence[dict[str, float]], images: int, patience: int):
        """Prepares.

        Args:
            exported: the network that `Validation` measures.
            rows: those that `callbacks.History` fills, which must come before.
            images: how many there are in val.
            patience: epochs without a higher accuracy after which the training stops; 0: it does not.
        """
        super().__init__()
        self.weights: list[np.ndarray] = exported.get_weights()
        self._exported, self._rows, self._images, self._patience = exported, rows, images, patience

    @property
    def epoch(self) -> int:
        """The best epoch, from 1."""
        highest = max(row["val_accuracy"] for row in self._rows)
        # With two right and two wrong answers added, so that all right on few images is no certainty: Agresti and
        # Coull, "Approximate Is Better than 'Exact'", 1998.
        count = self._images + 4
        share = (highest * self._images + 2) / count
        least = highest - math.sqrt(share * (1 - share) / count)
        return int(max(row["epoch"] for row in self._rows if row["val_accuracy"] >= least))

    @property
    def had_enough(self) -> bool:
        """Whether the last `patience` epochs brought nothing."""
        if not self._patience or not self._rows:
            return False
        risen = max(self._rows, key=lambda row: (row["val_accuracy"], -row["epoch"]))["epoch"]
        return self._rows[-1]["epoch"] - risen >= self._patience

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.epoch == epoch + 1:
            self.weights = self._exported.get_weights()
        if self.had_enough:
            self.model.stop_training = True


def copy_weights(network: keras.Model, exported: keras.Model) -> None:
    """Gives `exported` the weights that `network`, of the same layers, is to be judged by."""
    averages: dict[int, Any] = {}
    if network.optimizer.use_ema:
        # By place: Keras has no public name for them.
        kept = network.optimizer._model_variables_moving_average
        averages = {id(weight): average for weight, average in zip(network.trainable_weights, kept, strict=True)}
    for to, weight in zip(exported.weights, network.weights, strict=True):
        to.assign(keras.ops.convert_to_numpy(averages.get(id(weight), weight)))


# A healthy gradient, all variables together, stays below 100.
_EXPLODED = 1e6


class StopAfter(keras.callbacks.Callback):
    """Ends the training after a number of steps, so that the last epoch may be shorter than the others."""

    def __init__(self, steps_left: int):
        super().__init__()
        self._left = steps_left

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._left -= 1
        if self._left <= 0:
            self.model.stop_training = True


class DivergenceWatch(keras.callbacks.Callback):
    """Raises GateStopped, with a sentence, when the training diverges.

    It looks at the loss and the gradient of each step, and at the weights after each epoch: relu turns NaN into 0, so
    weights can be lost while loss and gradient stay numbers.
    """

    def __init__(self, first_step: int, train_steps: int, learning_rate: float):
        super().__init__()
        self._step, self._train_steps, self._learning_rate = first_step, train_steps, learning_rate

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._step += 1
        told = logs or {}
        # The mean over the epoch so far: once it is not finite, it stays so.
        loss, norm = told.get("loss", 0.0), told.get(GRADIENT_NORM, 0.0)
        if not math.isfinite(loss):
            self._stop(f"its loss must be a finite number, but was {loss}")
        if not norm <= _EXPLODED:
            self._stop(f"the norm of its gradient must stay below {_EXPLODED:g}, but was {norm:.3g}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for variable in self.model.variables:
            if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
                self._stop(f"all weights must be finite numbers, but {variable.path} held others")

    def _stop(self, reason: str) -> None:
        raise GateStopped(
            f"the training was stopped because {reason} at step {self._step} of {self._train_steps}; "
            f"lower the learning rate, now {self._learning_rate:g}"
        )


class History(keras.callbacks.Callback):
    """Adds a row for each epoch and shows it as progress.

    A row is a dict: `epoch` from 1, `steps` and `seconds` since the training began, `loss`, `accuracy`, `val_loss`,
    `val_accuracy`, and the `learning_rate` at the end of the epoch.
    """

    def __init__(self, rows: list[dict[str, float]], epochs: int, train_steps: int, show: bool = True):
        """Adds to `rows`, which holds the epochs of an earlier process where there was one; `show` is for progress."""
        super().__init__()
        self._rows, self._epochs, self._train_steps, self._show = rows, epochs, train_steps, show
        self._steps = int(rows[-1]["steps"]) if rows else 0
        self._began = time.monotonic() - (rows[-1]["seconds"] if rows else 0)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._steps += 1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        measured = {name: float((logs or {})[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        seconds = time.monotonic() - self._began
        self._rows.append(
            {"epoch": epoch + 1, "steps": self._steps, "seconds": seconds, **measured, "learning_rate": rate}
        )
        if not self._show:
            return
        progress.report(
            progress.EpochEnd(
                epoch=epoch + 1,
                epochs=self._epochs,
                step=self._steps,
                steps=self._train_steps,
                loss=measured["loss"],
                accuracy=measured["accuracy"],
                val_accuracy=measured["val_accuracy"],
                seconds=seconds,
            )
        )
