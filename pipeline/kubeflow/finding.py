# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a package."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Finding:
    """A broken rule.

    Attributes:
        rule: its name.
        where: the part of the package.
        found: the rule, and what was found instead.
        way_out: what to do.
    """

    rule: str
    where: str
    found: str
    way_out: str

    @property
    def sentence(self) -> str:
        """All of it on one line."""
        return f"{self.rule}: {self.where}: {self.found}. Way out: {self.way_out}."
