# SPDX-License-Identifier: Apache-2.0
"""The growth of a process of its own while it does something."""

from __future__ import annotations

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
_PEAK = """
import resource, sys
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
"""


def measure(code: str) -> list[str]:
    """The words that Python code prints; `peak()` in it is the most memory that its process has had, in MB."""
    command = [sys.executable, "-c", _PEAK + code]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    return process.stdout.split()
