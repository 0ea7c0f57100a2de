# SPDX-License-Identifier: Apache-2.0
"""What a command answers, to a person and, with `--json`, to a program."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import Any

from components.errors import BadInput

STDOUT = "-"


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds `--json [FILE]`."""
    parser.add_argument(
        "--json", nargs="?", const=STDOUT, type=_file, metavar="FILE", help="write the result there, or to stdout"
    )


def _file(text: str) -> str:
    """Before anything is done whose result would be lost."""
    path = pathlib.Path(text).absolute()
    if text != STDOUT and (path.is_dir() or not path.parent.is_dir()):
        raise argparse.ArgumentTypeError(f"it takes a file that can be written, in a folder that is there, not {text}")
    return text


def give(args: argparse.Namespace, text: str, result: Any) -> None:
    """Shows a text, on stderr where stdout is for the result, and writes the result where it was asked for.

    Raises:
        BadInput: the file cannot be written.
    """
    (sys.stderr if args.json == STDOUT else sys.stdout).write(text)
    content = json.dumps(result, indent=1) + "\n"
    if args.json == STDOUT:
        sys.stdout.write(content)
    elif args.json:
        try:
            pathlib.Path(args.json).write_text(content, encoding="utf-8")
        except OSError as error:
            raise BadInput(f"--json takes a file that can be written; {args.json}: {error.strerror}") from None
