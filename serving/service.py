# SPDX-License-Identifier: Apache-2.0
"""A prediction, whatever protocol asked for it: checks, the queue, the model, and what is remembered of it."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from components import features
from serving import png_guard, tensors
from serving.batcher import Answer, Batcher
from serving.limits import BodyReader, Limits
from serving.metrics import Metrics
from serving.models import Models
from serving.refusal import Refusal
from serving.savedmodel import Arrays, SavedModel, Signature

DEFAULT_SIGNATURE = "serving_default"


class Sampler(Protocol):
    """Takes note of some of what was served."""

    def offer(self, model: SavedModel, signature: Signature, inputs: Arrays, outputs: Arrays) -> None:
        """May take note of a request; must cost next to nothing where it does not."""


@dataclasses.dataclass
class Service:
    """What the protocols share.

    Attributes:
        models: the versions.
        batcher: the queue before the model.
        limits: what a request may cost.
        bodies: reads bodies within the limits.
        metrics: what is counted.
        sampler: None where nothing is sampled.
        stopping: set from SIGTERM on: no longer ready, while requests are still answered.
    """

    models: Models
    batcher: Batcher
    limits: Limits
    bodies: BodyReader
    metrics: Metrics
    sampler: Sampler | None = None
    stopping: bool = False

    async def predict(self, model: SavedModel, signature: Signature, inputs: Arrays) -> Answer:
        """Answers one request.

        Raises:
            Refusal: the inputs are not what the signature takes, or the queue is full.
        """
        rows = tensors.check_shapes(signature, inputs)
        if signature.name == features.SIGNATURE_BYTES and features.IMAGE_BYTES_INPUT in inputs:
            png_guard.check(inputs[features.IMAGE_BYTES_INPUT], model.image_shape())
        outputs = await self.batcher.run(model, signature, inputs, rows)
        self.metrics.predictions(model.number, outputs)
        if self.sampler is not None:
            self.sampler.offer(model, signature, inputs, outputs)
        return outputs

    def signature(self, model: SavedModel, name: str) -> Signature:
        """The signature of that name, the default one where it is empty."""
        found = model.signatures.get(name or DEFAULT_SIGNATURE)
        if found is None:
            shown = (name or DEFAULT_SIGNATURE)[:80]
            raise Refusal(400, f'Serving signature name: "{shown}" not found in signature def')
        return found
