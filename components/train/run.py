# SPDX-License-Identifier: Apache-2.0
"""The trainer's work, from files to files.

This module holds functions only: TFX loads it a second time when it resolves `run_fn`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from components import features
from components.train import data, loop, networks, objective, signatures
from components.train.checkpoints import folder_of
from components.train.hyperparameters import Hyperparameters
from components.train.transform_graph import TransformGraph

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs

_progress = logging.getLogger("progress")


def run_fn(fn_args: FnArgs) -> None:
    """Trains one network on the split train, measures it on val while it does, and exports it.

    Reads:
        `train_files`, `eval_files`: TFRecords of the splits train and val.
        `transform_graph_path`: applied to each image once, and put into the exported model.
        `custom_config`: the fields of `Hyperparameters`, `code_digest` and `checkpoints`, see `component.train`.

    Writes:
        `serving_model_dir`: SavedModel with the signatures of `features`.
        keras/model.keras beside it: the network alone, which takes transformed images.
        `model_run_dir`: TensorBoard logs and training.json, the fields of `loop.Training`.

    Raises:
        BadInput: for hyperparameters out of range, or an empty split.
        GateStopped: if the training diverges.
    """
    config = fn_args.custom_config
    hyperparameters = Hyperparameters.from_config(config)
    # Same data, configuration, seed and machine give the same weights, byte for byte, on a CPU: nothing on that path
    # sums in an order that depends on timing, so TensorFlow's op determinism, a switch for the whole process that can't
    # be undone, is not needed.
    keras.utils.set_random_seed(hyperparameters.seed)
    _progress.info("reading the images")
    transform = TransformGraph(fn_args.transform_graph_path)
    train = data.load(fn_args.train_files, transform, features.TRAIN)
    val = data.load(fn_args.eval_files, transform, features.VAL)
    network = networks.build(hyperparameters)
    objective.compile_network(network, hyperparameters, jit_compile=bool(tf.config.list_logical_devices("GPU")))
    _progress.info("training %s on %s images", hyperparameters.model, f"{len(train[0]):,}")
    checkpoint_folder = ""
    if config.get("checkpoints"):
        inputs = [fn_args.train_files, fn_args.eval_files, fn_args.transform_graph_path]
        checkpoint_folder = folder_of(config["checkpoints"], {"config": config, "inputs": inputs})
    training = loop.fit(network, hyperparameters, train, val, fn_args.model_run_dir, checkpoint_folder)
    _progress.info("exporting the model")
    signatures.export(network, transform, fn_args.serving_model_dir)
    model_folder = fn_args.serving_model_dir.rstrip("/").rpartition("/")[0]
    tf.io.gfile.makedirs(f"{model_folder}/keras")
    network.save(f"{model_folder}/keras/model.keras")
    with tf.io.gfile.GFile(tf.io.gfile.join(fn_args.model_run_dir, "training.json"), "w") as file:
        file.write(json.dumps(dataclasses.asdict(training), indent=1))
    if checkpoint_folder:
        tf.io.gfile.rmtree(checkpoint_folder)
