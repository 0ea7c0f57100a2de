# SPDX-License-Identifier: Apache-2.0
"""The graph's side of training: the stock Trainer around `run.run_fn`."""

from __future__ import annotations

from tfx.components.trainer.component import Trainer
from tfx.proto import trainer_pb2
from tfx.types.channel import BaseChannel

from components import features
from components.train.hyperparameters import Hyperparameters

RUN_FN = "components.train.run.run_fn"


def train(
    *,
    examples: BaseChannel,
    transform_graph: BaseChannel,
    schema: BaseChannel,
    hyperparameters: Hyperparameters,
    code_digest: str = "",
    checkpoints: str = "",
) -> Trainer:
    """Trains one network on the split train; the split val is measured, test is not read.

    Args:
        examples: Examples with the splits of `features.SPLITS`, as ingest writes them.
        transform_graph: TransformGraph of the stage transform.
        schema: Schema; it makes no difference to the training, but the pushed model can be traced to it.
        hyperparameters: go into `custom_config`, the one place from which the worker reads them.
        code_digest: digest of the code of this stage; it is there for the cache key, and so that changed code does not
            go on where other code stopped.
        checkpoints: folder outside of the artifacts, the same for each run, in which a training that was killed finds
            its state again; "" for none.

    Returns:
        Trainer; its outputs are `model` and `model_run`.
    """
    return Trainer(
        examples=examples,
        transform_graph=transform_graph,
        schema=schema,
        run_fn=RUN_FN,
        train_args=trainer_pb2.TrainArgs(splits=[features.TRAIN], num_steps=hyperparameters.train_steps),
        eval_args=trainer_pb2.EvalArgs(splits=[features.VAL]),
        custom_config={**hyperparameters.to_config(), "code_digest": code_digest, "checkpoints": checkpoints},
    )
