# SPDX-License-Identifier: Apache-2.0
"""The trainer's work, from files to files.

This module holds functions only: TFX loads it a second time when it resolves `run_fn`.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import tensorflow as tf

from components import features, progress, storage
from components.train import checkpoints, data, devices, export, loop
from components.train.data import TransformGraph
from components.train.devices import Compute
from components.train.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs


def run_fn(fn_args: FnArgs) -> None:
    """Trains one network on the split train, measures it on val while it does, and exports it.

    Where TF_CONFIG in the environment names several workers, this is called in each of them, and the first one writes.

    Reads:
        `train_files`, `eval_files`: TFRecords of the splits train and val.
        `transform_graph_path`: applied to each image once, and put into the exported model.
        `custom_config`: the fields of `Hyperparameters` and of `devices.Compute`, `code_digest` and `checkpoints`, see
            `component.train`.

    Writes:
        `serving_model_dir`: SavedModel with the signatures of `features`.
        keras/model.keras beside it: the network alone, which takes transformed images.
        `model_run_dir`: TensorBoard logs and training.json, the fields of `loop.Training` and, as `hyperparameters`,
            those of `Hyperparameters`.

    Raises:
        BadInput: for hyperparameters out of range, an empty split, or GPUs that are not there.
        GateStopped: if the training diverges.
        PeerLost: if another worker has gone.
    """
    with devices.peers_watched():
        _run(fn_args)


def _run(fn_args: FnArgs) -> None:
    config = fn_args.custom_config
    hyperparameters = Hyperparameters.from_config(config)
    compute = Compute.from_config(config)
    strategy = devices.strategy(compute)
    # Same data, configuration, seed and machine give the same weights, byte for byte, on a CPU: nothing on that path
    # sums in an order that depends on timing, so TensorFlow's op determinism, a switch for the whole process that can't
    # be undone, is not needed.
    progress.report(progress.Message("reading the images"))
    transform = TransformGraph(fn_args.transform_graph_path)
    train = data.load(fn_args.train_files, transform, features.TRAIN)
    val = data.load(fn_args.eval_files, transform, features.VAL)
    progress.report(progress.Message(f"training {hyperparameters.model} on {len(train):,} images"))
    checkpoint_folder = _checkpoint_folder(fn_args, strategy) if config.get("checkpoints") else ""
    network, training = loop.train(
        hyperparameters, compute, strategy, train, val, fn_args.model_run_dir, checkpoint_folder
    )
    if not devices.is_chief():
        return
    progress.report(progress.Message("exporting the model"))
    export.export(network, transform, fn_args.serving_model_dir)
    model_folder = fn_args.serving_model_dir.rstrip("/").rpartition("/")[0]
    tf.io.gfile.makedirs(f"{model_folder}/keras")
    network.save(f"{model_folder}/keras/model.keras")
    with tf.io.gfile.GFile(tf.io.gfile.join(fn_args.model_run_dir, "training.json"), "w") as file:
        told = dataclasses.asdict(training) | {"hyperparameters": hyperparameters.to_config()}
        file.write(json.dumps(told, indent=1))
    if checkpoint_folder and not storage.is_url(checkpoint_folder):  # else once the model is published, see `worker`
        checkpoints.remove(checkpoint_folder)


def _checkpoint_folder(fn_args: FnArgs, strategy: tf.distribute.Strategy) -> str:
    """Where this training keeps its state: the same for each attempt at it, wherever that has its files."""
    config = {key: value for key, value in fn_args.custom_config.items() if key != "checkpoints"}
    files = data.files_of([*fn_args.train_files, *fn_args.eval_files])
    graph = tf.io.gfile.join(fn_args.transform_graph_path, "transform_fn", "saved_model.pb")
    identity = {"config": config, "replicas": strategy.num_replicas_in_sync}
    return checkpoints.folder_of(fn_args.custom_config["checkpoints"], identity, [*files, graph])
