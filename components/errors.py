# SPDX-License-Identifier: Apache-2.0
"""Errors with a message for the user. Each has the exit code of the process that it ends.

- `ProjectError`, 1
  - `BadInput`, 2: wrong usage or bad input
    - `Unavailable`, 2: a store or a network that does not respond
  - `GateStopped`, 3: a gate stopped the run; the stage before it has published the findings
    - `NotBlessed`, 3: the model gate refuses the candidate

The message is one line: the rule, the value received, and the way out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable


class ProjectError(Exception):
    exit_code = 1


class BadInput(ProjectError):
    exit_code = 2


class Unavailable(BadInput):
    """A store or a network that does not respond; a later try may succeed."""


class GateStopped(ProjectError):
    exit_code = 3


class NotBlessed(GateStopped):
    pass


def exit_code(work: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit code; a `ProjectError` is printed as one line."""
    try:
        return work() or 0
    except ProjectError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return error.exit_code


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns "; did you mean 'NAME'?" for the most similar of the names, "" where none is similar."""
    import difflib

    similar = difflib.get_close_matches(name, sorted(names), n=1)
    return f"; did you mean {similar[0]!r}?" if similar else ""
