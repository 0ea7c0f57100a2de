# SPDX-License-Identifier: Apache-2.0
"""A prediction, independent of the protocol: checks, queue, model, metrics, samples."""

from __future__ import annotations

import dataclasses

from components import features
from serving.batching import Batcher, Outputs
from serving.limits import BodyReader, Limits, check_png_headers
from serving.metrics import ServerMetrics
from serving.models import LoadedModel, ModelVersions, Signature
from serving.sampling import Sampler
from serving.tensors import Arrays


@dataclasses.dataclass
class Service:
    """Objects that the protocols share.

    Attributes:
        models: the versions.
        batcher: the queue before the model.
        limits: of a request.
        bodies: reads bodies within the limits.
        metrics: of requests and predictions.
        sampler: None without sampling.
        stopping: True from SIGTERM on: the server is no longer ready, and still responds.
    """

    models: ModelVersions
    batcher: Batcher
    limits: Limits
    bodies: BodyReader
    metrics: ServerMetrics
    sampler: Sampler | None = None
    stopping: bool = False

    @property
    def ready(self) -> bool:
        """True while requests should be sent to this server."""
        return self.models.ready and not self.stopping

    async def predict(self, model: LoadedModel, signature: Signature, inputs: Arrays) -> Outputs:
        """Returns the outputs for one request.

        Raises:
            RequestError: the signature does not take these inputs, or the queue is full.
        """
        rows = signature.check_shapes(inputs)
        if signature.name == features.SIGNATURE_BYTES and features.IMAGE_BYTES_INPUT in inputs:
            check_png_headers(inputs[features.IMAGE_BYTES_INPUT], model.image_shape)
        outputs = await self.batcher.run(model, signature, inputs, rows)
        self.metrics.count_predictions(model.number, outputs)
        if self.sampler is not None:
            self.sampler.offer(model, signature, inputs, outputs)
        return outputs
