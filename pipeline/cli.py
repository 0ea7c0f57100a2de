# SPDX-License-Identifier: Apache-2.0
"""What a command answers, to a person and, with `--json`, to a program.

The standard library is enough for it: `doctor` answers where packages are missing.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn, TextIO

from components import paths
from components.errors import BadInput
from components.train.devices import ACCELERATORS, PRECISIONS
from components.train.hyperparameters import MODELS

STDOUT = "-"


def add_json_argument(parser: argparse._ActionsContainer) -> None:
    """Adds `--json [FILE]`; a file that could not be written in the end is refused before any work starts."""
    parser.add_argument(
        "--json", nargs="?", const=STDOUT, type=_writable, metavar="FILE", help="write the result there, or to stdout"
    )


def message_stream(to: str | None) -> TextIO:
    """Where a person reads: stdout, or stderr where stdout is for the result."""
    return sys.stderr if to == STDOUT else sys.stdout


def print_lines(to: str | None, *lines: str) -> None:
    """Prints lines for a person."""
    message_stream(to).write("".join(f"{line}\n" for line in lines))


def write_json(result: Any, to: str | None) -> None:
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


HYPERPARAMETERS: Mapping[str, type] = {
    "ksize1": int, "ksize2": int, "nfil1": int, "nfil2": int, "dropout": float, "learning-rate": float,
    "batch-size": int, "train-steps": int, "seed": int, "patience": int,
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """One line on stderr and exit code 2 for wrong usage."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see --help")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, its hyperparameters, and how it is trained with them."""
    training = parser.add_argument_group("training")
    training.add_argument("--model", choices=tuple(MODELS), help="default: cnn")
    for name, kind in HYPERPARAMETERS.items():
        defaults = {getattr(model, name.replace("-", "_")) for model in MODELS.values()} - {None}
        training.add_argument(f"--{name}", type=kind, metavar=kind.__name__.upper(), help=_default_of(defaults))
    training.add_argument(
        "--precision", choices=PRECISIONS, help="default: auto, bfloat16 on GPUs that have it, else float32"
    )
    training.add_argument(
        "--tune", type=int, metavar="N", help="try N sets of what no flag says, and train with the best (0: do not)"
    )


def add_compute_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the training runs on; a cluster's is said when it is compiled."""
    compute = parser.add_argument_group("devices")
    compute.add_argument(
        "--accelerator", choices=ACCELERATORS, help="default: auto, a GPU where there is one, else the CPU"
    )
    compute.add_argument("--gpus", type=int, metavar="N", help="how many of this machine's GPUs train; default: 1")


def _default_of(defaults: set[Any]) -> str:
    return (
        f"default: {defaults.pop()}" if len(defaults) == 1 else f"default: by model, {min(defaults)} to {max(defaults)}"
    )


OK, WARNING, BLOCKED, UNKNOWN = "ok", "warning", "blocked", "unknown"
_MARKS = {OK: ("✓", "32"), WARNING: ("!", "33"), BLOCKED: ("✗", "31"), UNKNOWN: ("?", "36")}


class Check(NamedTuple):
    """One line of the answer: `state` is OK, WARNING, BLOCKED or UNKNOWN; `advice` is empty where there is none."""

    name: str
    state: str
    found: str
    advice: str = ""


def format_checks(checks: Iterable[Check], colours: bool) -> list[str]:
    """A line for each check, and under it its advice.

    Args:
        checks: in their order.
        colours: whether the marks have ANSI colours.
    """
    shown = []
    for check in checks:
        mark, colour = _MARKS[check.state]
        shown.append(f"\033[{colour}m{mark}\033[0m" if colours else mark)
        shown[-1] += f" {check.name:<9} {check.found}"
        if check.advice:
            shown.append(f"            {check.advice}")
    return shown


def check_names(checks: Iterable[Check], state: str) -> list[str]:
    """Names of the checks in a state."""
    return [check.name for check in checks if check.state == state]
