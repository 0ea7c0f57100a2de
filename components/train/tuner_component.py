# SPDX-License-Identifier: Apache-2.0
"""The graph's side of the search: TFX's Tuner around `tuner.tuner_fn`. Only a graph that searches loads KerasTuner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import trainer_pb2
from tfx.types import component_spec, standard_artifacts, standard_component_specs
from tfx.types.channel import BaseChannel, Channel

from components import features
from components.train import component, tuner_executor
from components.train.devices import Compute

TUNER_FN = "components.train.tuner.tuner_fn"


class TuneSpec(component_spec.ComponentSpec):
    """The interface of TFX's Tuner, each hyperparameter as a parameter of its own, and the trials' logs."""

    INPUTS = standard_component_specs.TunerSpec.INPUTS
    OUTPUTS = standard_component_specs.TunerSpec.OUTPUTS | {
        tuner_executor.TRIAL_RUNS: component_spec.ChannelParameter(type=standard_artifacts.ModelRun)
    }
    PARAMETERS = standard_component_specs.TunerSpec.PARAMETERS | component.PARAMETERS


class Tuner(base_component.BaseComponent):
    """TFX's Tuner with that interface."""

    SPEC_CLASS = TuneSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(tuner_executor.Executor)


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
            **component.instructions(
                hyperparameters,
                compute,
                trials=trials,
                fixed=sorted(fixed),
                code_digest=code_digest,
                checkpoints=checkpoints,
            ),
        )
    )
