# SPDX-License-Identifier: Apache-2.0
"""The tuner's work, as TFX asks for it.

This module holds functions only: TFX loads it a second time when it resolves `tuner_fn`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from tfx.components.tuner.component import TunerFnResult

from components import features, progress
from components.train import data, devices, loop, search
from components.train.data import TransformGraph
from components.train.devices import Compute
from components.train.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs


def tuner_fn(fn_args: FnArgs) -> TunerFnResult:
    """A search over the space of one model, which trains on the split train and chooses on val.

    Reads:
        `train_files`, `eval_files`: TFRecords of the splits train and val.
        `transform_graph_path`: applied to each image once, for all trials.
        `custom_config`: the fields of `Hyperparameters`, those of `devices.Compute`, `trials` and `fixed`, see
            `tuner_component`.

    Writes:
        `working_dir`: state and logs of the search; see `search.Search`.

    Raises:
        BadInput: for hyperparameters out of range, an empty split, or nothing to search.
    """
    config = fn_args.custom_config
    hyperparameters, compute = Hyperparameters.from_config(config), Compute.from_config(config)
    strategy = devices.strategy(compute)
    progress.report(progress.Message("reading the images"))
    transform = TransformGraph(fn_args.transform_graph_path)
    train = data.load(fn_args.train_files, transform, features.TRAIN)
    val = data.load(fn_args.eval_files, transform, features.VAL)

    def one(told: Hyperparameters, log_folder: str) -> loop.Training:
        keras.utils.clear_session()  # the networks of the trials before
        return loop.train(told, compute, strategy, train, val, log_folder)[1]

    tuner = search.Search(hyperparameters, config["fixed"], config["trials"], one, fn_args.working_dir)
    return TunerFnResult(tuner=tuner, fit_kwargs={})
