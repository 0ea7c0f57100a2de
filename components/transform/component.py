# SPDX-License-Identifier: Apache-2.0
"""The graph's side of transform: the stock Transform, without the work that nobody reads."""

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
        Transform; its output `transform_graph` is all that it computes. Statistics are a stage of their own, and floats
        are quicker computed again than read: they take four times the space of the bytes.
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
