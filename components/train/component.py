# SPDX-License-Identifier: Apache-2.0
"""The TFX components of training and of the hyperparameter search: TFX's Trainer and Tuner, and their executors."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from keras_tuner import errors as keras_tuner_errors
from tfx import types
from tfx.components.trainer import executor as trainer_executor
from tfx.components.tuner import executor as tuner_executor
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.proto import trainer_pb2
from tfx.types import artifact_utils, component_spec, standard_artifacts, standard_component_specs
from tfx.types.channel import BaseChannel, Channel
from tfx.utils import io_utils, json_utils

from components import features, storage
from components.train import checkpoints as checkpoint_store
from components.train.devices import Compute
from components.train.hyperparameters import OWN_DEFAULT, Hyperparameters

RUN_FN = "components.train.trainer.run_fn"
TUNER_FN = "components.train.trainer.tuner_fn"
_TRIAL_RUNS = "trial_runs"
_TRIALS_FILE = "trials.json"

# Key of `custom_config`: the graph's own values of the hyperparameters that are RuntimeParameters.
_RUN_DEFAULTS = "run_defaults"
# Field of `Hyperparameters` -> execution parameter; `model` is the name of an output.
_PROPERTIES = {name: name for name in Hyperparameters.model_fields} | {"model": "model_type"}
# Field -> its type without None.
_TYPES: Mapping[str, type] = Hyperparameters.types()
# Every field of `Hyperparameters` as an execution parameter.
_PARAMETERS = {
    _PROPERTIES[name]: component_spec.ExecutionParameter(type=kind, optional=True) for name, kind in _TYPES.items()
}


def resolve_config(
    input_dict: Mapping[str, list[types.Artifact]], exec_properties: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns `custom_config` with the run's hyperparameters, and over them the best ones of a search if there was one.

    Raises:
        BadInput: a hyperparameter is out of range, or the model does not have it.
    """
    config: dict[str, Any] = json.loads(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY])
    run_defaults = config.pop(_RUN_DEFAULTS, {})
    if values := _run_values(exec_properties):
        config |= Hyperparameters.from_parameters(values, run_defaults).to_config()
    for artifact in input_dict.get(standard_component_specs.HYPERPARAMETERS_KEY, ()):
        best = json.loads(io_utils.read_string_file(io_utils.get_only_uri_in_dir(artifact.uri)))["values"]
        values = {field: value for field, value in config.items() if field in _TYPES and field != "model"} | best
        config |= Hyperparameters.of(config["model"], **values).to_config()
    return config


def overridden_hyperparameters(exec_properties: Mapping[str, Any]) -> set[str]:
    """Returns the names of the hyperparameters that the run set to other values than the graph's own."""
    config = json.loads(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY])
    run_defaults = config.get(_RUN_DEFAULTS, {})
    values = _run_values(exec_properties).items()
    return {name for name, value in values if value not in (run_defaults.get(name), OWN_DEFAULT)} - {"model"}


def _run_values(exec_properties: Mapping[str, Any]) -> dict[str, Any]:
    return {name: exec_properties[key] for name, key in _PROPERTIES.items() if exec_properties.get(key) is not None}


class TrainExecutor(trainer_executor.GenericExecutor):
    """TFX's `GenericExecutor` with hyperparameters that a run can set.

    Inputs and outputs are those of TFX's Trainer. Parameters are too, plus every field of `Hyperparameters`, optional,
    which overrides `custom_config`.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Trains.

        Raises:
            BadInput: a hyperparameter is out of range, or the model does not have it.
        """
        config = {standard_component_specs.CUSTOM_CONFIG_KEY: json.dumps(resolve_config(input_dict, exec_properties))}
        super().Do(input_dict, output_dict, exec_properties | config)


