# SPDX-License-Identifier: Apache-2.0
"""The lines of a doctor. The standard library alone: the local one starts where no package is installed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

OK, WARNING, BLOCKED, UNKNOWN = "ok", "warning", "blocked", "unknown"
_MARKS = {OK: ("✓", "32"), WARNING: ("!", "33"), BLOCKED: ("✗", "31"), UNKNOWN: ("?", "36")}


class Check(NamedTuple):
    """One line of the answer: `state` is OK, WARNING, BLOCKED or UNKNOWN; `advice` is empty where there is none."""

    name: str
    state: str
    found: str
    advice: str = ""


def lines(checks: Iterable[Check], colours: bool) -> list[str]:
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


def names(checks: Iterable[Check], state: str) -> list[str]:
    """Names of the checks in a state."""
    return [check.name for check in checks if check.state == state]
