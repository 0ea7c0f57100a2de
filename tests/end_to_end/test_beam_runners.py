# SPDX-License-Identifier: Apache-2.0
"""A run has the same results on other runners of Beam as in one process."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from google.protobuf import json_format
from tensorflow_metadata.proto.v0 import statistics_pb2

from components import datasets, features
from components.train.data import TransformGraph
from tests.values import differences

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Floats that are sums depend on the order of their parts; quantiles are sketches, which depend on the batches.
REL_ROUNDING, ABS_ROUNDING, SKETCH = 1e-6, 1e-12, 0.01
SKETCHES = ("histograms", "numValuesHistogram", "median")
MULTI_PROCESSING = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
CLUSTERS = {
    "flink": ["--runner=FlinkRunner", "--flink_job_server_jar={jar}", "--flink_master=[local]", "--parallelism=2"],
    "spark": ["--runner=SparkRunner", "--spark_job_server_jar={jar}", "--spark_master_url=local[2]"],
}


def run(folder, options=()):
    """Runs the pipeline on the digits, from a folder that is not the checkout's; returns its artifacts."""
    folder.mkdir()
    command = [sys.executable, str(ROOT / "runner_local.py"), "--dataset", "digits", "--train-steps", "200"]
    command += [*(f"--beam-arg={option}" for option in options), "--output", "output", "--json", "record.json"]
    completed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    states = {stage["name"]: stage["state"] for stage in record["stages"]}
    assert completed.returncode == 0, completed.stderr
    assert set(states.values()) == {"done"}
    return {name: pathlib.Path(path) for name, path in record["artifacts"].items()}


@pytest.fixture(scope="module")
def usual(pushed_run):
    """The artifacts of a run in one process."""
    return {name: pathlib.Path(path) for name, path in pushed_run.record["artifacts"].items()}


@pytest.mark.slow
def test_several_processes_have_the_same_results(usual, tmp_path):
    check_results(usual, run(tmp_path / "run", MULTI_PROCESSING))


@pytest.mark.slow
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_cluster_has_the_same_results(cluster, request, tmp_path):
    jar = os.environ.get(f"{cluster.upper()}_JOB_SERVER_JAR")
    if not jar:
        pytest.skip(f"{cluster.upper()}_JOB_SERVER_JAR names no job server of Beam for {cluster.capitalize()}")
    options = [option.format(jar=pathlib.Path(jar).resolve()) for option in CLUSTERS[cluster]]
    check_results(request.getfixturevalue("usual"), run(tmp_path / "run", [*options, "--environment_type=LOOPBACK"]))


def check_results(first, second):
    """Fails at the first artifact in which two runs differ."""
    examples = first["ingest.examples"]
    for split in features.SPLITS:
        assert contents(examples, split) == contents(second["ingest.examples"], split)
        assert statistics_differences(statistics(first, split), statistics(second, split)) == []
    assert transformed(first, examples) == transformed(second, examples)
    assert list(differences(metrics(first), metrics(second), REL_ROUNDING, ABS_ROUNDING)) == []


def contents(examples, split):
    return {path.name: path.read_bytes() for path in (examples / f"Split-{split}").iterdir()}


def metrics(artifacts):
    return json.loads((artifacts["evaluate.checks"] / "metrics.json").read_text(encoding="utf-8"))


def transformed(artifacts, examples):
    """Returns the bytes of the test images after a run's transform graph."""
    graph = TransformGraph(str(artifacts["transform.transform_graph"]))
    spec = {features.IMAGE: tf.io.FixedLenFeature([], tf.string)}
    files = sorted(str(path) for path in (examples / f"Split-{features.TEST}").iterdir())
    batches = datasets.records(files).batch(1024)
    return [graph(tf.io.parse_example(batch, spec)[features.IMAGE]).numpy().tobytes() for batch in batches]