class TuneExecutor(tuner_executor.Executor):
    """TFX's Tuner executor with hyperparameters that a run can set, a resumable search, and the trials' logs.

    Inputs: those of TFX's Tuner. Outputs: `best_hyperparameters` and `tuner_results` of TFX's Tuner, the latter with
    trials.json (`search.Search.results`); `trial_runs`, a ModelRun with a folder of TensorBoard logs for each trial.
    Parameters: those of TFX's Tuner, plus every field of `Hyperparameters`, optional; those that a run sets are not
    searched.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Searches.

        Raises:
            BadInput: a hyperparameter is out of range, the model does not have it, or there is nothing to search.
            GateStopped: every trial diverged.
        """
        config = resolve_config(input_dict, exec_properties)
        config["fixed"] = sorted({*config["fixed"], *overridden_hyperparameters(exec_properties)})
        inputs = {key: [artifact.uri for artifact in artifacts] for key, artifacts in input_dict.items()}
        properties = exec_properties | {standard_component_specs.CUSTOM_CONFIG_KEY: json.dumps(config)}
        with _search_folder(config.get("checkpoints", ""), {"search": config, "inputs": inputs}) as folder:
            try:
                tuner = tuner_executor.search(input_dict, properties, folder)
            except keras_tuner_errors.FatalError as error:  # KerasTuner swallows any other type
                raise error.__cause__ or error from None
            tuner_executor.write_best_hyperparameters(tuner, output_dict)
            results_folder = artifact_utils.get_single_uri(output_dict[standard_component_specs.TUNER_RESULTS_KEY])
            with tf.io.gfile.GFile(tf.io.gfile.join(results_folder, _TRIALS_FILE), "w") as file:
                file.write(json.dumps(tuner.results(), indent=1))
            _copy_folder(tuner.logs, artifact_utils.get_single_uri(output_dict[_TRIAL_RUNS]))


@contextlib.contextmanager
def _search_folder(parent: str, identity: dict[str, Any]) -> Iterator[str]:
    """Yields the folder of a search; it is removed when the search succeeds, and remains for a retry when it fails.

    Without a local parent the folder is temporary.
    """
    if not parent or storage.is_url(parent):  # KerasTuner only writes to file systems
        with tempfile.TemporaryDirectory() as folder:
            yield folder
        return
    folder = checkpoint_store.checkpoint_folder(parent, identity)
    yield folder
    tf.io.gfile.rmtree(folder)


def _copy_folder(source: str, target: str) -> None:
    for folder, _, names in tf.io.gfile.walk(source):
        target_folder = tf.io.gfile.join(target, folder.removeprefix(source).strip("/"))
        tf.io.gfile.makedirs(target_folder)
        for name in names:
            tf.io.gfile.copy(tf.io.gfile.join(folder, name), tf.io.gfile.join(target_folder, name), overwrite=True)


class TrainSpec(component_spec.ComponentSpec):
    """The interface of TFX's Trainer, plus every hyperparameter as a parameter."""

    INPUTS = standard_component_specs.TrainerSpec.INPUTS
    OUTPUTS = standard_component_specs.TrainerSpec.OUTPUTS
    PARAMETERS = standard_component_specs.TrainerSpec.PARAMETERS | _PARAMETERS
    TYPE_ANNOTATION = standard_component_specs.TrainerSpec.TYPE_ANNOTATION


class Trainer(base_component.BaseComponent):
    """TFX's Trainer with `TrainSpec`."""

    SPEC_CLASS = TrainSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(TrainExecutor)


class TuneSpec(component_spec.ComponentSpec):
    """The interface of TFX's Tuner, plus every hyperparameter as a parameter, and the trials' logs."""

    INPUTS = standard_component_specs.TunerSpec.INPUTS
    OUTPUTS = standard_component_specs.TunerSpec.OUTPUTS | {
        _TRIAL_RUNS: component_spec.ChannelParameter(type=standard_artifacts.ModelRun)
    }
    PARAMETERS = standard_component_specs.TunerSpec.PARAMETERS | _PARAMETERS


class Tuner(base_component.BaseComponent):
    """TFX's Tuner with `TuneSpec`."""

    SPEC_CLASS = TuneSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(TuneExecutor)


