# SPDX-License-Identifier: Apache-2.0
"""Refuses what is plainly no PNG file of the right size, without asking the model: a look at 26 bytes.

The graph looks again, at the length as well, before it decodes anything.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable

from serving.refusal import Refusal

_HEADER_BYTES = 26
_MAGIC = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 13, b"IHDR")


def check(images: Iterable[bytes], image_shape: tuple[int, int]) -> None:
    """Looks at the header of each file (PNG specification, sections 5.2 and 11.2.1).

    Args:
        images: the files.
        image_shape: height and width in pixels that they must have, with 8 bits of grey.

    Raises:
        Refusal: one is something else.
    """
    expected = _expected(image_shape)
    for number, data in enumerate(images):
        if data[:_HEADER_BYTES] != expected:
            height, width = image_shape
            raise Refusal(
                400,
                f"image_bytes takes PNG files of {width}x{height} pixels, 8-bit greyscale, but number "
                f"{number} (from 0) "
                f"is {_describe(data)}; convert it before sending it",
            )


@functools.cache
def _expected(image_shape: tuple[int, int]) -> bytes:
    height, width = image_shape
    return _MAGIC + struct.pack(">IIBB", width, height, 8, 0)


def _describe(data: bytes) -> str:
    if not data.startswith(_MAGIC) or len(data) < _HEADER_BYTES:
        return f"no PNG file ({len(data)} bytes)"
    width, height, bits, colour = struct.unpack(">IIBB", data[len(_MAGIC) : _HEADER_BYTES])
    return f"a PNG of {width}x{height} pixels, {bits}-bit, colour type {colour}"
