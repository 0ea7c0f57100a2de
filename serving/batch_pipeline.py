# SPDX-License-Identifier: Apache-2.0
"""The Beam pipeline of a batch prediction."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from components import features
from components.errors import BadInput
from components.ingest import idx
from serving import preprocess, savedmodel
from serving.batch import ERRORS, PREDICTIONS
from serving.batch_items import Items
from serving.refusal import Refusal

_seen = 0
_MAX_BATCH = 256


class _Answer(NamedTuple):
    """What the model says of an image, or what is wrong with that."""

    label: int
    probabilities: list[float]
    error: str


def progress() -> int:
    """Images that the workers of this process have looked at."""
    return _seen


def run(items: Items, version: pathlib.Path, output: pathlib.Path, beam_args: Sequence[str]) -> tuple[int, int]:
    """Predicts all items.

    Args:
        items: what to read.
        version: folder of the SavedModel.
        output: folder for `predictions-*.jsonl` and `errors-*.jsonl`.
        beam_args: Beam's own options; its runner is FnApiRunner where they name none.

    Returns:
        Numbers of predictions and errors.
    """
    global _seen
    _seen = 0
    arguments = list(beam_args)
    if not any(argument.startswith("--runner") for argument in arguments):
        arguments.append("--runner=FnApiRunner")
    handler = KeyedModelHandler(_Handler(str(version)))
    pipeline = beam.Pipeline(options=PipelineOptions(arguments))
    shape = features.IMAGE_SHAPE
    sources = [
        pipeline | "Pictures" >> beam.Create(list(map(str, items.pictures)))
        | "ReadPictures" >> beam.ParDo(_ReadPicture(shape)).with_outputs(ERRORS, main=PREDICTIONS),
        pipeline | "IDX" >> beam.Create(list(map(str, items.idx)))
        | "ReadIDX" >> beam.ParDo(_ReadIdx(shape)).with_outputs(ERRORS, main=PREDICTIONS),
        pipeline | "Records" >> beam.Create(list(map(str, items.records)))
        | "ReadRecords" >> beam.ParDo(_ReadRecords(shape)).with_outputs(ERRORS, main=PREDICTIONS),
    ]  # fmt: skip
    answers = (
        [source[PREDICTIONS] for source in sources]
        | "Images" >> beam.Flatten()
        | "Spread" >> beam.Reshuffle()
        | RunInference(handler)
        | "Told" >> beam.ParDo(_Tell()).with_outputs(ERRORS, main=PREDICTIONS)
    )
    others = pipeline | "Others" >> beam.Create(
        [_error(str(path), "no picture, IDX or TFRecord") for path in items.others]
    )
    errors = [*(source[ERRORS] for source in sources), answers[ERRORS], others] | "Errors" >> beam.Flatten()
    for name, lines in ((PREDICTIONS, answers[PREDICTIONS]), (ERRORS, errors)):
        _ = lines | f"Count_{name}" >> beam.ParDo(_Count(name))
        _ = lines | f"Write_{name}" >> beam.io.WriteToText(str(output / name), ".jsonl", num_shards=1)
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query()["counters"]
    counts = {
        counter.key.metric.name: counter.committed for counter in counters if counter.key.metric.namespace == "batch"
    }
    return counts.get(PREDICTIONS, 0), counts.get(ERRORS, 0)


class _Handler(ModelHandler[npt.NDArray[np.uint8], _Answer, savedmodel.SavedModel]):
    """How RunInference loads and calls the model."""

    def __init__(self, path: str):
        self._path = path

    def load_model(self) -> savedmodel.SavedModel:
        return savedmodel.load(pathlib.Path(self._path))

    def batch_elements_kwargs(self) -> dict[str, Any]:
        return {"min_batch_size": 16, "max_batch_size": _MAX_BATCH}

    def run_inference(
        self,
        batch: Sequence[npt.NDArray[np.uint8]],
        model: savedmodel.SavedModel,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[_Answer]:
        global _seen
        answers = self._answers(batch, model)
        _seen += len(batch)
        return answers

    def _answers(self, batch: Sequence[npt.NDArray[np.uint8]], model: savedmodel.SavedModel) -> list[_Answer]:
        try:
            found = model.signatures[features.SIGNATURE_PIXELS].run({features.PIXELS_INPUT: np.stack(batch)})
        except Refusal as refusal:
            if len(batch) == 1:
                return [_Answer(-1, [], refusal.message)]
            middle = len(batch) // 2
            return self._answers(batch[:middle], model) + self._answers(batch[middle:], model)
        pairs = zip(found[features.CLASS_OUTPUT], found[features.PROBABILITIES_OUTPUT], strict=True)
        return [_Answer(int(label), row.tolist(), "") for label, row in pairs]


class _ReadPicture(beam.DoFn):
    def __init__(self, shape: tuple[int, int]):
        self._shape = shape

    def process(self, path: str) -> Iterator[Any]:
        try:
            yield path, preprocess.read(path, self._shape)
        except BadInput as error:
            yield beam.pvalue.TaggedOutput(ERRORS, _error(path, str(error)))


class _ReadIdx(beam.DoFn):
    def __init__(self, shape: tuple[int, int]):
        self._shape = shape

    def process(self, path: str) -> Iterator[Any]:
        try:
            images = idx.read_images(path, self._shape).array
        except BadInput as error:
            yield beam.pvalue.TaggedOutput(ERRORS, _error(path, str(error)))
            return
        for number, image in enumerate(images):
            yield f"{path}#{number}", image


class _ReadRecords(beam.DoFn):
    def __init__(self, shape: tuple[int, int]):
        self._shape = shape

    def process(self, path: str) -> Iterator[Any]:
        import tensorflow as tf

        from components import datasets

        height, width = self._shape
        kind = "GZIP" if path.endswith(".gz") else ""
        number = 0
        try:
            for number, record in enumerate(datasets.records([path], kind).as_numpy_iterator()):
                name = f"{path}#{number}"
                try:
                    (image,) = tf.train.Example.FromString(record).features.feature[features.IMAGE].bytes_list.value
                    yield name, np.frombuffer(image, np.uint8).reshape(height, width)
                except Exception:  # protobuf's error has no public class
                    expected = f"a tf.Example with the feature image of {height * width} bytes"
                    yield beam.pvalue.TaggedOutput(
                        ERRORS, _error(name, f"a record must be {expected}; this one is not")
                    )
        except tf.errors.OpError as error:
            message = error.message.split("\n", 1)[0]
            yield beam.pvalue.TaggedOutput(ERRORS, _error(path, f"cannot be read after record {number}: {message}"))


class _Tell(beam.DoFn):
    def process(self, element: tuple[str, _Answer]) -> Iterator[Any]:
        name, answer = element
        if answer.error:
            yield beam.pvalue.TaggedOutput(ERRORS, _error(name, answer.error))
            return
        label = features.CLASSES[answer.label] if answer.label < len(features.CLASSES) else str(answer.label)
        yield json.dumps({"id": name, "class": label, "probabilities": answer.probabilities})


class _Count(beam.DoFn):
    def __init__(self, name: str):
        self._counter = beam.metrics.Metrics.counter("batch", name)

    def process(self, _: str) -> Iterator[Any]:
        self._counter.inc()
        return iter(())


def _error(name: str, message: str) -> str:
    return json.dumps({"id": name, "error": message})
