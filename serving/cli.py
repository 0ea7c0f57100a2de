# SPDX-License-Identifier: Apache-2.0
"""Common parts of the command lines: the default port, argument types, exit codes, `--json`, names of classes."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

from components import features, paths
from components.errors import ProjectError

MODEL_DIR = pathlib.Path("output/serving")
DEFAULT_PORT = 8501


def run(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int], arguments: Sequence[str] | None
) -> int:
    """Parses the arguments of a command and does its work.

    Args:
        parser: with or without `--json`.
        work: takes the parsed arguments and returns the exit code.
        arguments: None for those of the process.

    Returns:
        The exit code; for a `ProjectError` or `OSError`, its message is one line on stderr.
    """
    args = parser.parse_args(arguments)
    # Read once, when TensorFlow is first imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        if vars(args).get("json") not in (None, "-"):
            paths.refuse_unwritable_file(args.json, "--json")
        return work(args)
    except (ProjectError, OSError) as error:
        print(f"{parser.prog.rpartition(' ')[2].rpartition('.')[2]}: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code if isinstance(error, ProjectError) else 1


def add_model_dir_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--model-dir` of a command that loads a model itself."""
    parser.add_argument(
        "--model-dir",
        type=pathlib.Path,
        default=MODEL_DIR,
        metavar="DIR",
        help="folder with the numbered versions of a model, or with a single such folder in it; default: %(default)s",
    )


def add_json_argument(parser: argparse.ArgumentParser, content: str) -> None:
    """Adds `--json [FILE]` with a help text that names the content."""
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help=f"write {content} as JSON to FILE; without FILE to stdout, instead of the text",
    )


def write_json(document: object, file: str | None) -> bool:
    """Writes the document that `--json` asks for; returns True if it went to stdout, so that nothing else may."""
    if file is None:
        return False
    text = json.dumps(document, indent=1)
    if file == "-":
        print(text)  # noqa: T201
        return True
    pathlib.Path(file).write_text(text + "\n", encoding="utf-8")
    return False


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Returns an argument type that takes the whole numbers of `low` to `high`."""

    def parse(text: str) -> int:
        # Longer text is out of range, and `int` refuses thousands of digits.
        if not (text.isascii() and text.isdecimal() and len(text) < 20) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"takes a whole number of {low} to {high}; received {text!r}")
        return int(text)

    return parse


def share(text: str) -> float:
    """Parses a number of 0 to 1; an argument type."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"takes a number of 0 to 1; received {text!r}")
    return value


def seconds(text: str) -> float:
    """Parses a number of seconds above 0, up to 3600; an argument type."""
    value = _number(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"takes a number of seconds above 0, up to 3600; received {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def class_name(label: int) -> str:
    """Returns the name of a class, or its number if the model has more classes than the data contract."""
    return features.CLASSES[label] if 0 <= label < len(features.CLASSES) else str(label)
