# SPDX-License-Identifier: Apache-2.0
"""Hyperparameter search: KerasTuner's random search, with `trainer.train` for each trial."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras_tuner
import tensorflow as tf
from keras_tuner.engine import base_tuner

from components import progress
from components.errors import GateStopped, ProjectError
from components.train import hyperparameters
from components.train.callbacks import TrainingResult
from components.train.hyperparameters import Hyperparameters

COMPLETED, DIVERGED = "done", "diverged"
_PROJECT, _LOGS = "search", "logs"
_OBJECTIVE = "val_accuracy"


class Oracle(keras_tuner.oracles.RandomSearchOracle):
    """Proposes the base hyperparameters first, then random values, which depend only on the seed.

    With random search (Bergstra and Bengio, "Random search for hyper-parameter optimization", 2012) trial n does not
    depend on the number of trials, so a longer search starts with the trials of a shorter one.
    """

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        if int(trial_id):
            response: dict[str, Any] = super().populate_space(trial_id)
            return response
        defaults = {parameter.name: parameter.default for parameter in self.hyperparameters.space}
        return {"status": keras_tuner.engine.trial.TrialStatus.RUNNING, "values": defaults}

    def get_best_trials(self, num_trials: int = 1) -> list[Any]:
        """Returns completed trials, best first: by val accuracy, then val loss, then trial number."""
        completed = [trial for _, trial in sorted(self.trials.items()) if trial.status == "COMPLETED"]
        completed.sort(key=lambda trial: (-trial.score, _metric(trial, "val_loss")))
        return completed[:num_trials]


class Search(base_tuner.BaseTuner):
    """Trains the trials one after the other; an interrupted search resumes after its last completed trial.

    A trial that diverges is excluded; any other error ends the search.
    """

    def __init__(
        self,
        base: Hyperparameters,
        fixed: Sequence[str],
        trials: int,
        train: Callable[[Hyperparameters, str], TrainingResult],
        folder: str,
    ):
        """Opens the search in `folder`, where an earlier process may have started it.

        Args:
            base: the first trial.
            fixed: names of fields that are not searched.
            trials: number of trials; fewer if the search space is smaller.
            train: trains with some hyperparameters and writes TensorBoard logs into a folder. Its result must depend
                only on the hyperparameters, not on earlier trainings.
            folder: for the state of the search, `search`, and the trials' logs, `logs/trial-N`.

        Raises:
            BadInput: all hyperparameters are fixed.
            ProjectError: the state in `folder` cannot be read.
        """
        self._base, self._trials, self._train, self._folder = base, trials, train, folder
        self.space = hyperparameters.search_space(base, fixed)
        oracle = Oracle(
            objective=keras_tuner.Objective(_OBJECTIVE, "max"),
            max_trials=trials,
            hyperparameters=_to_keras_tuner(base, self.space),
            allow_new_entries=False,
            tune_new_entries=False,
            seed=base.seed + 1,  # KerasTuner treats 0 as no seed
            max_consecutive_failed_trials=trials + 1,
        )
        oracle.verbose = 0
        try:
            super().__init__(oracle, directory=folder, project_name=_PROJECT)
        except (ValueError, KeyError, RuntimeError) as error:
            raise ProjectError(
                f"the state of the search in {folder} must be what KerasTuner wrote, but cannot be read "
                f"({type(error).__name__}); remove it to start the search from the beginning"
            ) from None

    def run_trial(self, trial: Any) -> dict[str, float]:
        """Trains one trial and returns its metrics.

        Raises:
            FailedTrialError: the trial diverged.
            FatalError: for any other error, its cause; KerasTuner would swallow the error itself.
        """
        number = _number(trial)
        values = dict(trial.hyperparameters.values)
        with progress.scope(f"trial {number}/{self._trials}{self._best_so_far()}, "):
            progress.report(progress.Message(_format_values(values)))
            try:
                result = self._train(
                    hyperparameters.trial_hyperparameters(self._base, values), self._log_folder(number)
                )
            except GateStopped as error:
                raise keras_tuner.errors.FailedTrialError(str(error)) from error
            except Exception as error:
                raise keras_tuner.errors.FatalError(str(error)) from error
        epoch = result.epochs[result.best_epoch - 1]
        return {
            _OBJECTIVE: epoch["val_accuracy"],
            "val_loss": epoch["val_loss"],
            "seconds": result.seconds,
            "steps": result.steps,
        }

    def on_trial_end(self, trial: Any) -> None:
        super().on_trial_end(trial)
        row = self._row(self.oracle.get_trial(trial.trial_id))
        progress.report(
            progress.TrialEnd(
                trial=row["number"],
                trials=self._trials,
                values=_format_values(row["values"]),
                state=row["state"],
                val_accuracy=row["val_accuracy"],
                seconds=row["seconds"] or 0,
                best=self._best_so_far(),
            )
        )

    def on_search_end(self) -> None:
        """Checks that there is a winner.

        Raises:
            GateStopped: every trial diverged.
        """
        if not self.oracle.get_best_trials():
            reason = next(iter(self.rows()))["reason"]
            raise GateStopped(
                "the search was stopped because at least one trial must complete, but all "
                f"{len(self.rows())} diverged; the first: {reason}"
            )

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[Any]:
        """Returns the best trials' values, with `train_steps` of the full training with these values."""
        best = []
        for trial in self.oracle.get_best_trials(num_trials):
            values = trial.hyperparameters.copy()
            values.Fixed("train_steps", hyperparameters.complete_values(self._base, values.values).train_steps)
            best.append(values)
        return best

    def results(self) -> dict[str, Any]:
        """Returns the results as JSON values.

        Returns:
            `trials`: the rows; `winner`: the number of the best; `space`: name -> description of its values; `share`:
            the images that a trial sees, relative to a full training.
        """
        return {
            "trials": self.rows(),
            "winner": _number(self.oracle.get_best_trials()[0]),
            "space": {name: str(values) for name, values in self.space.items()},
            "share": hyperparameters.TRIAL_SHARE,
        }

    def rows(self) -> list[dict[str, Any]]:
        """Returns a row for each trial, in order.

        A row has `number` from 1, `values` by name, `state`, `val_accuracy`, `val_loss`, `seconds`, `steps` and
        `reason`. If the trial diverged, `reason` is its error and the metrics are None.
        """
        return [self._row(trial) for _, trial in sorted(self.oracle.trials.items())]

    @property
    def logs(self) -> str:
        """The folder with the trials' logs."""
        return tf.io.gfile.join(self._folder, _LOGS)

    def _log_folder(self, number: int) -> str:
        os.utime(self._folder)  # searches that no run resumes expire by their age
        folder = tf.io.gfile.join(self.logs, f"trial-{number}")
        if tf.io.gfile.exists(folder):  # of an interrupted trial
            tf.io.gfile.rmtree(folder)
        return str(folder)

    def _row(self, trial: Any) -> dict[str, Any]:
        completed = trial.status == "COMPLETED"
        return {
            "number": _number(trial),
            "values": dict(trial.hyperparameters.values),
            "state": COMPLETED if completed else DIVERGED,
            "val_accuracy": trial.score if completed else None,
            **{name: _metric(trial, name) if completed else None for name in ("val_loss", "seconds", "steps")},
            "reason": None if completed else _error_message(trial.message or ""),
        }

    def _best_so_far(self) -> str:
        best = self.oracle.get_best_trials()
        return f" (best so far {100 * best[0].score:.2f} %, trial {_number(best[0])})" if best else ""


def _to_keras_tuner(base: Hyperparameters, space: hyperparameters.Space) -> keras_tuner.HyperParameters:
    parameters = keras_tuner.HyperParameters()
    for name, values in space.items():
        default = getattr(base, name)
        if isinstance(values, hyperparameters.LogRange):
            parameters.Float(name, values.low, values.high, sampling="log", default=default)
        else:
            parameters.Choice(name, list(values.values), default=default, ordered=True)
    return parameters


def _number(trial: Any) -> int:
    return int(trial.trial_id) + 1


def _metric(trial: Any, name: str) -> float:
    value = float(trial.metrics.get_last_value(name))
    return int(value) if name == "steps" else math.inf if math.isnan(value) else value


def _format_values(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def _error_message(traceback: str) -> str:
    """Returns the message at the end of a traceback, on one line."""
    return " ".join(traceback.strip().rpartition("FailedTrialError: ")[2].split())
