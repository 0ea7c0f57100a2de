# SPDX-License-Identifier: Apache-2.0
"""The executor of the search: TFX's own, which keeps its state where an interrupted search goes on from."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from keras_tuner import errors
from tfx import types
from tfx.components.tuner import executor
from tfx.types import artifact_utils, standard_component_specs

from components import storage
from components.train.checkpoints import folder_of
from components.train.executor import given_to_run, settled

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
