# SPDX-License-Identifier: Apache-2.0
"""Runs single TFX components on artifacts in a folder: the real executors, without an orchestrator."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.dsl.components.base import base_beam_executor, base_component
from tfx.types import artifact, standard_artifacts

from components import features

SCHEMA = """
  feature { name: "id" type: BYTES presence { min_fraction: 1 min_count: 1 } shape {} }
  feature { name: "image" type: BYTES presence { min_fraction: 1 min_count: 1 } shape {} }
  feature { name: "ink_share" type: FLOAT presence { min_fraction: 1 min_count: 1 } shape {} }
  feature { name: "label" type: INT presence { min_fraction: 1 min_count: 1 } shape {} }
"""


def serialized_example(image: bytes, label: int, name: str = "a#0") -> bytes:
    example = tf.train.Example()
    feature = example.features.feature
    feature[features.IMAGE].bytes_list.value.append(image)
    feature[features.LABEL].int64_list.value.append(label)
    feature[features.ID].bytes_list.value.append(name.encode())
    feature[features.INK_SHARE].float_list.value.append(0.5)
    feature[features.SLANT].float_list.value.append(0.1)
    return example.SerializeToString()


def examples_artifact(
    folder: pathlib.Path, splits: dict[str, tuple[np.ndarray, np.ndarray]]
) -> standard_artifacts.Examples:
    """Writes images uint8 [n, height, width] and labels [n] of each split as Examples, each in two files."""
    for split, (images, labels) in splits.items():
        (folder / f"Split-{split}").mkdir(parents=True)
        for part in (0, 1):
            path = folder / f"Split-{split}" / f"data_tfrecord-{part:05d}-of-00002"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for index in range(part * len(images) // 2, (part + 1) * len(images) // 2):
                    writer.write(serialized_example(images[index].tobytes(), int(labels[index]), f"{split}#{index}"))
    examples = standard_artifacts.Examples()
    examples.uri = str(folder)
    examples.splits = list(splits)
    return examples


def schema_artifact(folder: pathlib.Path, text: str = SCHEMA) -> standard_artifacts.Schema:
    folder.mkdir()
    (folder / "schema.pbtxt").write_text(str(text_format.Parse(text, schema_pb2.Schema())))
    schema = standard_artifacts.Schema()
    schema.uri = str(folder)
    return schema


def run(
    component: base_component.BaseComponent, inputs: dict[str, artifact.Artifact], folder: pathlib.Path
) -> dict[str, artifact.Artifact]:
    """Runs a component's executor; each output artifact gets a folder of its own below `folder`."""
    outputs = {}
    for key, channel in component.outputs.items():
        outputs[key] = channel.type()
        outputs[key].uri = str(folder / key)
        (folder / key).mkdir(parents=True)
    executor_class = component.executor_spec.executor_class
    context = None
    if issubclass(executor_class, base_beam_executor.BaseBeamExecutor):
        context = base_beam_executor.BaseBeamExecutor.Context(
            beam_pipeline_args=["--runner=FnApiRunner"], tmp_dir=str(folder / "tmp"), unique_id="1"
        )
    executor_class(context).Do(
        {key: [value] for key, value in inputs.items()},
        {key: [value] for key, value in outputs.items()},
        dict(component.spec.exec_properties),
    )
    return outputs
