# SPDX-License-Identifier: Apache-2.0
"""What a request may cost: bytes, instances, waiting images, seconds."""

from __future__ import annotations

import asyncio
import dataclasses

from starlette.requests import ClientDisconnect, Request

from serving.refusal import Refusal


@dataclasses.dataclass(frozen=True)
class Limits:
    """The caps of a server.

    Attributes:
        max_body_bytes: of one request; more is answered with 413.
        max_instances: images in one request; more is answered with 400.
        max_batch: images in one joined call of the model.
        max_queue: images that may wait; more is answered with 429.
        request_seconds: within which a request must have arrived, its head as well as its body, and within which a
            client must take its answer.
        max_connections: at one time; more is answered with 503.
        bodies_bytes: of all requests that are arriving at one time; more is answered with 429.
    """

    max_body_bytes: int = 8 * 2**20
    max_instances: int = 1024
    max_batch: int = 64
    max_queue: int = 1024
    request_seconds: float = 10.0
    max_connections: int = 1000
    bodies_bytes: int = 256 * 2**20


class BodyReader:
    """Reads the bodies of requests, within the limits."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._arriving = 0

    async def read(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
            Refusal: 413 for one that is too long, 408 for one that is too slow, 429 where too much arrives at once.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._limits.max_body_bytes:
            raise self._too_long(f"{int(declared)} bytes")
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    self._arriving += len(chunk)
                    if size > self._limits.max_body_bytes:
                        raise self._too_long("more")
                    if self._arriving > self._limits.bodies_bytes:
                        raise Refusal(429, "too many bytes are arriving at once; try again later")
                    chunks.append(chunk)
        except TimeoutError:
            seconds = self._limits.request_seconds
            raise Refusal(408, f"a request must arrive within {seconds:g} s, but {size} bytes did") from None
        except ClientDisconnect:
            raise Refusal(499, "the client went away") from None
        finally:
            self._arriving -= size
        return b"".join(chunks)

    def _too_long(self, found: str) -> Refusal:
        return Refusal(413, f"a request's body may have {self._limits.max_body_bytes} bytes, but has {found}")
