# SPDX-License-Identifier: Apache-2.0
"""The memory limit of a container, in the files of cgroup v2 and v1."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

ROOT = pathlib.Path("/sys/fs/cgroup")
_FILES = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


class Memory(NamedTuple):
    """Limit and use in bytes; without a limit, cgroup v1 has one of 8 EiB."""

    limit: float
    used: float


def memory() -> Memory | None:
    """Returns the container's memory; None without a limit."""
    for names in _FILES:
        try:
            return Memory(*(float((ROOT / name).read_text(encoding="ascii")) for name in names))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None
