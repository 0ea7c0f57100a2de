# SPDX-License-Identifier: Apache-2.0
"""What watches a training: where it stops, what it reports, and that it does not diverge."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import keras
import numpy as np

from components.errors import GateStopped
from components.train.step import GRADIENT_NORM

_progress = logging.getLogger("progress")

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
        _progress.info(
            "epoch %d/%d, step %d/%d: loss %.4f, accuracy %.2f %%, on val %.2f %%, %.0f s",
            epoch + 1,
            self._epochs,
            self._steps,
            self._train_steps,
            measured["loss"],
            100 * measured["accuracy"],
            100 * measured["val_accuracy"],
            seconds,
        )
