# SPDX-License-Identifier: Apache-2.0
"""The graph's side of training: TFX's Trainer around `run.run_fn`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.proto import trainer_pb2
from tfx.types import component_spec, standard_artifacts, standard_component_specs
from tfx.types.channel import BaseChannel, Channel
from tfx.utils import json_utils

from components import features
from components.train import executor, search
from components.train.devices import Compute

RUN_FN = "components.train.trainer.run_fn"


# Each field of `Hyperparameters` as a parameter of its own.
PARAMETERS = {
    executor.PROPERTIES[name]: component_spec.ExecutionParameter(type=kind, optional=True)
    for name, kind in executor.KINDS.items()
}


class TrainSpec(component_spec.ComponentSpec):
    """The interface of TFX's Trainer, and each hyperparameter as a parameter of its own."""

    INPUTS = standard_component_specs.TrainerSpec.INPUTS
    OUTPUTS = standard_component_specs.TrainerSpec.OUTPUTS
    PARAMETERS = standard_component_specs.TrainerSpec.PARAMETERS | PARAMETERS
    TYPE_ANNOTATION = standard_component_specs.TrainerSpec.TYPE_ANNOTATION


class Trainer(base_component.BaseComponent):
    """TFX's Trainer with that interface."""

    SPEC_CLASS = TrainSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)


def train(
    *,
    examples: BaseChannel,
    transform_graph: BaseChannel,
    schema: BaseChannel,
    hyperparameters: Mapping[str, Any],
    compute: Compute | None = None,
    found: BaseChannel | None = None,
    code_digest: str = "",
    checkpoints: str = "",
) -> Trainer:
    """Trains one network on the split train; the split val is measured, test is not read.

    Args:
        examples: Examples with the splits of `features.SPLITS`, as ingest writes them.
        transform_graph: TransformGraph of the stage transform.
        schema: Schema; it makes no difference to the training, but the pushed model can be traced to it.
        hyperparameters: fields of `Hyperparameters`. Values go into `custom_config`, the one place from which the
            worker reads them; a RuntimeParameter gets there when the run has settled it.
        compute: what it runs on; None for what there is.
        found: HyperParameters that a search chose (`tuner_component`); its values go over `hyperparameters`.
        code_digest: digest of the code of this stage; it is there for the cache key, and so that changed code does not
            go on where other code stopped.
        checkpoints: folder outside of the artifacts, the same for each run, in which a training that was killed finds
            its state again; "" for none.

    Returns:
        Trainer; its outputs are `model` and `model_run`.
    """
    steps = hyperparameters.get("train_steps")
    return Trainer(
        TrainSpec(
            examples=examples,
            transform_graph=transform_graph,
            schema=schema,
            **({standard_component_specs.HYPERPARAMETERS_KEY: found} if found is not None else {}),
            run_fn=RUN_FN,
            train_args=trainer_pb2.TrainArgs(
                splits=[features.TRAIN], num_steps=None if isinstance(steps, RuntimeParameter) else steps
            ),
            eval_args=trainer_pb2.EvalArgs(splits=[features.VAL]),
            model=Channel(type=standard_artifacts.Model),
            model_run=Channel(type=standard_artifacts.ModelRun),
            **instructions(hyperparameters, compute, code_digest=code_digest, checkpoints=checkpoints),
        )
    )


def instructions(
    hyperparameters: Mapping[str, Any], compute: Compute | None, **more: Any
) -> dict[str, str | RuntimeParameter]:
    """`custom_config`, from which `executor.settled` reads, and the hyperparameters that only the run settles.

    Args:
        hyperparameters: as for `train`.
        compute: as for `train`.
        more: what else goes into `custom_config`: JSON values.
    """
    told = {name: value for name, value in hyperparameters.items() if isinstance(value, RuntimeParameter)}
    config = {
        **{name: value for name, value in hyperparameters.items() if name not in told},
        **({executor.UNLESS_TOLD: {name: value.default for name, value in told.items()}} if told else {}),
        **(compute or Compute()).to_config(),
        **more,
    }
    return {"custom_config": json_utils.dumps(config), **{executor.PROPERTIES[name]: told[name] for name in told}}


TUNER_FN = "components.train.tuner.tuner_fn"


class TuneSpec(component_spec.ComponentSpec):
    """The interface of TFX's Tuner, each hyperparameter as a parameter of its own, and the trials' logs."""

    INPUTS = standard_component_specs.TunerSpec.INPUTS
    OUTPUTS = standard_component_specs.TunerSpec.OUTPUTS | {
        search.TRIAL_RUNS: component_spec.ChannelParameter(type=standard_artifacts.ModelRun)
    }
    PARAMETERS = standard_component_specs.TunerSpec.PARAMETERS | PARAMETERS


class Tuner(base_component.BaseComponent):
    """TFX's Tuner with that interface."""

    SPEC_CLASS = TuneSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(search.Executor)


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
    """Looks for better hyperparameters of one model on the split val; test is not read.

    Args:
        examples: Examples with the splits of `features.SPLITS`, as ingest writes them.
        transform_graph: TransformGraph of the stage transform.
        schema: as for `train`.
        hyperparameters: as for `train`; the first trial, and what the others are around.
        trials: how many, 1 or more.
        fixed: names of hyperparameters that are not searched, whichever the model has.
        compute: as for `train`.
        code_digest: as for `train`.
        checkpoints: folder outside of the artifacts in which a search that was killed finds its finished trials again;
            "" for none.

    Returns:
        Tuner; its outputs are `best_hyperparameters`, `tuner_results` and `trial_runs`.
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
            **instructions(
                hyperparameters,
                compute,
                trials=trials,
                fixed=sorted(fixed),
                code_digest=code_digest,
                checkpoints=checkpoints,
            ),
        )
    )
