# SPDX-License-Identifier: Apache-2.0
"""The pipeline comes to the same on other engines of Beam."""

from __future__ import annotations

import os
import pathlib

import pytest
from tensorflow_metadata.proto.v0 import statistics_pb2

from benchmarks import artifacts_compared, beam_engines
from benchmarks.artifacts_compared import differ

STEPS = "20"


@pytest.mark.slow
def test_multi_processing_comes_to_the_same(capsys):
    assert beam_engines.main(["--engine", beam_engines.MULTI_PROCESSING, "--steps", STEPS]) == 0
    said = capsys.readouterr().out
    assert said.count("  equal: ") == 8
    assert "DIFFERENT" not in said


@pytest.mark.slow
@pytest.mark.parametrize("engine", [beam_engines.FLINK, beam_engines.SPARK])
def test_a_cluster_comes_to_the_same(engine, capsys):
    variable = f"{engine.upper()}_JOB_SERVER_JAR"
    jar = os.environ.get(variable)
    if not jar:
        pytest.skip(f"{variable} names no job server of Beam for {engine.capitalize()}")
    assert beam_engines.main(["--engine", engine, f"--{engine}-job-server", jar, "--steps", STEPS]) == 0
    assert capsys.readouterr().out.count("  equal: ") == 8


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", "0"], "--steps must be at least 1"),
        (["--engine", "flink"], "--engine takes multi-processing, loopback; received 'flink'"),
        (["--flink-job-server", "nowhere.jar"], "a job server must be a jar file"),
    ],
)
def test_wrong_usage_is_refused(arguments, sentence, capsys):
    assert beam_engines.main(arguments) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "second", "places"),
    [
        ({"a": [1, 2.0]}, {"a": [1, 2.000001]}, []),
        ({"a": [1, 2.0]}, {"a": [1, 2.00001]}, ["/a/1: 2.0 and 2.00001"]),
        ({"a": [1, 2.0]}, {"a": [2, 2.0]}, ["/a/0: 1 and 2"]),
        ({"a": [1]}, {"a": [1, 1]}, ["/a: [1] and [1, 1]"]),
        ({"a": 1}, {"b": 1}, [": ['a'] and ['b']"]),
        ({"a": "x"}, {"a": "y"}, ["/a: 'x' and 'y'"]),
    ],
)
def test_values_differ_by_more_than_rounding(first, second, places):
    assert list(differ("", first, second, artifacts_compared.ROUNDING)) == places


def _statistics(median, bucket, zeros=3, mean=2.0):
    made = statistics_pb2.DatasetFeatureStatisticsList()
    dataset = made.datasets.add(num_examples=1000)
    for name in ("pixels", "kind"):
        feature = dataset.features.add()
        feature.path.step.append(name)
        feature.num_stats.min, feature.num_stats.max, feature.num_stats.mean = 0.0, 10.0, mean
        feature.num_stats.median = median
        feature.num_stats.histograms.add().buckets.add(low_value=0, high_value=10, sample_count=bucket)
        feature.num_stats.num_zeros = zeros
    return made


def _differences(folder: pathlib.Path, first, second):
    read = []
    for number, made in enumerate((first, second)):
        path = folder / f"{number}.pb"
        path.write_bytes(made.SerializeToString())
        read.append(artifacts_compared._statistics(path))
    return list(artifacts_compared._statistics_differ(*read))


def test_sketches_may_differ_by_a_hundredth_and_nothing_else_may(tmp_path):
    same = _statistics(5.0, 500.0)
    other_order = statistics_pb2.DatasetFeatureStatisticsList.FromString(_statistics(5.09, 509.0).SerializeToString())
    first, second = other_order.datasets[0].features
    other_order.datasets[0].ClearField("features")
    other_order.datasets[0].features.extend([second, first])
    assert _differences(tmp_path, same, other_order) == []
    assert _differences(tmp_path, same, _statistics(5.2, 500.0)) == ["pixels: 5.0 and 5.2", "kind: 5.0 and 5.2"]
    assert len(_differences(tmp_path, same, _statistics(5.0, 511.0))) == 2
    assert len(_differences(tmp_path, same, _statistics(5.0, 500.0, zeros=4))) == 2
    assert len(_differences(tmp_path, same, _statistics(5.0, 500.0, mean=2.1))) == 2


def test_other_bytes_and_other_files_are_told(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "a").write_bytes(b"1")
    assert list(artifacts_compared._files(first, second)) == []
    (second / "a").write_bytes(b"2")
    (second / "b").write_bytes(b"2")
    assert list(artifacts_compared._files(first, second)) == [
        "files ['a'] and ['a', 'b']",
        "a has other bytes",
    ]
