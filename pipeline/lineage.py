# SPDX-License-Identifier: Apache-2.0
"""Tells where a pushed model came from, or in what two of them differ.

python -m pipeline.lineage                    the version in production
python -m pipeline.lineage 3                  version 3, also when it was removed
python -m pipeline.lineage --compare 2 3      in what they differ
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from components import environment, stdio
from components.errors import exit_code
from pipeline import answer, place
from pipeline.arguments import Parser

_DESCRIPTION = "Tells where a pushed model came from, or in what two of them differ."
# Columns where there is no terminal: no digest is broken.
_FILE_WIDTH = 160


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 done, 2 wrong usage or no such version, 1 anything else."""

    def work() -> None:
        args = _parse(arguments)
        answer.write(_do(args), args.json)

    return exit_code(work)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m pipeline.lineage", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("version", nargs="?", type=int, metavar="VERSION", help="default: the one in production")
    parser.add_argument("--compare", nargs=2, type=int, metavar=("A", "B"), help="two versions")
    place.add_arguments(parser)
    args = parser.parse_args(arguments)
    if args.version is not None and args.compare:
        parser.error("either VERSION or --compare A B, not both")
    return args


def _do(args: argparse.Namespace) -> Any:
    """Prints what was asked for, unless as JSON to stdout; returns it as JSON values."""
    where = place.of(args)

    from rich.console import Console

    from pipeline import lineage_answer, lineage_text

    terminal = Console(highlight=False, quiet=args.json == "-")
    if not terminal.is_terminal:
        terminal.width = _FILE_WIDTH
    if not args.compare:
        answer = lineage_answer.answer(where.model, where.database, args.version)
        lineage_text.show(answer, terminal)
        return answer
    one, other = (lineage_answer.answer(where.model, where.database, number) for number in args.compare)
    found = lineage_answer.differences(one, other)
    lineage_text.show_differences(one, other, found, terminal)
    return {"compared": list(args.compare), **found}


if __name__ == "__main__":
    environment.prepare()
    stdio.run(lambda: main(sys.argv[1:]))
