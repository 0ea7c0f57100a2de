# SPDX-License-Identifier: Apache-2.0
"""The limits of the model gate and of the infrastructure gate. No heavy imports: settings are read first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from components.table import Table


class ModelLimits(Table):
    """Limits that a candidate must meet on the test split to be blessed.

    The defaults are for 10,000 test images and 99 % accuracy, where one standard error of an accuracy is
    sqrt(0.99 * 0.01 / 10000) = 0.1 points. A profile for fewer images needs wider ones.
    """

    accuracy: Mapping[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        description="model type -> the accuracy below which something must be broken"
    )
    # Three standard errors, so that an equally good training is not refused for its luck.
    change: float = Field(
        default=0.003,
        ge=-1,
        le=1,
        description="how much lower the accuracy may be than that of the model in production",
    )
    # Two standard errors: a series of small losses, each within `change`, must not add up.
    best: float = Field(
        default=0.002, ge=-1, le=1, description="how much lower it may be than that of the best version ever pushed"
    )
    recall: float = Field(default=0.8, ge=0, le=1, description="recall below which no single class may fall")
    test_examples: int = Field(
        default=1000, ge=0, description="number of test images below which the figures mean too little"
    )


class InfraLimits(Table):
    """Limits that an exported model must meet to be served."""

    # A CNN of this size takes 1 to 3; the limit tells a broken export, not a busy machine.
    latency_ms: float = Field(
        default=100.0,
        gt=0,
        description="milliseconds for one image in a fresh process, the median of some, through the slowest signature",
    )
    # float32 in another order of summation differs by 1e-6.
    difference: float = Field(
        default=1e-5,
        ge=0,
        le=1,
        description="how far a probability may be from that of the trained model on the same image",
    )
