# SPDX-License-Identifier: Apache-2.0
"""Every kind of finding of the data gate: the words that `--allow` takes."""

from components.validate import label_noise, pixels

DATASET_CHANGED = "dataset-changed"
ANOMALY, SKEW, DRIFT = "anomaly", "skew", "drift"
ALL = (DATASET_CHANGED, *pixels.NAMES, label_noise.NAME, ANOMALY, SKEW, DRIFT)
