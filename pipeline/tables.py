# SPDX-License-Identifier: Apache-2.0
"""Tables on a terminal of any width and encoding: no name and no figure is cut or broken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from components import stdio

_SENTENCE = 24  # columns that are enough for a sentence, whose words wrap


def show(
    terminal: Console,
    rows: Iterable[Sequence[str | Text]],
    header: Sequence[str] = (),
    *,
    right: Sequence[str] = (),
    gap: int = 1,
    indent: int = 0,
) -> None:
    """Prints a table whose last column wraps at words. Where that is too wide, each row becomes a list of its cells.

    Args:
        terminal: where to.
        rows: the cells, as many in each row.
        header: the names of the columns, "" for one that needs none.
        right: the columns whose cells are aligned to the right.
        gap: blanks between columns.
        indent: blanks before the first.
    """
    names = [cell(terminal, name, "dim") for name in header]
    cells = [[cell(terminal, value) for value in row] for row in rows]
    lines = [names, *cells] if header else cells
    if not lines:
        return
    widths = [max(text.cell_len for text in column) for column in zip(*lines, strict=True)]
    room = terminal.width - indent - sum(widths[:-1]) - gap * (len(widths) - 1)
    longest_word = max((len(word) for row in lines for word in row[-1].plain.split()), default=0)
    if room < min(widths[-1], max(longest_word, _SENTENCE)):
        for row in cells:
            _show_list(terminal, row, names, " " * indent)
        return
    table = Table.grid(padding=(0, gap, 0, 0))
    for number, width in enumerate(widths):
        last = number + 1 == len(widths)
        justify: Literal["left", "right"] = "right" if header and header[number] in right else "left"
        table.add_column(justify=justify, width=min(width, room) if last else width)
    for row in lines:
        table.add_row(*row)
    terminal.print(Padding(table, (0, 0, 0, indent), expand=False))


def line(terminal: Console, text: str | Text, style: str = "") -> None:
    """Prints one line as it is; the terminal itself wraps it."""
    terminal.print(cell(terminal, text, style), soft_wrap=True)


def cell(terminal: Console, text: str | Text, style: str = "") -> Text:
    """Text as it was given, without what would steer the terminal, in signs that its encoding has."""
    given = text if isinstance(text, Text) else Text(text, style)
    plain = "".join(sign if sign.isprintable() or _is_byte(sign) else " " for sign in given.plain)
    plain = stdio.readable(plain, terminal.encoding)
    return given if plain == given.plain else Text(plain, given.style)


def _is_byte(sign: str) -> bool:
    """Tells a character that Python puts for a byte of a file name that is no UTF-8."""
    return "\udc80" <= sign <= "\udcff"


def _show_list(terminal: Console, row: Sequence[Text], names: Sequence[Text], indent: str) -> None:
    if not names:
        line(terminal, Text(indent) + Text("  ").join(text for text in row if text.plain))
        return
    line(terminal, Text(indent) + row[0])
    for name, text in zip(names[1:], row[1:], strict=True):
        if text.plain:
            line(terminal, Text(f"{indent}  ") + name + Text(" " if name.plain else "") + text)
