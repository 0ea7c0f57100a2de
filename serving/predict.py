# SPDX-License-Identifier: Apache-2.0
"""Asks a served model what it sees: `python -m serving.predict IMAGE.png` or `--index 87`."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import TYPE_CHECKING, NamedTuple

from components import environment, features, stdio
from components.errors import BadInput
from serving import command

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from serving.client import Model, Prediction

_BAR = 40  # characters of a bar of probability 1
_SHADES = " .:-=+*#%@"


class _Picture(NamedTuple):
    """An image to ask about: what it is called, uint8 [height, width], and its true class where that is known."""

    name: str
    pixels: npt.NDArray[np.uint8]
    label: int | None


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return command.run(_parser(), _run, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.predict",
        description="Shows what a model sees in pictures of digits, and how sure it is. Any PNG or JPEG "
        "is brought to the form "
        "the model takes: grey, light on black, centred.",
    )
    parser.add_argument("images", nargs="*", type=pathlib.Path, metavar="IMAGE", help="PNG or JPEG file")
    parser.add_argument(
        "--index",
        type=_index,
        action="append",
        default=[],
        metavar="N",
        help="number of a test image, from 0, of the data set that the model was trained on; may "
        "be given several times",
    )
    parser.add_argument(
        "--data-dir", type=pathlib.Path, metavar="DIR", help="the data set's folder; default: the cache"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--url",
        default="http://127.0.0.1:8501",
        help="of the server, or of a model or version: …/v1/models/NAME/versions/3; default: %(default)s",
    )
    where.add_argument(
        "--model-dir", type=pathlib.Path, metavar="DIR", help="load the model from there, without a server"
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write the answers as JSON, to the screen instead of all else where no FILE is given",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    if not options.images and not options.index:
        raise BadInput("name a picture, IMAGE.png, or a test image, --index N; received neither")
    # The libraries are imported here: --help must be answered at once.
    from serving import preprocess
    from serving.client import Local, Remote

    missing = next((path for path in options.images if not path.is_file()), None)
    if missing is not None:  # before a model is loaded
        raise BadInput(f"{missing}: takes a PNG or JPEG file; there is no such file")
    model: Model = Local(options.model_dir) if options.model_dir else Remote(options.url)
    pictures = [_Picture(str(path), preprocess.read(path, model.image_shape), None) for path in options.images]
    if options.index:
        pictures += _test_images(options.index, model, options.data_dir)
    import numpy as np

    predictions = model.predict(np.stack([picture.pixels for picture in pictures]))
    answers = list(zip(pictures, predictions, strict=True))
    if options.json is not None:
        text = json.dumps([_as_json(*answer) for answer in answers], indent=1)
        if options.json == "-":
            print(text)  # noqa: T201
            return 0
        pathlib.Path(options.json).write_text(text + "\n", encoding="utf-8")
    for answer in answers:
        print(_shown(*answer, colour=sys.stdout.isatty()))  # noqa: T201
    return 0


def _test_images(indices: list[int], model: Model, data_dir: pathlib.Path | None) -> list[_Picture]:
    from serving import dataset_images

    images, labels = dataset_images.read(model.dataset, data_dir, model.image_shape)
    for index in indices:
        if index >= len(images):
            raise BadInput(f"--index takes a number of 0 to {len(images) - 1}, of the test images; received {index}")
    return [_Picture(f"test image {index}", images[index], int(labels[index])) for index in indices]


def _as_json(picture: _Picture, prediction: Prediction) -> dict[str, object]:
    return {
        "image": picture.name,
        "class": _name(prediction.label),
        "probabilities": {_name(label): value for label, value in enumerate(prediction.probabilities)},
        "label": None if picture.label is None else _name(picture.label),
        "version": prediction.version or None,
        "pixels": picture.pixels.tolist(),
    }


def _shown(picture: _Picture, prediction: Prediction, colour: bool) -> str:
    """The answer as a person reads it: the picture as the model saw it, the class, a bar for each probability."""
    truth = "" if picture.label is None else f" (it is {_name(picture.label)})"
    version = f", version {prediction.version}" if prediction.version else ""
    best = prediction.probabilities[prediction.label]
    lines = [
        f"{picture.name}: {_name(prediction.label)}, {_percent(best).strip()}{truth}{version}",
        *(_blocks(picture.pixels) if colour else _text(picture.pixels)),
    ]
    width = max(len(_name(label)) for label in range(len(prediction.probabilities)))
    for label, value in enumerate(prediction.probabilities):
        bar = "█" * round(value * _BAR)
        mark = "◀" if label == prediction.label else ""
        lines.append(f"{_name(label):>{width}} {_percent(value)} {bar}{' ' if bar else ''}{mark}".rstrip())
    return "\n".join(lines) + "\n"


def _percent(value: float) -> str:
    return f"{100 * value:6.2f} %"


def _blocks(pixels: npt.NDArray[np.uint8]) -> list[str]:
    """Two rows of pixels in a line of half blocks, in shades of grey of a 256-colour terminal."""
    shades = 232 + (pixels.astype(int) * 23 + 127) // 255
    if len(shades) % 2:
        shades = shades[:-1]
    return [
        "".join(f"\x1b[38;5;{up};48;5;{down}m▀" for up, down in zip(upper, lower, strict=True)) + "\x1b[0m"
        for upper, lower in zip(shades[::2].tolist(), shades[1::2].tolist(), strict=True)
    ]


def _text(pixels: npt.NDArray[np.uint8]) -> list[str]:
    """A pixel in two characters, as a character is about twice as high as wide."""
    steps = (pixels.astype(int) * (len(_SHADES) - 1) + 127) // 255
    return ["".join(2 * _SHADES[step] for step in row).rstrip() for row in steps.tolist()]


def _name(label: int) -> str:
    return features.CLASSES[label] if label < len(features.CLASSES) else str(label)


def _index(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"takes a whole number from 0; received {text!r}")
    return int(text)


if __name__ == "__main__":
    environment.prepare()
    stdio.run(main)
