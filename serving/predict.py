# SPDX-License-Identifier: Apache-2.0
"""Predicts pictures with a served model: `python -m serving.predict IMAGE.png` or `--index 87`."""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import TYPE_CHECKING, NamedTuple

from components import environment, stdio
from components.errors import BadInput
from serving import cli
from serving.cli import class_name

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from serving.client import Client, Prediction

_BAR_WIDTH = 40  # characters for a probability of 1
_SHADES = " .:-=+*#%@"


class Picture(NamedTuple):
    """An image to predict: its name, uint8 [height, width], and its true class, None if unknown."""

    name: str
    pixels: npt.NDArray[np.uint8]
    label: int | None


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return cli.run(_parser(), _predict, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.predict",
        description="Shows the prediction of a model for pictures of digits, and its confidence. Any PNG or JPEG is "
        "converted to the model's format: grey, light on black, centred.",
    )
    parser.add_argument("images", nargs="*", type=pathlib.Path, metavar="IMAGE", help="PNG or JPEG file")
    parser.add_argument(
        "--index",
        type=cli.whole_number(0, 10**9),
        action="append",
        default=[],
        metavar="N",
        help="a test image, from 0, of the data set that the model was trained on; repeat for several",
    )
    parser.add_argument(
        "--data-dir", type=pathlib.Path, metavar="DIR", help="folder of the data set; default: the cache"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--url",
        default=f"http://127.0.0.1:{cli.DEFAULT_PORT}",
        help="of the server, or of a model or version: …/v1/models/NAME/versions/3; default: %(default)s",
    )
    source.add_argument("--model-dir", type=pathlib.Path, metavar="DIR", help="load the model in DIR, without a server")
    cli.add_json_argument(parser, "the predictions")
    return parser


def _predict(args: argparse.Namespace) -> int:
    if not args.images and not args.index:
        raise BadInput("name a picture, IMAGE.png, or a test image, --index N; received neither")
    missing = next((path for path in args.images if not path.is_file()), None)
    if missing is not None:  # before a model is loaded
        raise BadInput(f"{missing}: takes a PNG or JPEG file; there is no such file")
    # Imported late, so that --help and wrong usage respond at once.
    import numpy as np

    from serving import preprocess
    from serving.client import HttpClient, LocalClient

    client: Client = LocalClient(args.model_dir) if args.model_dir else HttpClient(args.url)
    pictures = [Picture(str(path), preprocess.read(path, client.image_shape), None) for path in args.images]
    if args.index:
        pictures += _read_test_images(args.index, client, args.data_dir)
    predictions = client.predict(np.stack([picture.pixels for picture in pictures]))
    results = list(zip(pictures, predictions, strict=True))
    if not cli.write_json([_to_json(*result) for result in results], args.json):
        for result in results:
            print(_render(*result, colour=sys.stdout.isatty()))  # noqa: T201
    return 0


def _read_test_images(indices: list[int], client: Client, data_dir: pathlib.Path | None) -> list[Picture]:
    """Reads test images of the model's data set, from a folder or the user's cache; never downloads.

    Raises:
        BadInput: they are not there, are not IDX files, or an index is too high.
    """
    from components.ingest import idx, source

    _, directory = source.find_span((data_dir or _find_dataset(client.dataset)).expanduser().absolute(), None)
    images, labels = (
        contents.array for contents in idx.read_pair(directory, idx.TEST_IMAGES, idx.TEST_LABELS, client.image_shape)
    )
    if (highest := max(indices)) >= len(images):
        raise BadInput(f"--index takes a number of 0 to {len(images) - 1}, of the test images; received {highest}")
    return [Picture(f"test image {index}", images[index], int(labels[index])) for index in indices]


def _find_dataset(name: str) -> pathlib.Path:
    """Returns the folder of a data set; the digits, which scikit-learn has, are written if missing."""
    from components.ingest import source

    if not name:
        raise BadInput("--index needs a data set, and the server does not name that of its model: give --data-dir DIR")
    if name == source.DIGITS:
        return pathlib.Path(source.resolve(source.DIGITS, image_shape=(28, 28)).source.directory)
    folder = source.default_cache_dir() / name
    if not folder.is_dir():
        raise BadInput(f"--index reads the data set {name} from the cache; {folder} is missing: give --data-dir DIR")
    return folder


def _to_json(picture: Picture, prediction: Prediction) -> dict[str, object]:
    return {
        "image": picture.name,
        "class": class_name(prediction.label),
        "probabilities": {class_name(label): value for label, value in enumerate(prediction.probabilities)},
        "label": None if picture.label is None else class_name(picture.label),
        "version": prediction.version or None,
        "pixels": picture.pixels.tolist(),
    }


def _render(picture: Picture, prediction: Prediction, colour: bool) -> str:
    """Returns a prediction as text: the class, the picture as the model gets it, a bar for each probability."""
    truth = "" if picture.label is None else f" (true class: {class_name(picture.label)})"
    version = f", version {prediction.version}" if prediction.version else ""
    confidence = _percent(prediction.probabilities[prediction.label]).strip()
    lines = [
        f"{picture.name}: {class_name(prediction.label)}, {confidence}{truth}{version}",
        *(_colour_blocks(picture.pixels) if colour else _shades(picture.pixels)),
    ]
    width = max(len(class_name(label)) for label in range(len(prediction.probabilities)))
    for label, value in enumerate(prediction.probabilities):
        bar = "█" * round(value * _BAR_WIDTH)
        mark = "◀" if label == prediction.label else ""
        lines.append(f"{class_name(label):>{width}} {_percent(value)} {bar}{' ' if bar else ''}{mark}".rstrip())
    return "\n".join(lines) + "\n"


def _percent(value: float) -> str:
    return f"{100 * value:6.2f} %"


def _colour_blocks(pixels: npt.NDArray[np.uint8]) -> list[str]:
    """Returns two rows of pixels as a line of half blocks, in the greys of a 256-colour terminal."""
    shades = 232 + (pixels.astype(int) * 23 + 127) // 255
    if len(shades) % 2:
        shades = shades[:-1]
    return [
        "".join(f"\x1b[38;5;{up};48;5;{down}m▀" for up, down in zip(upper, lower, strict=True)) + "\x1b[0m"
        for upper, lower in zip(shades[::2].tolist(), shades[1::2].tolist(), strict=True)
    ]


def _shades(pixels: npt.NDArray[np.uint8]) -> list[str]:
    """Returns each row of pixels as a line; a pixel is two characters, which are about twice as high as wide."""
    levels = (pixels.astype(int) * (len(_SHADES) - 1) + 127) // 255
    return ["".join(2 * _SHADES[level] for level in row).rstrip() for row in levels.tolist()]


if __name__ == "__main__":
    environment.prepare()
    stdio.run(main)
