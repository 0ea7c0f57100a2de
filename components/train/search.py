# SPDX-License-Identifier: Apache-2.0
"""The search itself: KerasTuner's random search, whose trials are trainings as `run.run_fn` has them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras_tuner
import tensorflow as tf
from keras_tuner import errors
from keras_tuner.engine import base_tuner
from tfx import types
from tfx.components.tuner import executor
from tfx.types import artifact_utils, standard_component_specs

from components import progress, storage
from components.errors import GateStopped, ProjectError
from components.train import hyperparameters, loop
from components.train.checkpoints import folder_of
from components.train.executor import given_to_run, settled
from components.train.hyperparameters import Hyperparameters

DONE, DIVERGED = "done", "diverged"
_PROJECT, _LOGS = "search", "logs"
_OBJECTIVE = "val_accuracy"


class Oracle(keras_tuner.oracles.RandomSearchOracle):
    """Says what to try: first the values in force, then values by chance, which depend on the seed alone.

    By chance, because trial n is then the same however many there are: a longer search begins as a shorter one did.
    (Bergstra and Bengio, "Random search for hyper-parameter optimization", 2012.)
    """

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        if int(trial_id):
            response: dict[str, Any] = super().populate_space(trial_id)
            return response
        defaults = {one.name: one.default for one in self.hyperparameters.space}
        return {"status": keras_tuner.engine.trial.TrialStatus.RUNNING, "values": defaults}

    def get_best_trials(self, num_trials: int = 1) -> list[Any]:
        """Those that came to an end, the best first: by accuracy on val, then loss on val, then the earlier."""
        ended = [trial for _, trial in sorted(self.trials.items()) if trial.status == "COMPLETED"]
        ended.sort(key=lambda trial: (-trial.score, _measured(trial, "val_loss")))
        return ended[:num_trials]


class Search(base_tuner.BaseTuner):
    """Trains the trials one after the other, and goes on with a search that was interrupted.

    A trial whose training diverges counts for nothing; anything else that goes wrong ends the search.
    """

    def __init__(
        self,
        base: Hyperparameters,
        fixed: Sequence[str],
        trials: int,
        train: Callable[[Hyperparameters, str], loop.Training],
        folder: str,
    ):
        """Prepares a search.

        Args:
            base: the first trial.
            fixed: names of fields that are not searched.
            trials: how many; fewer where the space holds no more.
            train: trains with hyperparameters, and TensorBoard logs in a folder; the result depends on these
                hyperparameters alone, and on no training before.
            folder: where the search keeps its state, `search`, and the trials' logs, `logs/trial-N`. What was finished
                there is not done again.

        Raises:
            BadInput: if nothing is left to search.
        """
        self._base, self._trials, self._train, self._folder = base, trials, train, folder
        self.space = hyperparameters.search_space(base, fixed)
        oracle = Oracle(
            objective=keras_tuner.Objective(_OBJECTIVE, "max"),
            max_trials=trials,
            hyperparameters=_declared(base, self.space),
            allow_new_entries=False,
            tune_new_entries=False,
            seed=base.seed + 1,  # KerasTuner takes a seed of 0 for none
            max_consecutive_failed_trials=trials + 1,
        )
        oracle.verbose = 0
        try:
            super().__init__(oracle, directory=folder, project_name=_PROJECT)
        except (ValueError, KeyError, RuntimeError) as error:
            raise ProjectError(
                f"the state of the search in {folder} must be what KerasTuner wrote, but cannot be read "
                f"({type(error).__name__}); remove it, and the search begins anew"
            ) from None

    def run_trial(self, trial: Any) -> dict[str, float]:
        """Trains one trial and returns what was measured; the errors raised are those that KerasTuner knows."""
        number = _number(trial)
        values = dict(trial.hyperparameters.values)
        with progress.scope(f"trial {number}/{self._trials}{self._best_so_far()}, "):
            progress.report(progress.Message(_shown(values)))
            try:
                training = self._train(
                    hyperparameters.trial_hyperparameters(self._base, values), self._log_folder(number)
                )
            except GateStopped as error:
                raise keras_tuner.errors.FailedTrialError(str(error)) from error
            except Exception as error:
                raise keras_tuner.errors.FatalError(str(error)) from error
        exported = training.epochs[training.best_epoch - 1]
        return {
            _OBJECTIVE: exported["val_accuracy"],
            "val_loss": exported["val_loss"],
            "seconds": training.seconds,
            "steps": training.steps,
        }

    def on_trial_end(self, trial: Any) -> None:
        super().on_trial_end(trial)
        row = self._row(self.oracle.get_trial(trial.trial_id))
        progress.report(
            progress.TrialEnd(
                trial=row["number"],
                trials=self._trials,
                values=_shown(row["values"]),
                state=row["state"],
                val_accuracy=row["val_accuracy"],
                seconds=row["seconds"] or 0,
                best=self._best_so_far(),
            )
        )

    def on_search_end(self) -> None:
        """Refuses a search without a winner.

        Raises:
            GateStopped: if every trial diverged.
        """
        if not self.oracle.get_best_trials():
            reason = next(iter(self.rows()))["reason"]
            raise GateStopped(
                f"the search was stopped because one of its trials must come to its end, but all {len(self.rows())} "
                f"diverged; of the first: {reason}"
            )

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[Any]:
        """The best trials' values, and the steps of the training that each stands for."""
        found = []
        for trial in self.oracle.get_best_trials(num_trials):
            chosen = trial.hyperparameters.copy()
            chosen.Fixed("train_steps", hyperparameters.complete_values(self._base, chosen.values).train_steps)
            found.append(chosen)
        return found

    def results(self) -> dict[str, Any]:
        """What the search came to, as JSON values.

        Returns:
            `trials`, as `rows`; `winner`, the number of one of them; `space`, name -> what could have been tried;
            `share` of a whole training's images that a trial saw.
        """
        return {
            "trials": self.rows(),
            "winner": _number(self.oracle.get_best_trials()[0]),
            "space": {name: str(one) for name, one in self.space.items()},
            "share": hyperparameters.TRIAL_SHARE,
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row for each trial, in their order.

        A row has `number` from 1, `values` by name, `state`, and `val_accuracy`, `val_loss`, `seconds` and `steps`;
        these are null, and `reason` says why, where it diverged.
        """
        return [self._row(trial) for _, trial in sorted(self.oracle.trials.items())]

    @property
    def logs(self) -> str:
        """The folder with the trials' logs."""
        return tf.io.gfile.join(self._folder, _LOGS)

    def _log_folder(self, number: int) -> str:
        os.utime(self._folder)  # somebody goes on with this search: it is not old
        folder = tf.io.gfile.join(self.logs, f"trial-{number}")
        if tf.io.gfile.exists(folder):  # of a trial that was interrupted
            tf.io.gfile.rmtree(folder)
        return str(folder)

    def _row(self, trial: Any) -> dict[str, Any]:
        done = trial.status == "COMPLETED"
        return {
            "number": _number(trial),
            "values": dict(trial.hyperparameters.values),
            "state": DONE if done else DIVERGED,
            "val_accuracy": trial.score if done else None,
            **{name: _measured(trial, name) if done else None for name in ("val_loss", "seconds", "steps")},
            "reason": None if done else _reason(trial.message or ""),
        }

    def _best_so_far(self) -> str:
        best = self.oracle.get_best_trials()
        return f" (best so far {100 * best[0].score:.2f} %, trial {_number(best[0])})" if best else ""


def _declared(base: Hyperparameters, space: hyperparameters.Space) -> keras_tuner.HyperParameters:
    declared = keras_tuner.HyperParameters()
    for name, one in space.items():
        default = getattr(base, name)
        if isinstance(one, hyperparameters.LogRange):
            declared.Float(name, one.low, one.high, sampling="log", default=default)
        else:
            declared.Choice(name, list(one.values), default=default, ordered=True)
    return declared


def _number(trial: Any) -> int:
    return int(trial.trial_id) + 1


def _measured(trial: Any, name: str) -> float:
    value = float(trial.metrics.get_last_value(name))
    return int(value) if name == "steps" else math.inf if math.isnan(value) else value


def _shown(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def _reason(trace: str) -> str:
    """The sentence at the end of a trace."""
    return " ".join(trace.strip().rpartition("FailedTrialError: ")[2].split())


TRIAL_RUNS = "trial_runs"
TRIALS_FILE = "trials.json"


class Executor(executor.Executor):
    """Searches with TFX's own `search`.

    Inputs: those of TFX's Tuner. Outputs: `best_hyperparameters` and `tuner_results`, as TFX's Tuner has them, the
    latter with `trials.json` beside (`search.Search.results`); `trial_runs`, a ModelRun with TensorBoard logs, a folder
    for each trial. Parameters: those of TFX's Tuner, and each field of `Hyperparameters`, as for the trainer; one that
    a run was given is not searched.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Searches.

        Raises:
            BadInput: for hyperparameters that are out of range or that the model does not have, or nothing to search.
            GateStopped: if every trial diverges.
        """
        config = settled(input_dict, exec_properties)
        config["fixed"] = sorted({*config["fixed"], *given_to_run(exec_properties)})
        inputs = {key: [artifact.uri for artifact in artifacts] for key, artifacts in input_dict.items()}
        with _project(config.get("checkpoints", ""), {"search": config, "inputs": inputs}) as folder:
            try:
                told = {standard_component_specs.CUSTOM_CONFIG_KEY: json.dumps(config)}
                tuner = executor.search(input_dict, exec_properties | told, folder)
            except errors.FatalError as error:  # KerasTuner lets nothing else through
                raise error.__cause__ or error from None
            executor.write_best_hyperparameters(tuner, output_dict)
            results = artifact_utils.get_single_uri(output_dict[standard_component_specs.TUNER_RESULTS_KEY])
            with tf.io.gfile.GFile(tf.io.gfile.join(results, TRIALS_FILE), "w") as file:
                file.write(json.dumps(tuner.results(), indent=1))
            _copy(tuner.logs, artifact_utils.get_single_uri(output_dict[TRIAL_RUNS]))


@contextlib.contextmanager
def _project(parent: str, identity: dict[str, Any]) -> Iterator[str]:
    """The folder of one search: left there when it fails, gone when it ends. Without a local parent it is temporary."""
    if not parent or storage.is_url(parent):  # KerasTuner writes to file systems only
        with tempfile.TemporaryDirectory() as folder:
            yield folder
        return
    folder = folder_of(parent, identity)
    yield folder
    tf.io.gfile.rmtree(folder)


def _copy(source: str, target: str) -> None:
    for folder, _, names in tf.io.gfile.walk(source):
        below = tf.io.gfile.join(target, folder.removeprefix(source).strip("/"))
        tf.io.gfile.makedirs(below)
        for name in names:
            tf.io.gfile.copy(tf.io.gfile.join(folder, name), tf.io.gfile.join(below, name), overwrite=True)
