# SPDX-License-Identifier: Apache-2.0
"""The console of a local run: a live table of the stages and one verdict line; all other output goes to a log file.

TensorFlow and Beam write thousands of lines, also from C++, so the file descriptors themselves are redirected, and the
terminal is kept as a duplicate.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console as Terminal
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from components import stdio
from pipeline import tables

_MARKS = {"done": ("✓", "green"), "cached": ("=", "cyan"), "failed": ("✗", "red"), "running": ("…", "yellow")}
_BAR_COLUMNS = 60  # of a terminal on which the bar of a download has room beside the figures


class _Live(Live):
    """A table in place that a run in the background leaves alone: what is in the foreground has the terminal then.

    It must not redirect sys.stdout and sys.stderr, as it does by default: what is written to them belongs to the log.
    """

    def refresh(self) -> None:
        try:
            foreground = os.tcgetpgrp(self.console.file.fileno()) == os.getpgrp()
        except OSError:  # not the terminal of this session
            foreground = True
        if foreground:
            super().refresh()


class Console(logging.Handler):
    """Shows stages as they come; on a terminal in place, elsewhere a line for each that ends."""

    def __init__(self, stream: TextIO):
        super().__init__(logging.INFO)
        # A duplicate, so that it stays the terminal when the stream's own descriptor is redirected.
        self._terminal = Terminal(file=stdio.duplicate(stream), highlight=False)
        # Colours may be asked for elsewhere too (FORCE_COLOR); a table in place needs a terminal that can go back up.
        self._in_place = stream.isatty() and self._terminal.is_terminal and not self._terminal.is_dumb_terminal
        self._rows: dict[str, tuple[str, float, str]] = {}
        self._started: dict[str, float] = {}
        self._of_thread: dict[int | None, str] = {}
        self._results: dict[str, str] = {}
        self._bar: Progress | None = None

    def close(self) -> None:
        """Closes the duplicate."""
        self._terminal.file.close()
        super().close()

    def say(self, text: str, style: str = "") -> None:
        """Prints one line."""
        tables.line(self._terminal, text, style)

    def verdict(self, gates: Sequence[Mapping[str, Any]]) -> None:
        """Shows what the verdict depends on.

        Args:
            gates: rows as `pipeline.report.content` makes them.
        """
        rows = []
        for gate in gates:
            difference = (gate["difference"] or "").removesuffix(" points")
            if difference and gate["interval"]:
                difference += f" ({gate['interval']})"
            cells = [gate["what"], gate["candidate"], gate["baseline"], difference, gate["limit"]]
            mark = Text("✓ pass", "green") if gate["passed"] else Text("✗ fail", "red")
            rows.append([*((cell or "–").removesuffix(" points") for cell in cells), mark])
        figures = ("candidate", "baseline", "difference (95 %)", "limit")
        if rows:
            tables.show(self._terminal, rows, ("metric", *figures, ""), right=figures)

    def download(self, done: int, total: int) -> None:
        """Shows how far a download is."""
        if self._bar is None:
            columns = (TextColumn("Downloading MNIST"), BarColumn(), DownloadColumn())
            self._bar = Progress(
                *(columns if self._terminal.width >= _BAR_COLUMNS else columns[-1:]),  # it would cut the figures
                console=self._terminal,
                transient=True,
                disable=not self._in_place,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bar.add_task("", total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        if done >= total:
            self._bar.stop()
            self._bar = None

    @contextlib.contextmanager
    def stages(self) -> Iterator[None]:
        """While it lasts, stages are shown, and what the logger `progress` says is the running stage's note."""
        logger = logging.getLogger("progress")
        logger.setLevel(logging.INFO)
        logger.addHandler(self)
        try:
            if self._in_place:
                with _Live(
                    self, console=self._terminal, refresh_per_second=4, redirect_stdout=False, redirect_stderr=False
                ):
                    self._terminal.show_cursor(True)  # a shell that stops the run, or outlives it, needs it
                    yield
            else:
                yield
        finally:
            logger.removeHandler(self)

    def stage(self, name: str, state: str, seconds: float) -> None:
        """Shows a stage's state."""
        if state == "running":
            self._started[name] = time.monotonic()
            self._of_thread[threading.get_ident()] = name
        note = self._rows.get(name, ("", 0.0, ""))[2]
        self._rows[name] = (state, seconds, note)
        if not self._in_place and state != "running":
            self._terminal.print(self._row(name), soft_wrap=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Takes what the logger `progress` says as the note of the stage that runs in this thread, else the last."""
        running = [name for name, (state, _, _) in self._rows.items() if state == "running"]
        if running:
            own = self._of_thread.get(record.thread)
            name = own if own in running else running[-1]
            note = record.getMessage()
            self._rows[name] = ("running", 0.0, note)
            if note.startswith(("epoch ", "trial ")):  # the last one stays as the stage's result
                self._results[name] = note

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for name in self._rows:
            table.add_row(self._row(name))
        return table

    def _row(self, name: str) -> Text:
        state, seconds, note = self._rows[name]
        if state == "running":
            seconds = time.monotonic() - self._started.get(name, time.monotonic())
        mark, style = _MARKS.get(state, ("-", "dim"))
        mark = stdio.readable(mark, self._terminal.encoding)
        shown = stdio.readable(note if state == "running" else self._results.get(name, ""), self._terminal.encoding)
        return Text.assemble((f"{mark} {name:<12}", style), f" {state:<8}{seconds:7.1f} s  ", (shown, "dim"))


@contextlib.contextmanager
def redirected(log: pathlib.Path) -> Iterator[None]:
    """Sends file descriptors 1 and 2, and with them all output of this process, to a log file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        with contextlib.suppress(OSError):  # the disk with the log may be full
            sys.stdout.flush()
            sys.stderr.flush()
        for descriptor, original in zip((1, 2), kept, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
        os.close(target)
