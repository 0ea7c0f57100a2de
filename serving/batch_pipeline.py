# SPDX-License-Identifier: Apache-2.0
"""The Beam pipeline of a batch prediction.

It uses Beam's RunInference: TFX's BulkInferrer reads tf.Examples only, and fails if the model refuses a single one.
Beam's workers import this module, so it must never be the `__main__` module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import struct
import tempfile
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
from serving.cli import class_name
from serving.limits import RequestError
from serving.models import LoadedModel

_PREDICTIONS, _ERRORS = "predictions", "errors"
_MAX_BATCH = 256


@dataclasses.dataclass
class InputFiles:
    """Files to predict, by format, in order of their names; `unsupported` have none of the formats."""

    pictures: list[str] = dataclasses.field(default_factory=list)
    idx: list[str] = dataclasses.field(default_factory=list)
    records: list[str] = dataclasses.field(default_factory=list)
    unsupported: list[str] = dataclasses.field(default_factory=list)

    @property
    def images(self) -> int | None:
        """Number of images; None if that is only known once the files are read."""
        if self.records or any(path.endswith(".gz") for path in self.idx):
            return None
        return len(self.pictures) + sum(map(_read_idx_count, self.idx))


class Counts(NamedTuple):
    """Numbers of lines that a batch prediction wrote."""

    predictions: int
    errors: int


class Result(NamedTuple):
    """Class index and probabilities of an image, or the error of the model."""

    label: int
    probabilities: list[float]
    error: str


def find_files(path: pathlib.Path) -> InputFiles:
    """Returns a file, or all files below a folder, by format.

    Raises:
        BadInput: none has a known format.
    """
    paths = [path]
    if path.is_dir():
        paths = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    files = InputFiles()
    for file in paths:
        name, absolute = file.name.lower(), str(file.absolute())
        if name.endswith((".png", ".jpg", ".jpeg")):
            files.pictures.append(absolute)
        elif "idx3-ubyte" in name:
            files.idx.append(absolute)
        elif ".tfrecord" in name or "tfrecord-" in name:
            files.records.append(absolute)
        elif "idx1-ubyte" not in name:  # the labels of IDX images
            files.unsupported.append(absolute)
    if not (files.pictures or files.idx or files.records):
        raise BadInput(f"INPUT takes PNG or JPEG pictures, IDX files (…-idx3-ubyte) or TFRecords; {path} has none")
    return files


class BatchPipeline:
    """Predicts files with one version of a model.

    Args:
        version: folder of the SavedModel.
        output: folder for `predictions-*.jsonl` and `errors-*.jsonl`.
        beam_args: options of Beam; the runner is FnApiRunner unless they name another.
    """

    def __init__(self, version: pathlib.Path, output: pathlib.Path, beam_args: Sequence[str]):
        self._version = version
        self._output = output
        self._beam_args = list(beam_args)
        if not any(argument.startswith("--runner") for argument in self._beam_args):
            self._beam_args.append("--runner=FnApiRunner")
        # Workers on this machine, be they threads or processes, append a byte for each image.
        self._progress = tempfile.NamedTemporaryFile(prefix="serving-batch-")  # noqa: SIM115

    def count_images(self) -> int:
        """Returns the number of images that workers on this machine have predicted."""
        return os.fstat(self._progress.fileno()).st_size

    def run(self, files: InputFiles) -> Counts:
        """Predicts all images."""
        pipeline = beam.Pipeline(options=PipelineOptions(self._beam_args))
        handler = KeyedModelHandler(_ModelHandler(str(self._version), self._progress.name))
        shape = features.IMAGE_SHAPE
        sources = [
            pipeline
            | f"List_{name}" >> beam.Create(paths)
            | f"Read_{name}" >> beam.ParDo(read).with_outputs(_ERRORS, main=_PREDICTIONS)
            for name, paths, read in (
                ("pictures", files.pictures, _ReadPicture(shape)),
                ("idx", files.idx, _ReadIdx(shape)),
                ("records", files.records, _ReadRecords(shape)),
            )
        ]
        results = (
            [source[_PREDICTIONS] for source in sources]
            | "Images" >> beam.Flatten()
            | "Spread" >> beam.Reshuffle()
            | RunInference(handler)
            | "Format" >> beam.ParDo(_FormatResult()).with_outputs(_ERRORS, main=_PREDICTIONS)
        )
        unsupported = pipeline | "Unsupported" >> beam.Create(
            [_error_line(path, "not a picture, IDX file or TFRecord") for path in files.unsupported]
        )
        errors = [*(source[_ERRORS] for source in sources), results[_ERRORS], unsupported] | "Errors" >> beam.Flatten()
        for name, lines in ((_PREDICTIONS, results[_PREDICTIONS]), (_ERRORS, errors)):
            _ = lines | f"Count_{name}" >> beam.ParDo(_Count(name))
            _ = lines | f"Write_{name}" >> beam.io.WriteToText(str(self._output / name), ".jsonl", num_shards=1)
        result = pipeline.run()
        result.wait_until_finish()
        counters = result.metrics().query(beam.metrics.MetricsFilter().with_namespace(__name__))["counters"]
        counts = {counter.key.metric.name: counter.committed for counter in counters}
        return Counts(counts.get(_PREDICTIONS, 0), counts.get(_ERRORS, 0))


class _ModelHandler(ModelHandler[npt.NDArray[np.uint8], Result, LoadedModel]):
    """Loads and calls the model for RunInference."""

    def __init__(self, version: str, progress: str):
        self._version = version
        self._progress = progress

    def load_model(self) -> LoadedModel:
        return savedmodel.load(pathlib.Path(self._version))

    def batch_elements_kwargs(self) -> dict[str, Any]:
        return {"min_batch_size": 16, "max_batch_size": _MAX_BATCH}

    def run_inference(
        self,
        batch: Sequence[npt.NDArray[np.uint8]],
        model: LoadedModel,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[Result]:
        results = self._predict(batch, model)
        # A worker on another machine does not have the file.
        with contextlib.suppress(FileNotFoundError), open(self._progress, "ab", opener=_open_existing) as file:
            file.write(bytes(len(batch)))
        return results

    def _predict(self, batch: Sequence[npt.NDArray[np.uint8]], model: LoadedModel) -> list[Result]:
        try:
            outputs = model.signatures[features.SIGNATURE_PIXELS].run({features.PIXELS_INPUT: np.stack(batch)})
        except RequestError as error:
            if len(batch) == 1:
                return [Result(-1, [], error.message)]
            middle = len(batch) // 2
            return self._predict(batch[:middle], model) + self._predict(batch[middle:], model)
        pairs = zip(outputs[features.CLASS_OUTPUT], outputs[features.PROBABILITIES_OUTPUT], strict=True)
        return [Result(int(label), row.tolist(), "") for label, row in pairs]


class _ReadPicture(beam.DoFn):
    def __init__(self, shape: tuple[int, int]):
        self._shape = shape

    def process(self, path: str) -> Iterator[Any]:
        try:
            yield path, preprocess.read(path, self._shape)
        except BadInput as error:
            yield _error(path, str(error))


class _ReadIdx(beam.DoFn):
    def __init__(self, shape: tuple[int, int]):
        self._shape = shape

    def process(self, path: str) -> Iterator[Any]:
        try:
            images = idx.read_images(path, self._shape).array
        except BadInput as error:
            yield _error(path, str(error))
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
        compression = "GZIP" if path.endswith(".gz") else ""
        number = 0
        try:
            for number, record in enumerate(datasets.records([path], compression).as_numpy_iterator()):
                name = f"{path}#{number}"
                try:
                    (image,) = tf.train.Example.FromString(record).features.feature[features.IMAGE].bytes_list.value
                    yield name, np.frombuffer(image, np.uint8).reshape(height, width)
                except Exception:  # protobuf's error has no public class
                    yield _error(
                        name, f"a record must be a tf.Example with {height * width} bytes as `{features.IMAGE}`"
                    )
        except tf.errors.OpError as error:
            message = error.message.split("\n", 1)[0]
            yield _error(path, f"cannot be read after record {number}: {message}")


class _FormatResult(beam.DoFn):
    def process(self, element: tuple[str, Result]) -> Iterator[Any]:
        name, result = element
        if result.error:
            yield _error(name, result.error)
        else:
            yield json.dumps({"id": name, "class": class_name(result.label), "probabilities": result.probabilities})


class _Count(beam.DoFn):
    def __init__(self, name: str):
        self._counter = beam.metrics.Metrics.counter(__name__, name)

    def process(self, _: str) -> Iterator[Any]:
        self._counter.inc()
        return iter(())


def _error(name: str, message: str) -> beam.pvalue.TaggedOutput:
    return beam.pvalue.TaggedOutput(_ERRORS, _error_line(name, message))


def _error_line(name: str, message: str) -> str:
    return json.dumps({"id": name, "error": message})


def _open_existing(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_CREAT)


def _read_idx_count(path: str) -> int:
    """Returns the number of images in the header of an IDX file, 0 if it has none."""
    with pathlib.Path(path).open("rb") as file:
        header = file.read(8)
    return struct.unpack(">I", header[4:])[0] if len(header) == 8 else 0
