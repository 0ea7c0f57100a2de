# SPDX-License-Identifier: Apache-2.0
"""Training, from TFX's entry point to Keras's `fit`: `run_fn` calls `train`, which calls `fit`.

`tuner_fn` is the entry point of the hyperparameter search, whose trials call `train` too. This module holds functions
only, because TFX loads it a second time when it resolves an entry point.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from components import features, progress, storage
from components.errors import ProjectError
from components.train import checkpoints, data, devices, distribution, export, models
from components.train.callbacks import (
    BestWeights,
    DivergenceWatch,
    EpochValidation,
    History,
    StopAfterSteps,
    TrainingResult,
)
from components.train.checkpoints import Checkpoints
from components.train.data import InMemoryDataset, TransformGraph
from components.train.devices import Compute
from components.train.hyperparameters import Hyperparameters
from components.train.tensorboard import StepCurves, TensorBoardLogs

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs
    from tfx.components.tuner.component import TunerFnResult

# Passes over a small data set are short; several are joined to an epoch, so that there are few validations.
MAX_EPOCHS = 20


@distribution.watch_peers()
def run_fn(fn_args: FnArgs) -> None:
    """Trains one network on the split train, evaluates it on val after each epoch, and exports it.

    If TF_CONFIG in the environment names several workers, each of them calls this, and the first one writes.

    Reads:
        `train_files`, `eval_files`: TFRecords of the splits train and val.
        `transform_graph_path`: applied to each image once, and part of the exported model.
        `custom_config`: the fields of `Hyperparameters` and `devices.Compute`, `code_digest` and `checkpoints`, see
            `component.train`.

    Writes:
        `serving_model_dir`: SavedModel with the signatures of `features`.
        keras/model.keras beside it: the network alone, whose input is transformed images.
        `model_run_dir`: TensorBoard logs and training.json, with the fields of `TrainingResult` and, as
            `hyperparameters`, those of `Hyperparameters`.

    Raises:
        BadInput: hyperparameters are out of range, a split is empty, or GPUs are missing.
        GateStopped: the training diverges.
        PeerLost: another worker stopped responding.
    """
    config = fn_args.custom_config
    hyperparameters, compute = Hyperparameters.from_config(config), Compute.from_config(config)
    strategy = distribution.build_strategy(compute)
    # On a CPU, the same data, configuration, seed and machine give the same weights, byte for byte, even without
    # TensorFlow's op determinism: no operation on this path sums in an order that depends on timing.
    transform, train_data, val_data = _load_splits(fn_args)
    progress.report(progress.Message(f"training {hyperparameters.model} on {len(train_data):,} images"))
    checkpoint_folder = ""
    if config.get("checkpoints"):
        graph = tf.io.gfile.join(fn_args.transform_graph_path, "transform_fn", "saved_model.pb")
        checkpoint_folder = checkpoints.checkpoint_folder(
            config["checkpoints"],
            {
                "config": {key: value for key, value in config.items() if key != "checkpoints"},
                "replicas": strategy.num_replicas_in_sync,
            },
            [*data.list_files([*fn_args.train_files, *fn_args.eval_files]), graph],
        )
    network, result = train(
        hyperparameters, compute, strategy, train_data, val_data, fn_args.model_run_dir, checkpoint_folder
    )
    if not devices.is_chief():
        return
    progress.report(progress.Message("exporting the model"))
    export.export(network, transform, fn_args.serving_model_dir)
    model_folder = fn_args.serving_model_dir.rstrip("/").rpartition("/")[0]
    tf.io.gfile.makedirs(f"{model_folder}/keras")
    network.save(f"{model_folder}/keras/model.keras")
    with tf.io.gfile.GFile(tf.io.gfile.join(fn_args.model_run_dir, "training.json"), "w") as file:
        training = dataclasses.asdict(result) | {"hyperparameters": hyperparameters.to_config()}
        file.write(json.dumps(training, indent=1))
    # A training job's worker removes checkpoints at a URL after it has published the model.
    if checkpoint_folder and not storage.is_url(checkpoint_folder):
        checkpoints.remove(checkpoint_folder)


def _load_splits(fn_args: FnArgs) -> tuple[TransformGraph, InMemoryDataset, InMemoryDataset]:
    """Returns the transform graph and the splits train and val, transformed by it."""
    progress.report(progress.Message("reading the images"))
    transform = TransformGraph(fn_args.transform_graph_path)
    train_data = data.load(fn_args.train_files, transform, features.TRAIN)
    val_data = data.load(fn_args.eval_files, transform, features.VAL)
    return transform, train_data, val_data


def tuner_fn(fn_args: FnArgs) -> TunerFnResult:
    """Returns a search over the hyperparameters of one model; trials train on the split train and are compared on val.

    Reads:
        `train_files`, `eval_files`: TFRecords of the splits train and val.
        `transform_graph_path`: applied to each image once, for all trials.
        `custom_config`: the fields of `Hyperparameters` and `devices.Compute`, `trials` and `fixed`, see
            `component.tune`.

    Writes:
        `working_dir`: state and logs of the search, see `search.Search`.

    Raises:
        BadInput: hyperparameters are out of range, a split is empty, or there is nothing to search.
    """
    # Slow to import, and not needed by the workers of a training.
    from tfx.components.tuner.component import TunerFnResult

    from components.train import search

    config = fn_args.custom_config
    hyperparameters, compute = Hyperparameters.from_config(config), Compute.from_config(config)
    strategy = distribution.build_strategy(compute)
    _, train_data, val_data = _load_splits(fn_args)

    def train_trial(trial: Hyperparameters, log_folder: str) -> TrainingResult:
        keras.utils.clear_session()  # frees the networks of earlier trials
        return train(trial, compute, strategy, train_data, val_data, log_folder)[1]

    tuner = search.Search(hyperparameters, config["fixed"], config["trials"], train_trial, fn_args.working_dir)
    return TunerFnResult(tuner=tuner, fit_kwargs={})


def train(
    hyperparameters: Hyperparameters,
    compute: Compute,
    strategy: tf.distribute.Strategy,
    train_data: InMemoryDataset,
    val_data: InMemoryDataset,
    log_folder: str,
    checkpoint_folder: str = "",
) -> tuple[keras.Model, TrainingResult]:
    """Builds a network and trains it.

    Args:
        hyperparameters: of one device, see `distribution.scale`.
        compute: provides the precision.
        strategy: of `distribution.build_strategy`.
        train_data: images and labels to train on.
        val_data: images and labels to evaluate on.
        log_folder: as for `fit`.
        checkpoint_folder: as for `fit`.

    Returns:
        The float32 network with the best epoch's weights, and the result.

    Raises:
        GateStopped: the training diverges.
        PeerLost: another worker stopped responding.
    """
    replicas = strategy.num_replicas_in_sync
    scaled = distribution.scale(hyperparameters, replicas)
    precision = distribution.resolve_precision(compute)
    keras.utils.set_random_seed(hyperparameters.seed)
    with strategy.scope(), _dtype_policy(precision):
        network = models.build(scaled)
        # XLA is untested with steps that communicate between devices.
        jit_compile = replicas == 1 and bool(tf.config.list_logical_devices("GPU"))
        models.compile_network(network, scaled, jit_compile=jit_compile)
        network.optimizer.build(network.trainable_variables)
    inference_network = models.for_inference(models.build(scaled))
    result = fit(network, inference_network, scaled, train_data, val_data, log_folder, checkpoint_folder, strategy)
    return inference_network, dataclasses.replace(result, precision=precision)


def fit(
    network: keras.Model,
    inference_network: keras.Model,
    hyperparameters: Hyperparameters,
    train_data: InMemoryDataset,
    val_data: InMemoryDataset,
    log_folder: str,
    checkpoint_folder: str = "",
    strategy: tf.distribute.Strategy | None = None,
) -> TrainingResult:
    """Trains a compiled network in place: with Keras's `fit` on one device, with `distribution.fit` on several.

    Args:
        network: input is float32 [n, height, width, 1].
        inference_network: the same in float32, built without a strategy; gets the best epoch's weights.
        hyperparameters: of all devices together; provides batch size, steps, seed and patience.
        train_data: images and labels to train on.
        val_data: images and labels to evaluate on.
        log_folder: for TensorBoard.
        checkpoint_folder: folder or URL; if it has a checkpoint, the training resumes from it. "": no checkpoints.
        strategy: the one in whose scope the network was built; None: TensorFlow's default.

    Raises:
        GateStopped: the loss, the gradient or a weight is not finite.
        ProjectError: the workers have different checkpoints.
    """
    strategy = strategy or tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    chief = devices.is_chief()
    rows: list[dict[str, float]] = []
    best = BestWeights(inference_network, rows, len(val_data), hyperparameters.patience)
    saver = Checkpoints(checkpoint_folder, network, rows, best) if checkpoint_folder else None
    if saver and saver.restore():
        progress.report(progress.Message(f"resuming after epoch {len(rows)}"))
    if replicas > 1 and distribution.sum_over_replicas(strategy, len(rows)) != len(rows) * replicas:
        raise ProjectError(
            f"all workers must resume from the same checkpoint, but this one has that of epoch {len(rows)} and another "
            "one a different one; choose a folder or URL for checkpoints that all of them share"
        )
    steps, first_step = hyperparameters.train_steps, int(rows[-1]["steps"]) if rows else 0
    steps_per_pass = data.steps_per_pass(len(train_data), hyperparameters.batch_size)
    passes_per_epoch = max(1, -(-steps // (steps_per_pass * MAX_EPOCHS)))
    steps_per_epoch = steps_per_pass * passes_per_epoch
    epochs = -(-steps // steps_per_epoch)
    first_pass = len(rows) * passes_per_epoch
    validation = EpochValidation(inference_network, val_data)
    callbacks = [
        StopAfterSteps(steps - first_step),
        # Its message has the learning rate of one device, as the user sets it.
        DivergenceWatch(first_step, steps, hyperparameters.learning_rate / math.sqrt(replicas)),
        validation,
        History(rows, epochs, steps, show=chief),
        best,
    ]
    if chief:
        callbacks += [
            StepCurves(log_folder, write_graph=True),
            TensorBoardLogs(log_folder, validation, hyperparameters),
            *([saver] if saver else []),
        ]
    if first_step >= steps or best.out_of_patience:
        pass  # the checkpoint is that of a finished training
    elif replicas == 1:
        distribution.log_gradient_norm(network)
        batches = data.train_batches(train_data, hyperparameters.batch_size, hyperparameters.seed, first_pass)
        gpus = tf.config.list_logical_devices("GPU")
        network.fit(
            data.prefetch_to_device(batches, gpus[0].name) if gpus else batches,
            initial_epoch=len(rows),
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            callbacks=callbacks,
            shuffle=False,  # the batches are shuffled already
            verbose=0,
        )
    else:
        distribution.fit(
            network,
            strategy,
            train_data,
            hyperparameters,
            callbacks,
            initial_epoch=len(rows),
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            first_pass=first_pass,
        )
    inference_network.set_weights(best.weights)
    return TrainingResult(
        devices=distribution.device_names(strategy),
        precision=devices.FLOAT32,
        batch_size=hyperparameters.batch_size,
        steps=int(rows[-1]["steps"]),
        epochs=rows,
        best_epoch=best.epoch,
        stopped_early=int(rows[-1]["steps"]) < steps,
        seconds=rows[-1]["seconds"],
        parameters=sum(int(np.prod(variable.shape)) for variable in network.trainable_variables),
    )


@contextlib.contextmanager
def _dtype_policy(precision: str) -> Iterator[None]:
    """Sets Keras's policy for layers that are built in the block; their weights are always float32."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == devices.BFLOAT16 else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
