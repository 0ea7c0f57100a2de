# SPDX-License-Identifier: Apache-2.0
"""The nodes of validate: statistics and the curated schema, the image check and the data check."""

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
    """Computes TFDV's statistics of each split, and publishes the curated schema of the features.

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
    """Checks every image and label. Its result depends on nothing else, so it is cached when another model is trained.

    Input: `examples`. Output: `checks`, with every suspect label in `label_suspects.json` besides. Parameters:
    `pixel_limits` and `label_limits`, the fields of `PixelLimits` and `LabelLimits` as JSON.
    """
    import threadpoolctl

    from components.validate import image_check, images, label_noise

    progress.report(progress.Message("checking every image and label"))
    splits = {split: images.load_images(examples.uri, split) for split in features.SPLITS}
    training = images.in_file_order(splits[features.TRAIN], splits[features.VAL])
    classes = len(features.CLASSES)
    # NumPy releases the interpreter lock while it works on large arrays, so the two checks run in parallel. OpenBLAS
    # gets no threads of its own: they would spin between two products, for half of the time of this node and more.
    with threadpoolctl.threadpool_limits(1, "blas"), futures.ThreadPoolExecutor(1) as pool:
        image_findings = pool.submit(image_check.check, splits, PixelLimits(**json.loads(pixel_limits)))
        noise = label_noise.find_label_noise(training, classes)
        results = list(image_findings.result())
    results += label_noise.check_label_noise(training, classes, LabelLimits(**json.loads(label_limits)), noise)
    findings.write(checks.uri, findings=results)
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
    """Publishes the findings in the data; the data gate decides whether they stop the run.

    Inputs: `examples`, of which only the data set's name and the excluded images are read; `images`, the findings of
    `ImageCheck`; `statistics`; `schema`; and `baseline`, the model in production with the statistics and the name of
    its training data. Outputs: `anomalies`, as TFX's ExampleValidator writes them; `checks`. Parameter: `allow`,
    comma-separated names of findings.

    Raises:
        BadInput: no finding has a name in `allow`.
    """
    from tfx.components.example_validator.executor import Executor as ExampleValidator

    from components.validate import classes, data_check

    ExampleValidator().Do({"statistics": [statistics], "schema": [schema]}, {"anomalies": [anomalies]}, {})
    results = list(data_check.compare_datasets(examples.get_string_custom_property("dataset"), _dataset(baseline)))
    results += classes.report_excluded(json.loads(examples.get_string_custom_property("excluded") or "{}"))
    results += findings.read(images.uri)[0]
    for split in features.SPLITS:
        results += data_check.describe_anomalies(split, data_check.load_anomalies(anomalies.uri, split))
    by_split = data_check.load_statistics(statistics.uri)
    production = pathlib.Path(baseline.uri) / "Format-Serving" / "assets.extra" / "train_stats.pb"
    results += data_check.find_drift_and_skew(
        io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema.uri)),
        by_split[features.TRAIN],
        by_split[features.TEST],
        data_check.load_statistics_file(production) if production.is_file() else None,
    )
    source = json.loads((pathlib.Path(examples.uri) / features.SOURCE_FILE).read_text(encoding="utf-8"))
    empty = data_check.find_empty_splits(source["splits"])
    findings.write(checks.uri, findings=[*empty, *data_check.mark_allowed(results, findings.parse_names(allow))])


def _dataset(baseline: Model) -> str | None:
    return baseline.get_string_custom_property("dataset") or None


class Validation(NamedTuple):
    """The nodes of the stage, in order, and the outputs that later stages read."""

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
        pixel_limits: limits for images and labels.
        label_limits: limits for suspect labels.
        allow: comma-separated names of findings that do not stop the run.
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
