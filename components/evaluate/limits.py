# SPDX-License-Identifier: Apache-2.0
"""The limits of the model gate and of the infrastructure gate.

No heavy imports: the configuration is read before anything else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class ModelLimits:
    """What a candidate must reach on the test split to be blessed.

    The defaults are for 10,000 test images and 99 % accuracy, where one standard error of an accuracy is
    sqrt(0.99 * 0.01 / 10000) = 0.1 points. A profile for fewer images needs wider ones.

    Attributes:
        accuracy: model type -> the accuracy, 0 .. 1, below which something must be broken.
        change: how much lower than the accuracy of the model in production the candidate's may be; three standard
            errors, so that an equally good training is not refused for its luck.
        best: the same against the best version ever pushed. Smaller, two standard errors: a series of small losses,
            each within `change`, must not add up.
        recall: the recall, 0 .. 1, below which no single class may fall.
        test_examples: the number of test examples below which the figures mean too little.
    """

    accuracy: Mapping[str, float]
    change: float = 0.003
    best: float = 0.002
    recall: float = 0.8
    test_examples: int = 1000

    def to_config(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class InfraLimits:
    """What an exported model must keep to be served.

    Attributes:
        latency_ms: milliseconds that one image may take in a fresh process, the median of some, through the slowest
            signature. A CNN of this size takes 1 to 3; the limit tells a broken export, not a busy machine.
        difference: how far a probability may be from that of the trained model on the same image. float32 in another
            order of summation differs by 1e-6.
    """

    latency_ms: float = 100.0
    difference: float = 1e-5

    def to_config(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)