def statistics(artifacts, split):
    path = artifacts["statistics.statistics"] / f"Split-{split}" / features.STATISTICS_FILE
    return tfdv.load_stats_binary(str(path))


def statistics_differences(first, second):
    """Returns the differences of two statistics beyond rounding, and of their sketches beyond `SKETCH`."""
    first_sketches, first_values = split_sketches(first)
    second_sketches, second_values = split_sketches(second)
    lines = [*differences(first_values, second_values, REL_ROUNDING, ABS_ROUNDING)]
    return [*lines, *differences(first_sketches, second_sketches, 0.0, SKETCH)]


def split_sketches(statistics):
    """Returns the sketches of each feature, in shares of its range and of the examples, and all other values."""
    [dataset] = json_format.MessageToDict(statistics)["datasets"]
    # TFDV lists the features in any order.
    dataset["features"] = {".".join(feature["path"]["step"]): feature for feature in dataset["features"]}
    sketches = {}
    for name, feature in dataset["features"].items():
        numbers = feature.get("numStats", {})
        width = float(numbers.get("max", 0)) - float(numbers.get("min", 0)) or 1.0
        sketches[name] = [scaled(sketch, width, float(dataset["numExamples"])) for sketch in pop_sketches(feature)]
    return sketches, dataset


def pop_sketches(values):
    for key in sorted(values):
        if key in SKETCHES:
            yield values.pop(key)
        elif isinstance(values[key], dict):
            yield from pop_sketches(values[key])


def scaled(value, width, count):
    if isinstance(value, dict):
        return {key: scaled(item, count if key == "sampleCount" else width, count) for key, item in value.items()}
    if isinstance(value, list):
        return [scaled(item, width, count) for item in value]
    return value / width if isinstance(value, float) else value


@pytest.mark.parametrize(
    ("first", "second", "lines"),
    [
        ({"a": [1, 2.0]}, {"a": [1, 2.000001]}, []),
        ({"a": [1, 2.0]}, {"a": [1, 2.00001]}, ["/a/1: 2.0 and 2.00001"]),
        ({"a": [1, 2.0]}, {"a": [2, 2.0]}, ["/a/0: 1 and 2"]),
        ({"a": [1]}, {"a": [1, 1]}, ["/a: [1] and [1, 1]"]),
        ({"a": 1}, {"b": 1}, [": {'a': 1} and {'b': 1}"]),
        ({"a": "x"}, {"a": "y"}, ["/a: 'x' and 'y'"]),
    ],
)
def test_values_differ_by_more_than_rounding(first, second, lines):
    assert list(differences(first, second, REL_ROUNDING, ABS_ROUNDING)) == lines


def example_statistics(median, bucket, zeros=3, mean=2.0, names=("pixels", "kind")):
    statistics = statistics_pb2.DatasetFeatureStatisticsList()
    dataset = statistics.datasets.add(num_examples=1000)
    for name in names:
        feature = dataset.features.add()
        feature.path.step.append(name)
        feature.num_stats.min, feature.num_stats.max, feature.num_stats.mean = 0.0, 10.0, mean
        feature.num_stats.median = median
        feature.num_stats.histograms.add().buckets.add(low_value=0, high_value=10, sample_count=bucket)
        feature.num_stats.num_zeros = zeros
    return statistics


def test_sketches_may_differ_by_a_hundredth_and_nothing_else_may():
    statistics = example_statistics(5.0, 500.0)
    other_order = example_statistics(5.09, 509.0, names=("kind", "pixels"))
    assert statistics_differences(statistics, other_order) == []
    lines = statistics_differences(statistics, example_statistics(5.2, 500.0))
    assert lines == ["/pixels/1: 0.5 and 0.52", "/kind/1: 0.5 and 0.52"]
    for changes in ({"bucket": 511.0}, {"zeros": 4}, {"mean": 2.1}):
        other = example_statistics(**{"median": 5.0, "bucket": 500.0, **changes})
        assert len(statistics_differences(statistics, other)) == 2
