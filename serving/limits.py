# SPDX-License-Identifier: Apache-2.0
"""Limits of a request, and the error of one that is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import struct
from collections.abc import Iterable

from starlette.requests import ClientDisconnect, Request

_PNG_HEADER_BYTES = 26
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 13, b"IHDR")


class RequestError(Exception):
    """A request that is refused.

    Attributes:
        status: HTTP status, 400 to 599.
        message: text of `error` in the response.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
        self.message = message


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        max_body_bytes: of one request; 413 beyond it.
        max_instances: images in one request; 400 beyond it.
        max_batch: images in one call of the model.
        max_queue: images in the queue; 429 beyond it.
        request_seconds: time for a request's head to arrive, for its body, and for the client to read the response.
        max_connections: at one time; 503 beyond it.
        max_incoming_bytes: of all bodies that arrive at one time; 429 beyond it.
    """

    max_body_bytes: int = 8 * 2**20
    max_instances: int = 1024
    max_batch: int = 64
    max_queue: int = 1024
    request_seconds: float = 10.0
    max_connections: int = 1000
    max_incoming_bytes: int = 256 * 2**20

    def check_instances(self, count: int) -> None:
        """Raises `RequestError` for more instances than one request may have."""
        if count > self.max_instances:
            raise RequestError(
                400, f"a request may have {self.max_instances} instances; received {count}. Send several requests"
            )


class BodyReader:
    """Reads the bodies of requests, within the limits."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._incoming_bytes = 0

    async def read(self, request: Request) -> bytes:
        """Returns the body of a request.

        Raises:
            RequestError: 413 for a body that is too large, 408 for a slow one, 429 if too many bytes arrive at once.
        """
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._limits.max_body_bytes:
            raise self._too_large(f"{int(declared)}")
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    self._incoming_bytes += len(chunk)
                    if size > self._limits.max_body_bytes:
                        raise self._too_large("more")
                    if self._incoming_bytes > self._limits.max_incoming_bytes:
                        raise RequestError(429, "too many bytes arrive at once; try again later")
                    chunks.append(chunk)
        except TimeoutError:
            seconds = self._limits.request_seconds
            raise RequestError(
                408, f"a request must arrive within {seconds:g} s; only {size} bytes of this one did"
            ) from None
        except ClientDisconnect:
            raise RequestError(499, "the client closed the connection") from None
        finally:
            self._incoming_bytes -= size
        return b"".join(chunks)

    def _too_large(self, size: str) -> RequestError:
        return RequestError(
            413, f"the body of a request may have {self._limits.max_body_bytes} bytes; this one has {size}"
        )


def check_png_headers(files: Iterable[bytes], image_shape: tuple[int, int]) -> None:
    """Checks the first 26 bytes of PNG files (PNG specification, sections 5.2 and 11.2.1), without a call of the model.

    The model's graph checks each file again before it decodes it.

    Args:
        files: contents of the files.
        image_shape: height and width in pixels; the images must have 8 bits of grey.

    Raises:
        RequestError: a file is something else.
    """
    height, width = image_shape
    expected = _PNG_MAGIC + struct.pack(">IIBB", width, height, 8, 0)
    for number, data in enumerate(files):
        if data[:_PNG_HEADER_BYTES] != expected:
            raise RequestError(
                400,
                f"images must be PNG files of {width}x{height} pixels, 8-bit greyscale; image {number} (from 0) is "
                f"{_describe_png(data)}. Convert it before you send it",
            )


def _describe_png(data: bytes) -> str:
    if not data.startswith(_PNG_MAGIC) or len(data) < _PNG_HEADER_BYTES:
        return f"not a PNG file ({len(data)} bytes)"
    width, height, bits, colour_type = struct.unpack(">IIBB", data[len(_PNG_MAGIC) : _PNG_HEADER_BYTES])
    return f"a PNG of {width}x{height} pixels, {bits}-bit, colour type {colour_type}"
