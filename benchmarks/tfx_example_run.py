# SPDX-License-Identifier: Apache-2.0
"""Runs TFX's own example for MNIST, as a process that does nothing else.

    HOME=FOLDER TF_USE_LEGACY_KERAS=1 python tfx_example_run.py EXAMPLE [--steps 1290]

FOLDER/mnist/data holds its TFRecords; all that it writes goes to FOLDER. Its files are taken as they are. What is set:

- TF_USE_LEGACY_KERAS: it is written for Keras 2.
- The number of training steps, which its code has as 5,000, and an accuracy of 0 as what is good enough to be pushed.
- Beam's runner by name: Beam's own choice tries to download one. All else that it tells Beam stays.
- TFX packs no wheel of its module, which needs pip in the environment, but imports it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pathlib
import sys

_TRAINER = "Trainer.mnist"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="TFX's own example for MNIST.")
    parser.add_argument("example", type=pathlib.Path, help="its folder")
    parser.add_argument("--steps", type=int, default=1290)
    args = parser.parse_args(arguments)
    example = args.example.resolve()
    os.environ["UNSUPPORTED_DO_NOT_PACKAGE_USER_MODULES"] = "1"
    os.environ["PYTHONPATH"] = str(example)  # for the processes that Beam starts
    sys.path.insert(0, str(example))
    theirs = importlib.import_module("mnist_pipeline_native_keras")
    pipeline = theirs._create_pipeline(
        pipeline_name=theirs._pipeline_name,
        pipeline_root=theirs._pipeline_root,
        data_root=theirs._data_root,
        module_file=str(example / "mnist_utils_native_keras.py"),
        serving_model_dir=theirs._serving_model_dir,
        metadata_path=theirs._metadata_path,
        beam_pipeline_args=["--runner=FnApiRunner", *theirs._beam_pipeline_args],
        accuracy_threshold=0.0,
    )
    [trainer] = [node for node in pipeline.components if node.id == _TRAINER]
    trainer.exec_properties["train_args"] = json.dumps({"num_steps": args.steps})
    theirs.BeamDagRunner().run(pipeline)


if __name__ == "__main__":
    main(sys.argv[1:])
