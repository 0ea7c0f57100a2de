# SPDX-License-Identifier: Apache-2.0
"""The graph's side of validate: statistics and the curated schema, the checks of images and of the data."""

import json
import pathlib
from concurrent import futures
from typing import NamedTuple

import apache_beam as beam
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import artifact_utils
from tfx.types.channel import BaseChannel
from tfx.types.standard_artifacts import ExampleAnomalies, Examples, ExampleStatistics, Model, Schema
from tfx.utils import io_utils

from components import features, findings, progress
from components.artifacts import Checks
from components.validate.limits import LabelLimits, PixelLimits

SUSPECTS_FILE, SCHEMA_FILE = "label_suspects.json", "schema.pbtxt"


@component(use_beam=True)
def Statistics(
    examples: InputArtifact[Examples],
    statistics: OutputArtifact[ExampleStatistics],
    schema: OutputArtifact[Schema],
    schema_file: Parameter[str],
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Computes TFDV's statistics of each split, and publishes the curated schema that says what the features are.

    Input: `examples`. Outputs: `statistics`, as TFX's StatisticsGen writes them; `schema`, as TFX's ImportSchemaGen
    does. Parameter: `schema_file`, the schema as the worker sees it.
    """
    from components.validate import statistics as tfdv_statistics

    curated_schema = io_utils.SchemaReader().read(schema_file)
    io_utils.copy_file(schema_file, str(pathlib.Path(schema.uri) / SCHEMA_FILE))
    statistics.split_names = artifact_utils.encode_split_names(list(features.SPLITS))
    statistics.span = examples.span
    with beam_pipeline as pipeline:
        tfdv_statistics.compute(pipeline, examples.uri, curated_schema, pathlib.Path(statistics.uri))


@component
def ImageCheck(
    examples: InputArtifact[Examples],
    checks: OutputArtifact[Checks],
    pixel_limits: Parameter[str],
    label_limits: Parameter[str],
) -> None:
    """Looks at every image and label; nothing else decides what it finds, so it is not done again for another model.

    Input: `examples`. Output: `checks`, with every suspect label in `label_suspects.json` besides. Parameters:
    `pixel_limits` and `label_limits`, the fields of `PixelLimits` and `LabelLimits` as JSON.
    """
    import threadpoolctl

    from components.validate import image_check, images, label_noise

    progress.report(progress.Message("checking every image and label"))
    splits = {split: images.load_images(examples.uri, split) for split in features.SPLITS}
    training = images.in_file_order(splits[features.TRAIN], splits[features.VAL])
    classes = len(features.CLASSES)
    # Both are NumPy at work on large arrays, which leaves Python to the other. OpenBLAS gets no threads of its own:
    # between two products they would keep the processors busy with waiting, for half of what all this takes and more.
    with threadpoolctl.threadpool_limits(1, "blas"), futures.ThreadPoolExecutor(1) as beside:
        looked = beside.submit(image_check.check, splits, PixelLimits(**json.loads(pixel_limits)))
        noise = label_noise.find_label_noise(training, classes)
        found = list(looked.result())
    found += label_noise.check_label_noise(training, classes, LabelLimits(**json.loads(label_limits)), noise)
    findings.write(checks.uri, findings=found)
    (pathlib.Path(checks.uri) / SUSPECTS_FILE).write_text(json.dumps(noise.to_rows(), indent=1), encoding="utf-8")


@component
def DataCheck(
    examples: InputArtifact[Examples],
    images: InputArtifact[Checks],
    statistics: InputArtifact[ExampleStatistics],
    schema: InputArtifact[Schema],
    baseline: InputArtifact[Model],
    anomalies: OutputArtifact[ExampleAnomalies],
    checks: OutputArtifact[Checks],
    allow: Parameter[str],
) -> None:
    """Publishes what is wrong with the data; the data gate decides what follows.

    Inputs: `examples`, of which only the data set's name and what was left out are read; `images`, what `ImageCheck`
    found; `statistics`; `schema`; and `baseline`, the model in production with the statistics and the name of its
    training data. Outputs: `anomalies`, as TFX's ExampleValidator writes them; `checks`. Parameter: `allow`, names of
    findings with commas between them.

    Raises:
        BadInput: there is no finding of a name in `allow`.
    """
    from tfx.components.example_validator.executor import Executor as ExampleValidator

    from components.validate import classes, data_check, kinds

    ExampleValidator().Do({"statistics": [statistics], "schema": [schema]}, {"anomalies": [anomalies]}, {})
    found = list(data_check.dataset_changed(examples.get_string_custom_property("dataset"), _dataset(baseline)))
    found += classes.excluded(json.loads(examples.get_string_custom_property("excluded") or "{}"))
    found += findings.read(images.uri)[0]
    for split in features.SPLITS:
        found += data_check.anomalies(split, data_check.load_anomalies(anomalies.uri, split))
    by_split = data_check.statistics_of(statistics.uri)
    production = pathlib.Path(baseline.uri) / "Format-Serving" / "assets.extra" / "train_stats.pb"
    found += data_check.drift_and_skew(
        io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema.uri)),
        by_split[features.TRAIN],
        by_split[features.TEST],
        data_check.load_statistics_file(production) if production.is_file() else None,
    )
    source = json.loads((pathlib.Path(examples.uri) / features.SOURCE_FILE).read_text(encoding="utf-8"))
    empty = data_check.empty_split(source["splits"])
    findings.write(checks.uri, findings=[*empty, *data_check.drop_allowed(found, kinds.parse(allow))])


def _dataset(baseline: Model) -> str | None:
    return baseline.get_string_custom_property("dataset") or None


class Validation(NamedTuple):
    """The nodes of the stage, in order, and what later stages take from it."""

    statistics_node: BaseComponent
    image_check: BaseComponent
    data_check: BaseComponent

    @property
    def schema(self) -> BaseChannel:
        return self.statistics_node.outputs["schema"]

    @property
    def statistics(self) -> BaseChannel:
        return self.statistics_node.outputs["statistics"]

    @property
    def checks(self) -> BaseChannel:
        return self.data_check.outputs["checks"]


def validate(
    *,
    examples: BaseChannel,
    baseline: BaseChannel,
    schema_file: str,
    pixel_limits: PixelLimits,
    label_limits: LabelLimits,
    allow: str | RuntimeParameter,
) -> Validation:
    """Builds the stage.

    Args:
        examples: Examples of the data.
        baseline: the model in production.
        schema_file: the curated schema, as the worker sees it.
        pixel_limits: what images and labels are held against.
        label_limits: what the suspect labels are held against.
        allow: names of findings that shall not stop the run, with commas between them.
    """
    statistics_node = Statistics(examples=examples, schema_file=schema_file).with_id("statistics")
    image_check = ImageCheck(
        examples=examples,
        pixel_limits=json.dumps(pixel_limits.to_config(), sort_keys=True),
        label_limits=json.dumps(label_limits.to_config(), sort_keys=True),
    ).with_id("image-check")
    data_check = DataCheck(
        examples=examples,
        images=image_check.outputs["checks"],
        statistics=statistics_node.outputs["statistics"],
        schema=statistics_node.outputs["schema"],
        baseline=baseline,
        allow=allow,
    ).with_id("data-check")
    return Validation(statistics_node, image_check, data_check)
