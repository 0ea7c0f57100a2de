# SPDX-License-Identifier: Apache-2.0
"""TFX's own example for MNIST against this pipeline: the same images, training steps and batch size.

The example is read from a folder, such as the installed `tfx/examples/mnist`, and runs in a process of its own
(`tfx_example_run.py`, which says what is set there so that it runs with what is locked). Both are timed from process
start to pushed model; ours with data check, gates, model card and report, which the example has not. It trains a small
dense network with dropout; ours trains its CNN, which is much more work, and then a network of that kind.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Callable

import numpy as np

from benchmarks.measurement import Measurement, Options
from benchmarks.processes import ROOT, timed
from components.errors import BadInput, ProjectError

FASTER = 4.0
_BATCH_SIZE = 40  # as its code has it
_MODELS = {"cnn": "the same here with the CNN", "dnn_dropout": "with a dense network like its own"}
_FILES = ("mnist_pipeline_native_keras.py", "mnist_utils_native_keras.py")


def check(example: pathlib.Path | None) -> pathlib.Path:
    """The folder of the example, absolute.

    Raises:
        BadInput: it does not hold the example.
    """
    if example is None or not all((example / name).is_file() for name in _FILES):
        raise BadInput(f"--tfx-example names the folder with {' and '.join(_FILES)}; received {example or 'none'}")
    return example.resolve()


def measure(options: Options, say: Callable[[str], None]) -> list[Measurement]:
    """Runs the example and ours, with each of the networks, once for each round; raises as `check` does."""
    example = check(options.example)
    theirs: list[float] = []
    ours: dict[str, list[float]] = {model: [] for model in _MODELS}
    for number in range(1, options.rounds + 1):
        home = options.scratch / f"example-{number}"
        write_data(options.data_dir, home / "mnist/data/mnist.tfrecord")
        run = [sys.executable, ROOT / "benchmarks/tfx_example_run.py", example, "--steps", options.steps]
        theirs.append(timed(["env", f"HOME={home}", "TF_USE_LEGACY_KERAS=1", *run], home).seconds)
        if not list((home / "mnist/serving_model").rglob("saved_model.pb")):
            raise ProjectError(f"the example must push a model; {home} has none")
        command = [sys.executable, "runner_local.py", "--data-dir", options.data_dir, "--train-steps", options.steps]
        for model, seconds in ours.items():
            output = options.scratch / f"ours-{model}-{number}"
            told = ["--model", model, "--batch-size", _BATCH_SIZE, "--output", output]
            # A run that a gate stopped would be no comparison, so only one that pushed is good.
            seconds.append(timed([*command, *told]).seconds)
        took = ", ".join(f"{model} {seconds[-1]:.1f} s" for model, seconds in ours.items())
        say(f"  round {number} of {options.rounds}: the example {theirs[-1]:.1f} s, ours: {took}")
    what = f"TFX's own example, {options.steps:,} steps of {_BATCH_SIZE}"
    return [
        Measurement(f"{what} / {how}, gates and report included", "s", theirs, ours[model], at_least=FASTER)
        for model, how in _MODELS.items()
    ]


def write_data(data_dir: pathlib.Path, path: pathlib.Path) -> None:
    """All images as the example wants them: 784 floats in [-0.5, 0.5] and the class."""
    import tensorflow as tf

    from benchmarks import plain_keras

    path.parent.mkdir(parents=True)
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for prefix in ("train", "t10k"):
            images, labels = plain_keras.read_pair(data_dir, prefix)
            for image, label in zip(images - np.float32(0.5), labels.tolist(), strict=True):
                example = tf.train.Example()
                example.features.feature["image_floats"].float_list.value.extend(image.ravel().tolist())
                example.features.feature["image_class"].int64_list.value.append(label)
                writer.write(example.SerializeToString())
