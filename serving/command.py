# SPDX-License-Identifier: Apache-2.0
"""How a command of this folder begins and ends."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from components import paths
from components.errors import ProjectError


def run(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int], arguments: Sequence[str] | None
) -> int:
    """Parses the arguments and does the work; one line on stderr, with the command's name, for what a person can mend.

    Args:
        parser: of the command.
        work: takes the options, returns the exit code.
        arguments: None: those of the process.

    Returns:
        The exit code.
    """
    options = parser.parse_args(arguments)
    # Read once, when TensorFlow is first imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        if options.json not in (None, "-"):
            paths.refuse_unwritable_file(options.json, "--json")
        return work(options)
    except (ProjectError, OSError) as error:
        print(f"{parser.prog.rpartition('.')[2]}: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code if isinstance(error, ProjectError) else 1
