# SPDX-License-Identifier: Apache-2.0
"""The errors that a person is meant to read. Each carries the exit code of the process that it ends.

- `ProjectError`, 1
  - `BadInput`, 2: wrong usage, or input that is refused
    - `Unavailable`, 2: a store or a network that does not answer
  - `GateStopped`, 3: a gate closed; what it found was published by the stage before it
    - `NotBlessed`, 3: the model gate refuses the candidate

The message is one line: the rule, what was received, and the way out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable


class ProjectError(Exception):
    exit_code = 1


class BadInput(ProjectError):
    exit_code = 2


class Unavailable(BadInput):
    """A store or a network that does not answer, or not now; it may a minute later."""


class GateStopped(ProjectError):
    exit_code = 3


class NotBlessed(GateStopped):
    pass


def exit_code(work: Callable[[], int | None]) -> int:
    """Does the work of a command and returns its exit code; an error that a person is meant to read is one line."""
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
