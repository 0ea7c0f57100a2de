# SPDX-License-Identifier: Apache-2.0
"""TFX's own example for MNIST against this pipeline: the same images, training steps and batch size.

The example is read from a folder, such as the installed `tfx/examples/mnist`, and runs in a process of its own
(`tfx_example_run.py`, which says what is set there so that it runs with what is locked). Both are timed from process
start to pushed model; ours with data check, gates, model card and report, which the example has not.
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
    """Runs both once for each round; raises as `check` does."""
    example = check(options.example)
    theirs, ours = [], []
    for number in range(1, options.rounds + 1):
        home = options.scratch / f"example-{number}"
        write_data(options.data_dir, home / "mnist/data/mnist.tfrecord")
        run = [sys.executable, ROOT / "benchmarks/tfx_example_run.py", example, "--steps", options.steps]
        theirs.append(timed(["env", f"HOME={home}", "TF_USE_LEGACY_KERAS=1", *run], home).seconds)
        if not list((home / "mnist/serving_model").rglob("saved_model.pb")):
            raise ProjectError(f"the example must push a model; {home} has none")
        command = [sys.executable, "runner_local.py", "--data-dir", options.data_dir, "--train-steps", options.steps]
        output = options.scratch / f"ours-{number}"
        # A run that a gate stopped would be no comparison, so only one that pushed is good.
        ours.append(timed([*command, "--batch-size", _BATCH_SIZE, "--output", output]).seconds)
        say(f"  round {number} of {options.rounds}: the example {theirs[-1]:.1f} s, ours {ours[-1]:.1f} s")
    what = f"TFX's own example, {options.steps:,} steps of {_BATCH_SIZE} / the same here, gates and report included"
    return [Measurement(what, "s", theirs, ours, at_least=FASTER)]


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
