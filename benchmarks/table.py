# SPDX-License-Identifier: Apache-2.0
"""The table of the benchmarks, for the page of the documentation that shows it."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Sequence

from benchmarks.measurement import Measurement
from components.errors import BadInput

BEGIN, END = "<!-- what `make bench` measured -->", "<!-- end of it -->"
_PACKAGES = ("tensorflow", "keras", "tfx", "apache-beam", "numpy")
_HEAD = ("", "measured", "floor", "ratio", "goal", "holds")


def render(rows: Sequence[Measurement], facts: Sequence[str]) -> str:
    """Markdown: a table with a line for each measurement, and sentences on how it came about."""
    lines = [_line(_HEAD), _line(("---",) * len(_HEAD)), *map(line, rows)]
    return "\n".join([*lines, "", *(f"- {fact}" for fact in facts)])


def line(row: Measurement) -> str:
    """The line of one measurement."""
    return _line(_cells(row))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Measurement) -> tuple[str, ...]:
    goals = {"≤": row.at_most, "≥": row.at_least}
    goal = next((f"{sign} {limit:g}" for sign, limit in goals.items() if limit is not None), "")
    return (
        row.what,
        f"{_number(row.figure)} {row.unit}",
        "" if row.floor is None else f"{_number(row.floor)} {row.unit}",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        goal if row.floors or not goal else f"{goal} {row.unit}",
        {True: "yes", False: "**no**", None: ""}[row.holds],
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def processor() -> str:
    """The name of this machine's processor."""
    cpu = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        named = [line.partition(":")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = " ".join(named[0].split()) if named else cpu
    return cpu


def machine() -> str:
    """Processor, cores and memory of this machine, in a sentence."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = f"{os.cpu_count()} cores, {memory:.0f} GiB of memory"
    return f"Machine: {processor()} ({platform.machine()}), {cores}, {platform.system()}"


def versions() -> str:
    """What it was measured with, in a sentence."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return f"Python {platform.python_version()}, {packages}"


def today() -> str:
    """The date, as of this machine's clock."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def check(page: pathlib.Path, begin: str = BEGIN) -> None:
    """Raises BadInput where a page has no place for the table."""
    _split(page, begin)


def get(page: pathlib.Path, begin: str = BEGIN) -> list[list[str]]:
    """The cells of the table that is there, line by line, without its head; raises as `check` does."""
    lines = [line for line in _split(page, begin)[1].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def put(page: pathlib.Path, text: str, begin: str = BEGIN) -> None:
    """Puts a text in the place of what was between the page's markers."""
    before, _, after = _split(page, begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def _split(page: pathlib.Path, begin: str) -> tuple[str, str, str]:
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"the page for the table must be a file that can be read; {page}: {error.strerror}") from error
    before, found, rest = text.partition(begin)
    between, end, after = rest.partition(END)
    if not found or not end:
        raise BadInput(f"the page for the table must have a line {begin} and, after it, one {END}; {page} has not")
    return before, between, after
