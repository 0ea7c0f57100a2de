# SPDX-License-Identifier: Apache-2.0
"""The progress of a stage, as events with fields.

`report` hands an event to the logger `progress` as the message of a record (`logging` allows any object there). So logs
have one readable line for each, and a handler, such as the console's, gets the event itself.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import logging
from collections.abc import Iterator

LOGGER = logging.getLogger("progress")
_scope = contextvars.ContextVar("scope", default="")


@dataclasses.dataclass(frozen=True)
class ProgressEvent:
    """The base of all events; `str` of one is its line, which begins with the scope that it was made in."""

    scope: str = dataclasses.field(default_factory=_scope.get, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Message(ProgressEvent):
    """A step of a stage, such as "reading the images"."""

    text: str

    def __str__(self) -> str:
        return f"{self.scope}{self.text}"


@dataclasses.dataclass(frozen=True)
class EpochEnd(ProgressEvent):
    """The end of an epoch of a training.

    Attributes:
        epoch: from 1 to `epochs`.
        step: from 1 to `steps`, over all epochs.
        loss: on the training images.
        accuracy: on the training images, 0 to 1.
        val_accuracy: on the validation images, 0 to 1.
        seconds: since the training began.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    val_accuracy: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.scope}epoch {self.epoch}/{self.epochs}, step {self.step}/{self.steps}: loss {self.loss:.4f}, "
            f"accuracy {100 * self.accuracy:.2f} %, on val {100 * self.val_accuracy:.2f} %, {self.seconds:.0f} s"
        )


@dataclasses.dataclass(frozen=True)
class TrialEnd(ProgressEvent):
    """The end of a trial of a search.

    Attributes:
        trial: from 1 to `trials`.
        values: the hyperparameters, in words.
        state: of the trial, shown where it has no accuracy.
        val_accuracy: on the validation images, 0 to 1; None where it diverged.
        seconds: of its training.
        best: the best trial until now, in words.
    """

    trial: int
    trials: int
    values: str
    state: str
    val_accuracy: float | None
    seconds: float
    best: str

    def __str__(self) -> str:
        result = self.state if self.val_accuracy is None else f"{100 * self.val_accuracy:.2f} % on val"
        return f"{self.scope}trial {self.trial}/{self.trials}: {self.values}: {result}, {self.seconds:.0f} s{self.best}"


def report(event: ProgressEvent, level: int = logging.INFO) -> None:
    """Logs an event, with its own line as the message."""
    LOGGER.log(level, event)


@contextlib.contextmanager
def scope(text: str) -> Iterator[None]:
    """Puts text before the lines of the events that are made within the block, such as "trial 2/3, "."""
    token = _scope.set(text)
    try:
        yield
    finally:
        _scope.reset(token)
