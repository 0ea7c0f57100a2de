# SPDX-License-Identifier: Apache-2.0
"""What a command answers, to a person and, with `--json`, to a program.

The standard library is enough for it: `doctor` answers where packages are missing.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import Any, TextIO

from components import paths
from components.errors import BadInput

STDOUT = "-"


def add_json(parser: argparse._ActionsContainer) -> None:
    """Adds `--json [FILE]`; a file that could not be written in the end is refused before any work starts."""
    parser.add_argument(
        "--json", nargs="?", const=STDOUT, type=_writable, metavar="FILE", help="write the result there, or to stdout"
    )


def stream(to: str | None) -> TextIO:
    """Where a person reads: stdout, or stderr where stdout is for the result."""
    return sys.stderr if to == STDOUT else sys.stdout


def say(to: str | None, *lines: str) -> None:
    """Prints lines for a person."""
    stream(to).write("".join(f"{line}\n" for line in lines))


def write(result: Any, to: str | None) -> None:
    """Writes what --json asked for: to a file, to stdout, or nowhere where it is None.

    Raises:
        BadInput: the file cannot be written.
    """
    if to is None:
        return
    text = json.dumps(result, indent=1) + "\n"
    if to == STDOUT:
        sys.stdout.write(text)
        return
    try:
        pathlib.Path(to).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--json names a file that can be written, but {to}: {error.strerror}") from None


def _writable(to: str) -> str:
    if to != STDOUT:
        paths.refuse_unwritable_file(to, "--json")
    return to
