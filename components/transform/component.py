# SPDX-License-Identifier: Apache-2.0
"""The node of transform: TFX's Transform, without outputs that no stage reads."""

from __future__ import annotations

from tfx.components.transform.component import Transform
from tfx.proto import transform_pb2
from tfx.types.channel import BaseChannel

from components import features

PREPROCESSING_FN = "components.transform.preprocessing.preprocessing_fn"


def transform(*, examples: BaseChannel, schema: BaseChannel) -> Transform:
    """Exports the transform graph that training applies and the exported model carries.

    Args:
        examples: Examples with the splits of `features.SPLITS`.
        schema: Schema that gives `image` and `label` a fixed shape.

    Returns:
        Transform; `transform_graph` is its only output. Statistics are a stage of their own, and transformed images are
        not stored: as floats they take four times the space of the bytes, and computing them is faster than reading.
    """
    return Transform(
        examples=examples,
        schema=schema,
        preprocessing_fn=PREPROCESSING_FN,
        splits_config=transform_pb2.SplitsConfig(analyze=[features.TRAIN], transform=[features.TRAIN]),
        materialize=False,
        disable_statistics=True,
        disable_analyzer_cache=True,
    )
