# SPDX-License-Identifier: Apache-2.0
"""TFX's own example for MNIST against this pipeline: the same images, training steps and batch size.

The part of `benchmarks.bench` takes the example from a folder, such as the installed `tfx/examples/mnist`, and runs it
with this module as a program:

    HOME=FOLDER TF_USE_LEGACY_KERAS=1 python -m benchmarks.tfx_example EXAMPLE [--steps 1290]

FOLDER/mnist/data holds its TFRecords; all its output goes to FOLDER. Its files are used unchanged. Settings:

- TF_USE_LEGACY_KERAS: it is written for Keras 2.
- The number of training steps, 5,000 in its code, and an accuracy of 0 as the threshold to push.
- Beam's runner by name, as Beam's own choice tries to download one.
- TFX imports its module instead of packing a wheel of it, which needs pip in the environment.

Both are timed from process start to pushed model; only the pipeline has a data check, gates, a model card and a report.
The example trains a small dense network with dropout. The pipeline trains its CNN, which is much more work, and then a
network of the example's kind.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pathlib
import sys

import numpy as np

from benchmarks.measurement import ROOT, Echo, Measurement, Options, time_process, time_run
from components.errors import BadInput, ProjectError

_GOAL = 4.0
_BATCH_SIZE = 40  # of the example's code
_MODELS = {"cnn": "this pipeline with its CNN", "dnn_dropout": "this pipeline with a dense network like the example's"}
_PIPELINE, _UTILS = "mnist_pipeline_native_keras", "mnist_utils_native_keras"
_TRAINER = "Trainer.mnist"


def check_folder(example: pathlib.Path | None) -> pathlib.Path:
    """Returns the folder of the example, absolute.

    Raises:
        BadInput: it does not hold the example.
    """
    if example is None or not all((example / f"{name}.py").is_file() for name in (_PIPELINE, _UTILS)):
        raise BadInput(
            f"--tfx-example must name the folder with {_PIPELINE}.py and {_UTILS}.py; received {example or 'none'}"
        )
    return example.resolve()


def measure(options: Options, echo: Echo) -> list[Measurement]:
    """Runs the example and the pipeline, with each network, once for each round; raises as `check_folder` does."""
    example = check_folder(options.example)
    example_seconds: list[float] = []
    seconds: dict[str, list[float]] = {model: [] for model in _MODELS}
    for number in range(1, options.rounds + 1):
        home = options.scratch / f"example-{number}"
        write_records(options.data_dir, home / "mnist/data/mnist.tfrecord")
        settings = ["env", f"HOME={home}", f"PYTHONPATH={ROOT}", "TF_USE_LEGACY_KERAS=1"]
        program = [sys.executable, "-m", "benchmarks.tfx_example", example, "--steps", options.steps]
        example_seconds.append(time_process([*settings, *program], home).seconds)
        if not list((home / "mnist/serving_model").rglob("saved_model.pb")):
            raise ProjectError(f"the example must push a model; {home} has none")
        for model in _MODELS:
            arguments = ["--data-dir", options.data_dir, "--train-steps", options.steps, "--batch-size", _BATCH_SIZE]
            output = options.scratch / f"pipeline-{model}-{number}"
            record = options.scratch / "record.json"
            timing, _ = time_run([*arguments, "--model", model, "--output", output], record)
            seconds[model].append(timing.seconds)
        values = ", ".join(f"{model} {seconds[model][-1]:.1f} s" for model in _MODELS)
        echo(f"  round {number} of {options.rounds}: the example {example_seconds[-1]:.1f} s, the pipeline: {values}")
    name = f"TFX's own example, {options.steps:,} steps of {_BATCH_SIZE}"
    return [
        Measurement(f"{name} / {description}", "s", example_seconds, seconds[model], at_least=_GOAL)
        for model, description in _MODELS.items()
    ]


def write_records(data_dir: pathlib.Path, path: pathlib.Path) -> None:
    """Writes all images as the example reads them: 784 floats in [-0.5, 0.5] and the class."""
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


def run_example(example: pathlib.Path, steps: int) -> None:
    """Runs the example in this process.

    Args:
        example: its folder, absolute.
        steps: training steps.
    """
    os.environ["UNSUPPORTED_DO_NOT_PACKAGE_USER_MODULES"] = "1"
    os.environ["PYTHONPATH"] = str(example)  # for the processes that Beam starts
    sys.path.insert(0, str(example))
    module = importlib.import_module(_PIPELINE)
    pipeline = module._create_pipeline(
        pipeline_name=module._pipeline_name,
        pipeline_root=module._pipeline_root,
        data_root=module._data_root,
        module_file=str(example / f"{_UTILS}.py"),
        serving_model_dir=module._serving_model_dir,
        metadata_path=module._metadata_path,
        beam_pipeline_args=["--runner=FnApiRunner", *module._beam_pipeline_args],
        accuracy_threshold=0.0,
    )
    [trainer] = [node for node in pipeline.components if node.id == _TRAINER]
    trainer.exec_properties["train_args"] = json.dumps({"num_steps": steps})
    module.BeamDagRunner().run(pipeline)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.tfx_example", description="Runs TFX's own example for MNIST.")
    parser.add_argument("example", type=pathlib.Path, help="its folder")
    parser.add_argument("--steps", type=int, default=1290, help="training steps; default: 1290")
    args = parser.parse_args(arguments)
    run_example(args.example.resolve(), args.steps)


if __name__ == "__main__":
    main(sys.argv[1:])
