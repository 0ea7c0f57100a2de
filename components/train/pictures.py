# SPDX-License-Identifier: Apache-2.0
"""Pictures for TensorBoard, drawn with Pillow: a confusion matrix, and images with what they were taken for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

_CELL = 34  # pixels; wide enough for a count of four digits
_COLUMNS = 8
_SIDE, _CAPTION, _GAP = 64, 14, 12  # pixels of an image in the gallery, the line below it, and between two
_BLUE, _RED, _WHITE, _BLACK, _GREY = (59, 125, 216), (217, 66, 54), (255, 255, 255), (0, 0, 0), (120, 120, 120)


def confusion(matrix: npt.NDArray[np.int64], names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Draws a confusion matrix: rows are the true classes, right answers blue, wrong ones red on a scale of their own.

    Args:
        matrix: counts [class, answer].
        names: of the classes.

    Returns:
        RGB, uint8 [height, width, 3].
    """
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    most_right, most_wrong = max(int(np.diag(matrix).max()), 1), max(int(wrong.max()), 1)
    side = _CELL * (len(names) + 1)
    picture = Image.new("RGB", (side, side), _WHITE)
    draw = ImageDraw.Draw(picture)
    for index, name in enumerate(names):
        at = _CELL * (index + 1)
        _write(draw, (at, 0), name, _GREY)
        _write(draw, (0, at), name, _GREY)
        for column, count in enumerate(matrix[index].tolist()):
            most, color = (most_right, _BLUE) if column == index else (most_wrong, _RED)
            corner = (_CELL * (column + 1), at)
            if count:
                shade = _mixed(color, 0.15 + 0.85 * count / most)
                draw.rectangle((*corner, corner[0] + _CELL - 2, corner[1] + _CELL - 2), fill=shade)
                _write(draw, corner, str(count), _WHITE if count > 0.6 * most else _BLACK)
    return np.asarray(picture)


def gallery(images: npt.NDArray[np.floating], captions: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Draws images side by side, each with a line below it.

    Args:
        images: [n, height, width, 1] in [0, 1]; n is 1 or more.
        captions: n of them.

    Returns:
        RGB, uint8 [height, width, 3].
    """
    rows = -(-len(images) // _COLUMNS)
    picture = Image.new("RGB", (_COLUMNS * (_SIDE + _GAP), rows * (_SIDE + _CAPTION)), _WHITE)
    draw = ImageDraw.Draw(picture)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = (number % _COLUMNS) * (_SIDE + _GAP), (number // _COLUMNS) * (_SIDE + _CAPTION)
        pixels = (np.clip(image[..., 0], 0.0, 1.0) * 255).round().astype(np.uint8)
        picture.paste(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (x, y))
        draw.text((x + 2, y + _SIDE + 1), caption, fill=_BLACK)
    return np.asarray(picture)


def _write(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, color: tuple[int, int, int]) -> None:
    draw.text((corner[0] + _CELL / 2, corner[1] + _CELL / 2), text[:5], fill=color, anchor="mm")


def _mixed(color: tuple[int, int, int], strength: float) -> tuple[int, ...]:
    return tuple(round(255 + strength * (part - 255)) for part in color)
