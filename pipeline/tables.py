# SPDX-License-Identifier: Apache-2.0
"""Tables on a terminal of any width and encoding; no name or number is cut or broken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from components import stdio

_MIN_TEXT_WIDTH = 24  # columns in which wrapped sentences are readable


def show(
    terminal: Console,
    rows: Iterable[Sequence[str | Text]],
    header: Sequence[str] = (),
    *,
    right: Sequence[str] = (),
    gap: int = 1,
    indent: int = 0,
) -> None:
    """Prints a table whose last column wraps at words; on a narrow terminal, each row is a list of its cells.

    Args:
        terminal: destination.
        rows: cells, the same number in each row.
        header: names of the columns, "" for none.
        right: names of the columns that are aligned to the right.
        gap: blanks between columns.
        indent: blanks before the first column.
    """
    names = [cell(terminal, name, "dim") for name in header]
    cells = [[cell(terminal, value) for value in row] for row in rows]
    lines = [names, *cells] if header else cells
    if not lines:
        return
    widths = [max(text.cell_len for text in column) for column in zip(*lines, strict=True)]
    room = terminal.width - indent - sum(widths[:-1]) - gap * (len(widths) - 1)
    longest_word = max((len(word) for row in lines for word in row[-1].plain.split()), default=0)
    if room < min(widths[-1], max(longest_word, _MIN_TEXT_WIDTH)):
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
    """Prints one line, which the terminal itself wraps."""
    terminal.print(cell(terminal, text, style), soft_wrap=True)


def cell(terminal: Console, text: str | Text, style: str = "") -> Text:
    """Returns text in characters of the terminal's encoding, without control characters."""
    styled = text if isinstance(text, Text) else Text(text, style)
    plain = "".join(character if character.isprintable() or _is_byte(character) else " " for character in styled.plain)
    plain = stdio.readable(plain, terminal.encoding)
    return styled if plain == styled.plain else Text(plain, styled.style)


def _is_byte(character: str) -> bool:
    """Returns whether a character stands for a byte of a file name that is not UTF-8 (PEP 383)."""
    return "\udc80" <= character <= "\udcff"


def _show_list(terminal: Console, row: Sequence[Text], names: Sequence[Text], indent: str) -> None:
    if not names:
        line(terminal, Text(indent) + Text("  ").join(text for text in row if text.plain))
        return
    line(terminal, Text(indent) + row[0])
    for name, text in zip(names[1:], row[1:], strict=True):
        if text.plain:
            line(terminal, Text(f"{indent}  ") + name + Text(" " if name.plain else "") + text)
