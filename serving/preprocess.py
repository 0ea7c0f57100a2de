# SPDX-License-Identifier: Apache-2.0
"""Converts any picture of a digit to the format of MNIST: light on black, 28x28, the digit in 20x20, centred by mass.

http://yann.lecun.com/exdb/mnist/ describes the format: the digit is scaled to fit into a 20x20 box, anti-aliased, and
moved so that its centre of mass is the centre of the image. The steps before that are for photographs, where paper is
lighter than ink and unevenly lit, and lines are thinner than MNIST's.
The script of the page has the same steps (serving/page.html).
"""

from __future__ import annotations

import pathlib
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from components.errors import BadInput

_MAX_PIXELS = 100_000_000  # a phone's largest photographs
_WORK_SIDE = 200  # pixels of the longer side of the picture in which the digit is searched
_BOX_SHARE = 20 / 28  # of the image, for the digit
_MIN_CONTRAST = 24  # of 255, between ink and paper; noise and the texture of paper have less
_SPECK_SHARE = 0.02  # connected ink below this share of all ink is dust
_MIN_STROKE = 0.10  # of the digit's longer side: MNIST's lines are 2 to 3 of 20 pixels wide

Grey = npt.NDArray[np.uint8]


def read(path: str | pathlib.Path, image_shape: tuple[int, int]) -> Grey:
    """Reads a PNG or JPEG file and converts it.

    Args:
        path: the file.
        image_shape: height and width in pixels of the result.

    Returns:
        uint8 [height, width], 0 is the background.

    Raises:
        BadInput: it is neither PNG nor JPEG, damaged, too large, or shows nothing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the next check is stricter
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise BadInput(
                        f"{path}: a picture may have {_MAX_PIXELS} pixels; this one has {image.width}x{image.height}. "
                        "Scale it down"
                    )
                # A JPEG can be decoded at a fraction of its size, in a fraction of the time.
                image.draft("L", (4 * _WORK_SIDE, 4 * _WORK_SIDE))
                grey = _to_grey(image)
    except UnidentifiedImageError:
        raise BadInput(f"{path}: takes PNG and JPEG files; this is neither. Convert it") from None
    except Image.DecompressionBombError:
        raise BadInput(f"{path}: a picture may have {_MAX_PIXELS} pixels; this one has more. Scale it down") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{path}: cannot be read: {reason}".split("\n", 1)[0]) from None
    try:
        return prepare(grey, image_shape)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def prepare(grey: Image.Image, image_shape: tuple[int, int]) -> Grey:
    """Converts a grey picture of any size and polarity to the format of MNIST.

    Args:
        grey: mode L.
        image_shape: height and width in pixels of the result.

    Raises:
        BadInput: it shows nothing.
    """
    height, width = image_shape
    if (grey.height, grey.width) == image_shape:
        # In the format already, except perhaps for its polarity.
        return _to_light_on_dark(np.asarray(grey))
    grey.thumbnail((_WORK_SIDE, _WORK_SIDE), Image.Resampling.BOX)
    ink = _remove_background(_to_light_on_dark(np.asarray(grey)))
    threshold = _otsu(ink)
    mask = ink > threshold
    if ink.max() < _MIN_CONTRAST or not mask.any():
        raise BadInput("shows nothing that stands out from its background; take a picture with more contrast")
    mask = _remove_specks(mask)
    # Full ink becomes white, and pixels well below the threshold black.
    full = max(float(np.percentile(ink[mask], 75)), threshold + 1.0)
    low = 0.5 * threshold
    clean = np.clip((ink - low) / (full - low), 0.0, 1.0)
    clean[~_with_edge(mask)] = 0.0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = max(bottom - top, right - left)
    clean = np.pad(clean, side)  # room for thicker lines
    digit = Image.fromarray((255 * clean[top : bottom + 2 * side, left : right + 2 * side]).astype(np.uint8))
    digit = _thicken(digit, mask, side)
    digit = digit.crop(digit.point(lambda value: 255 if value > 127 else 0).getbbox() or digit.getbbox())
    return _centre(digit, height, width)


def _to_grey(image: Image.Image) -> Image.Image:
    """Converts to grey: upright by its EXIF orientation, transparency on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I", "F", "I;16B"):
        values = np.asarray(image, np.float64)
        span = max(float(values.max()), 255.0)
        return Image.fromarray((values / span * 255).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L")


def _to_light_on_dark(grey: Grey) -> Grey:
    """Inverts a picture whose ink is darker than its paper.

    Most of a picture is paper, whose brightness changes slowly: a quadratic surface is fitted to it by least absolute
    differences (iteratively reweighted), to which outliers matter little. Ink is far from the surface, on one side.
    """
    small = np.asarray(Image.fromarray(grey).resize((48, 48), Image.Resampling.BOX), np.float64)
    y, x = (axis.ravel() / 47 - 0.5 for axis in np.indices(small.shape))
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    values, weights = small.ravel(), np.ones(small.size)
    for _ in range(8):
        weighted = (terms * weights[:, None]).T
        residuals = values - terms @ np.linalg.solve(weighted @ terms, weighted @ values)
        weights = 1 / np.maximum(np.abs(residuals), 2.0)
    return 255 - grey if (residuals**3).sum() < 0 else grey


def _remove_background(grey: Grey) -> Grey:
    """Removes all that is broader than a line: uneven light, a shadow."""
    image = Image.fromarray(grey).filter(ImageFilter.GaussianBlur(0.7))
    kernel = max(image.size) // 3 | 1
    array = np.asarray(image)
    from scipy import ndimage

    # A morphological opening: a minimum filter, then a maximum filter.
    background = ndimage.maximum_filter(ndimage.minimum_filter(array, kernel, mode="nearest"), kernel, mode="nearest")
    background = ndimage.uniform_filter(background.astype(np.float32), kernel // 2, mode="nearest")
    return np.clip(array - background, 0, 255).astype(np.uint8)


def _otsu(grey: Grey) -> float:
    """Returns the threshold that best separates the values in two (Otsu, 1979)."""
    counts = np.bincount(grey.ravel(), minlength=256).astype(np.float64)
    below, weighted = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = weighted / below - (weighted[-1] - weighted) / above
        spread = np.nan_to_num(below * above * difference**2)
    return float(np.argmax(spread))


def _remove_specks(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    from scipy import ndimage

    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return (areas >= _SPECK_SHARE * areas.sum())[labels] & mask


def _with_edge(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Returns the ink and the soft edge around it."""
    from scipy import ndimage

    return ndimage.binary_dilation(mask, iterations=2)


def _thicken(digit: Image.Image, mask: npt.NDArray[np.bool_], side: int) -> Image.Image:
    from scipy import ndimage

    # The median, because lines are wider at crossings.
    distances = ndimage.distance_transform_edt(np.pad(mask, 1))
    ridge = distances[(distances == ndimage.maximum_filter(distances, 3)) & (distances > 0)]
    stroke = 2 * float(np.median(ridge)) - 1
    radius = round((_MIN_STROKE * side - stroke) / 2)
    return digit.filter(ImageFilter.MaxFilter(2 * radius + 1)) if radius > 0 else digit


def _centre(digit: Image.Image, height: int, width: int) -> Grey:
    """Scales a digit to its box, and moves its centre of mass to the centre of the image."""
    scale = min(height, width) * _BOX_SHARE / max(digit.size)
    size = (max(1, round(digit.width * scale)), max(1, round(digit.height * scale)))
    small = np.asarray(digit.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC))
    mass = small.astype(np.float64)
    y, x = np.indices(small.shape)
    centre_y, centre_x = (mass * y).sum() / mass.sum(), (mass * x).sum() / mass.sum()
    # The centre of pixel k is at k + 0.5.
    top = int(np.clip(round(height / 2 - centre_y - 0.5), 0, height - small.shape[0]))
    left = int(np.clip(round(width / 2 - centre_x - 0.5), 0, width - small.shape[1]))
    image = np.zeros((height, width), np.uint8)
    image[top : top + small.shape[0], left : left + small.shape[1]] = small
    return image
