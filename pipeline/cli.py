# SPDX-License-Identifier: Apache-2.0
"""Command lines: arguments, and output for people and, with `--json`, for programs.

It needs the standard library alone, because `doctor` must start if packages are missing.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn, TextIO

from components import paths
from components.errors import BadInput, did_you_mean

STDOUT = "-"


def add_json_argument(parser: argparse._ActionsContainer) -> None:
    """Adds `--json [FILE]`; a file that cannot be written is refused before any work starts."""
    parser.add_argument(
        "--json", nargs="?", const=STDOUT, type=_writable, metavar="FILE", help="write the result to FILE, or to stdout"
    )


def message_stream(to: str | None) -> TextIO:
    """Returns the stream for people: stdout, or stderr if the result goes to stdout."""
    return sys.stderr if to == STDOUT else sys.stdout


def print_lines(to: str | None, *lines: str) -> None:
    """Prints lines for a person."""
    message_stream(to).write("".join(f"{line}\n" for line in lines))


def write_json(result: Any, to: str | None) -> None:
    """Writes the result of `--json` to a file or to stdout; does nothing if `to` is None.

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


def version() -> str:
    """Returns the project's version, from the checkout or else from the installed package."""
    import importlib.metadata
    import tomllib

    try:
        content = (pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
        return str(tomllib.loads(content)["project"]["version"])
    except FileNotFoundError:
        return importlib.metadata.version("mnist-tfx")


class VersionAction(argparse.Action):
    """Prints the version and ends the process."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None):
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        sys.stdout.write(f"{parser.prog} {version()}\n")
        parser.exit()


def add_version_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--version`."""
    parser.add_argument("--version", action=VersionAction, help="show the version and exit")


class Parser(argparse.ArgumentParser):
    """A parser that reports wrong usage in one line on stderr, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # of subcommands too
        """Refuses unknown arguments at once, with the flag that the user may have meant."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            suggestion = did_you_mean(flag, self._option_string_actions) if flag.startswith("--") else ""
            raise BadInput(f"unrecognized arguments: {' '.join(unknown)}{suggestion or '; see --help'}")
        return namespace, unknown


OK, WARNING, BLOCKED, UNKNOWN = "ok", "warning", "blocked", "unknown"
_MARKS = {OK: ("✓", "32"), WARNING: ("!", "33"), BLOCKED: ("✗", "31"), UNKNOWN: ("?", "36")}


class Check(NamedTuple):
    """One line of a doctor: `state` is OK, WARNING, BLOCKED or UNKNOWN; `advice` may be empty."""

    name: str
    state: str
    result: str
    advice: str = ""


def format_checks(checks: Iterable[Check], colours: bool) -> list[str]:
    """Returns a line for each check, and under it its advice.

    Args:
        checks: in their order.
        colours: whether the marks have ANSI colours.
    """
    lines = []
    for check in checks:
        mark, colour = _MARKS[check.state]
        lines.append(f"\033[{colour}m{mark}\033[0m" if colours else mark)
        lines[-1] += f" {check.name:<9} {check.result}"
        if check.advice:
            lines.append(f"            {check.advice}")
    return lines


def check_names(checks: Iterable[Check], state: str) -> list[str]:
    """Returns the names of the checks in a state."""
    return [check.name for check in checks if check.state == state]