def train(
    *,
    examples: BaseChannel,
    transform_graph: BaseChannel,
    schema: BaseChannel,
    hyperparameters: Mapping[str, Any],
    compute: Compute | None = None,
    best_hyperparameters: BaseChannel | None = None,
    code_digest: str = "",
    checkpoints: str = "",
) -> Trainer:
    """Builds the component that trains one network on the split train and evaluates it on val; test is not read.

    Args:
        examples: Examples with the splits of `features.SPLITS`, as ingest writes them.
        transform_graph: TransformGraph of the transform stage.
        schema: Schema; the training does not use it, but it becomes part of the model's lineage.
        hyperparameters: fields of `Hyperparameters`, as values or RuntimeParameters.
        compute: the devices and the precision; None for the defaults.
        best_hyperparameters: HyperParameters of `tune`, which override `hyperparameters`.
        code_digest: digest of this stage's code, for the cache key; changed code does not resume from checkpoints of
            other code.
        checkpoints: folder or URL outside of the artifacts, the same for each run, from which a killed training
            resumes; "": no checkpoints.

    Returns:
        Trainer with the outputs `model` and `model_run`.
    """
    steps = hyperparameters.get("train_steps")
    search = (
        {standard_component_specs.HYPERPARAMETERS_KEY: best_hyperparameters} if best_hyperparameters is not None else {}
    )
    return Trainer(
        TrainSpec(
            examples=examples,
            transform_graph=transform_graph,
            schema=schema,
            **search,
            run_fn=RUN_FN,
            train_args=trainer_pb2.TrainArgs(
                splits=[features.TRAIN], num_steps=None if isinstance(steps, RuntimeParameter) else steps
            ),
            eval_args=trainer_pb2.EvalArgs(splits=[features.VAL]),
            model=Channel(type=standard_artifacts.Model),
            model_run=Channel(type=standard_artifacts.ModelRun),
            **_execution_parameters(hyperparameters, compute, code_digest=code_digest, checkpoints=checkpoints),
        )
    )


def tune(
    *,
    examples: BaseChannel,
    transform_graph: BaseChannel,
    schema: BaseChannel,
    hyperparameters: Mapping[str, Any],
    trials: int,
    fixed: Sequence[str],
    compute: Compute | None = None,
    code_digest: str = "",
    checkpoints: str = "",
) -> Tuner:
    """Builds the component that searches for better hyperparameters of one model on the split val; test is not read.

    Args:
        examples: Examples with the splits of `features.SPLITS`, as ingest writes them.
        transform_graph: TransformGraph of the transform stage.
        schema: as for `train`.
        hyperparameters: as for `train`; the first trial, and the centre of the search space.
        trials: number of trials, 1 or more.
        fixed: names of hyperparameters that are not searched; the model need not have them.
        compute: as for `train`.
        code_digest: as for `train`.
        checkpoints: folder outside of the artifacts from which an interrupted search resumes; "": none.

    Returns:
        Tuner with the outputs `best_hyperparameters`, `tuner_results` and `trial_runs`.
    """
    return Tuner(
        TuneSpec(
            examples=examples,
            transform_graph=transform_graph,
            schema=schema,
            tuner_fn=TUNER_FN,
            train_args=trainer_pb2.TrainArgs(splits=[features.TRAIN]),
            eval_args=trainer_pb2.EvalArgs(splits=[features.VAL]),
            best_hyperparameters=Channel(type=standard_artifacts.HyperParameters),
            tuner_results=Channel(type=standard_artifacts.TunerResults),
            trial_runs=Channel(type=standard_artifacts.ModelRun),
            **_execution_parameters(
                hyperparameters,
                compute,
                trials=trials,
                fixed=sorted(fixed),
                code_digest=code_digest,
                checkpoints=checkpoints,
            ),
        )
    )


def _execution_parameters(
    hyperparameters: Mapping[str, Any], compute: Compute | None, **config: Any
) -> dict[str, str | RuntimeParameter]:
    """Returns `custom_config`, and each hyperparameter that is a RuntimeParameter.

    Args:
        hyperparameters: as for `train`.
        compute: as for `train`.
        config: further entries of `custom_config`, JSON values.
    """
    runtime = {name: value for name, value in hyperparameters.items() if isinstance(value, RuntimeParameter)}
    custom_config = {
        **{name: value for name, value in hyperparameters.items() if name not in runtime},
        **({_RUN_DEFAULTS: {name: value.default for name, value in runtime.items()}} if runtime else {}),
        **(compute or Compute()).to_config(),
        **config,
    }
    return {
        "custom_config": json_utils.dumps(custom_config),
        **{_PROPERTIES[name]: parameter for name, parameter in runtime.items()},
    }
