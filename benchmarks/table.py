# SPDX-License-Identifier: Apache-2.0
"""The tables of the benchmarks, and the pages of the documentation that show them."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Sequence

from benchmarks.measurement import Measurement
from components.errors import BadInput

BEGIN, END = "<!-- table of `make bench` -->", "<!-- end of the table -->"
_PACKAGES = ("tensorflow", "keras", "tfx", "apache-beam", "numpy")
_HEADER = ("", "measured", "floor", "ratio", "goal", "holds")


def render(header: Sequence[str], rows: Sequence[Sequence[str]], facts: Sequence[str]) -> str:
    """Returns Markdown: a table, and a list of facts below it."""
    lines = [line(cells) for cells in (header, ("---",) * len(header), *rows)]
    return "\n".join([*lines, "", *(f"- {fact}" for fact in facts)])


def render_measurements(measurements: Sequence[Measurement], facts: Sequence[str]) -> str:
    """Returns Markdown: a table with a line for each measurement, and a list of facts below it."""
    return render(_HEADER, [cells_of(measurement) for measurement in measurements], facts)


def line(cells: Sequence[str]) -> str:
    """Returns a line of a table."""
    return f"| {' | '.join(cells)} |"


def cells_of(measurement: Measurement) -> tuple[str, ...]:
    """Returns the cells of one measurement."""
    goals = {"≤": measurement.at_most, "≥": measurement.at_least}
    goal = next((f"{sign} {limit:g}" for sign, limit in goals.items() if limit is not None), "")
    return (
        measurement.name,
        f"{_number(measurement.value)} {measurement.unit}",
        "" if measurement.floor is None else f"{_number(measurement.floor)} {measurement.unit}",
        "" if measurement.ratio is None else f"{measurement.ratio:.2f}",
        goal if measurement.floors or not goal else f"{goal} {measurement.unit}",
        {True: "yes", False: "**no**", None: ""}[measurement.holds],
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def processor() -> str:
    """Returns the name of this machine's processor."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    names = [row for row in text.splitlines() if row.startswith("model name")]
    return " ".join(names[0].partition(":")[2].split()) if names else platform.processor() or platform.machine()


def machine() -> str:
    """Returns a line with processor, cores and memory of this machine."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = f"{os.cpu_count()} cores, {memory:.0f} GiB of memory"
    return f"Machine: {processor()} ({platform.machine()}), {cores}, {platform.system()}"


def versions() -> str:
    """Returns a line with the versions of Python and the main packages."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return f"Python {platform.python_version()}, {packages}"


def today() -> str:
    """Returns the date, in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def check_page(page: pathlib.Path, begin: str = BEGIN) -> None:
    """Raises BadInput if a page has no markers for the table."""
    _split(page, begin)


def read_rows(page: pathlib.Path, begin: str = BEGIN) -> list[list[str]]:
    """Returns the cells of a page's table, line by line, without its header; raises as `check_page` does."""
    lines = [line for line in _split(page, begin)[1].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def write_table(page: pathlib.Path, text: str, begin: str = BEGIN) -> None:
    """Replaces the text between a page's markers; raises as `check_page` does."""
    before, _, after = _split(page, begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def _split(page: pathlib.Path, begin: str) -> tuple[str, str, str]:
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--page must name a file that can be read; received {page}: {error.strerror}") from error
    before, opening, rest = text.partition(begin)
    table, closing, after = rest.partition(END)
    if not opening or not closing:
        raise BadInput(f"the page must have a line {begin} and, after it, a line {END}; {page} has not")
    return before, table, after
