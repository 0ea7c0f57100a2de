# SPDX-License-Identifier: Apache-2.0
"""TFDV's findings in words, on statistics of small tables and the real schema of MNIST."""

import numpy as np
import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import statistics_pb2

from components import features
from components.validate import data_check
from pipeline import settings

SCHEMA = tfdv.load_schema_text(str(settings.PROFILES / "mnist.pbtxt"))


def statistics(
    labels: list[int], ink: float = 0.13, contrast: float = 1.0
) -> statistics_pb2.DatasetFeatureStatisticsList:
    count = len(labels)
    spread = np.linspace(0.5, 1.5, count)
    table = {
        features.IMAGE: [b"%d" % row for row in range(count)],
        features.ID: [b"f#%d" % row for row in range(count)],
        features.LABEL: labels,
        features.HEIGHT: [28] * count,
        features.WIDTH: [28] * count,
        features.MEAN_INTENSITY: (ink * spread).astype(np.float32),
        features.INK_SHARE: (ink * spread).astype(np.float32),
        features.CONTRAST: np.full(count, contrast, np.float32),
        features.SLANT: spread.astype(np.float32) - 1,
    }
    return tfdv.generate_statistics_from_dataframe(pd.DataFrame(table), tfdv.StatsOptions(schema=SCHEMA))


GOOD = statistics(list(range(10)) * 20)


def test_clean_data_has_no_findings() -> None:
    assert list(data_check.describe_anomalies("train", tfdv.validate_statistics(GOOD, SCHEMA))) == []
    assert list(data_check.find_drift_and_skew(SCHEMA, GOOD, GOOD, GOOD)) == []


def test_a_finding_does_not_list_thousands_of_values() -> None:
    schema = type(SCHEMA)()
    schema.CopyFrom(SCHEMA)
    next(feature for feature in schema.feature if feature.name == features.ID).string_domain.value.append("f#0")
    sentences = [
        finding.sentence for finding in data_check.describe_anomalies("train", tfdv.validate_statistics(GOOD, schema))
    ]
    assert len(sentences) == 1
    assert "f#1 " in sentences[0]
    assert len(sentences[0]) < 500


def test_a_label_out_of_range_has_split_and_feature() -> None:
    bad = statistics([*range(10), 11] * 20)
    [finding] = data_check.describe_anomalies("train", tfdv.validate_statistics(bad, SCHEMA))
    assert finding.name == "label-out-of-range"
    assert finding.sentence.startswith("train: feature 'label': ")
    assert "11" in finding.sentence


def test_a_blank_image_is_out_of_the_domain_of_contrast() -> None:
    bad = statistics(list(range(10)) * 20, contrast=0.0)
    [finding] = data_check.describe_anomalies("test", tfdv.validate_statistics(bad, SCHEMA))
    assert "'contrast'" in finding.sentence


def test_skew_between_train_and_test_has_measure_and_limit() -> None:
    shifted = statistics([0] * 60 + list(range(10)) * 14)
    [finding] = data_check.find_drift_and_skew(SCHEMA, GOOD, shifted, None)
    assert finding.name == "skew"
    assert finding.measured is not None
    assert finding.measured > 0.2
    assert finding.limit == pytest.approx(0.03 + 4 * (0.235 * 0.765 * 2 / 200) ** 0.5, abs=0.001)
    assert f"the limit of {finding.limit:.3f} (0.03, and 0.170 for chance with 200 and 200 images)" in finding.sentence
    assert "'label'" in finding.sentence
    assert "--allow skew" in finding.sentence


def test_drift_is_against_the_data_of_the_model_in_production() -> None:
    findings = list(data_check.find_drift_and_skew(SCHEMA, GOOD, GOOD, statistics(list(range(10)) * 20, ink=0.3)))
    assert {finding.name for finding in findings} == {"drift"}
    assert any("'ink_share'" in finding.sentence for finding in findings)


def test_another_data_set_than_that_of_production_is_a_finding_unless_allowed() -> None:
    assert list(data_check.compare_datasets("mnist", None)) == []
    assert list(data_check.compare_datasets("mnist", "mnist")) == []
    [finding] = data_check.mark_allowed(data_check.compare_datasets("mnist", "digits"), ["skew"])
    assert finding.name == "dataset-changed"
    assert not finding.allowed
    [finding] = data_check.mark_allowed(data_check.compare_datasets("mnist", "digits"), ["dataset-changed"])
    assert finding.allowed
