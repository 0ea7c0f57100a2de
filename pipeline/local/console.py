# SPDX-License-Identifier: Apache-2.0
"""The console of a local run: a live table of the stages, then the verdict; all other output goes to a log file.

TensorFlow and Beam write thousands of lines, also from C++, so the file descriptors themselves are redirected, and the
console writes to a duplicate of the terminal's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.console import Console as Terminal
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from components import progress, stdio
from components.progress import EpochEnd, ProgressEvent, TrialEnd
from pipeline import tables
from pipeline.report.gates import GateRow
from pipeline.run_record import State

_MARKS = {
    State.DONE: ("✓", "green"),
    State.CACHED: ("=", "cyan"),
    State.FAILED: ("✗", "red"),
    State.RUNNING: ("…", "yellow"),
}
_BAR_COLUMNS = 60  # the least width of a terminal for the bar of a download beside its figures


class _Live(Live):
    """A table in place that is not drawn while the run is in the background, where the terminal belongs to another job.

    Use it with redirect_stdout and redirect_stderr off: the text written to them belongs to the log.
    """

    def refresh(self) -> None:
        try:
            foreground = os.tcgetpgrp(self.console.file.fileno()) == os.getpgrp()
        except OSError:  # not the terminal of this session
            foreground = True
        if foreground:
            super().refresh()


class Console(logging.Handler):
    """Shows the stages: on a terminal all of them in place, elsewhere a line for each that ends."""

    def __init__(self, stream: TextIO):
        super().__init__(logging.INFO)
        # A duplicate stays the terminal when the stream's own descriptor is redirected.
        self._terminal = Terminal(file=stdio.duplicate(stream), highlight=False)
        # FORCE_COLOR gives colours elsewhere too; a table in place needs a terminal whose cursor can go up.
        self._in_place = stream.isatty() and self._terminal.is_terminal and not self._terminal.is_dumb_terminal
        self._rows: dict[str, tuple[State, float]] = {}
        self._started: dict[str, float] = {}
        self._stage_of_thread: dict[int | None, str] = {}
        self._events: dict[str, ProgressEvent] = {}  # the newest of each stage
        self._results: dict[str, ProgressEvent] = {}  # the last end of an epoch or a trial of each stage
        self._bar: Progress | None = None

    def close(self) -> None:
        """Closes the duplicate."""
        self._terminal.file.close()
        super().close()

    def say(self, text: str, style: str = "") -> None:
        """Prints one line."""
        tables.line(self._terminal, text, style)

    def verdict(self, gates: Sequence[GateRow]) -> None:
        """Shows the table of the gates.

        Args:
            gates: rows of `pipeline.report.gates`.
        """
        rows: list[list[str | Text]] = []
        for gate in gates:
            difference = (gate.difference or "").removesuffix(" points")
            if difference and gate.interval:
                difference += f" ({gate.interval})"
            cells = [gate.metric, gate.candidate, gate.baseline, difference, gate.limit]
            mark = Text("✓ pass", "green") if gate.passed else Text("✗ fail", "red")
            rows.append([*((cell or "–").removesuffix(" points") for cell in cells), mark])
        figures = ("candidate", "baseline", "difference (95 %)", "limit")
        if rows:
            tables.show(self._terminal, rows, ("metric", *figures, ""), right=figures)

    def download(self, completed: int, total: int) -> None:
        """Shows the progress of a download in bytes."""
        if self._bar is None:
            columns = (TextColumn("Downloading MNIST"), BarColumn(), DownloadColumn())
            self._bar = Progress(
                *(columns if self._terminal.width >= _BAR_COLUMNS else columns[-1:]),  # a bar would cut the figures
                console=self._terminal,
                transient=True,
                disable=not self._in_place,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bar.add_task("", total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=completed, total=total)
        if completed >= total:
            self._bar.stop()
            self._bar = None

    @contextlib.contextmanager
    def stages(self) -> Iterator[None]:
        """Shows the stages and their progress events within the block."""
        progress.LOGGER.setLevel(logging.INFO)
        progress.LOGGER.addHandler(self)
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
            progress.LOGGER.removeHandler(self)

    def stage(self, name: str, state: State, seconds: float) -> None:
        """Shows a stage's state."""
        if state == State.RUNNING:
            self._started[name] = time.monotonic()
            self._stage_of_thread[threading.get_ident()] = name
        self._rows[name] = (state, seconds)
        if not self._in_place and state != State.RUNNING:
            self._terminal.print(self._row(name), soft_wrap=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a progress event beside the stage that runs in its thread, else beside the last that runs."""
        event = record.msg
        running = [name for name, (state, _) in self._rows.items() if state == State.RUNNING]
        if running and isinstance(event, ProgressEvent):
            stage = self._stage_of_thread.get(record.thread)
            name = stage if stage in running else running[-1]
            self._events[name] = event
            if isinstance(event, EpochEnd | TrialEnd):  # shown after the stage's end too, as its result
                self._results[name] = event

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for name in self._rows:
            table.add_row(self._row(name))
        return table

    def _row(self, name: str) -> Text:
        state, seconds = self._rows[name]
        if state == State.RUNNING:
            seconds = time.monotonic() - self._started.get(name, time.monotonic())
        mark, style = _MARKS.get(state, ("-", "dim"))
        mark = stdio.readable(mark, self._terminal.encoding)
        event = (self._events if state == State.RUNNING else self._results).get(name, "")
        text = stdio.readable(str(event), self._terminal.encoding)
        return Text.assemble((f"{mark} {name:<12}", style), f" {state:<8}{seconds:7.1f} s  ", (text, "dim"))


@contextlib.contextmanager
def redirected(log: pathlib.Path) -> Iterator[None]:
    """Sends file descriptors 1 and 2, and with them all output of this process, to a log file."""
    sys.stdout.flush()
    sys.stderr.flush()
    originals = [os.dup(1), os.dup(2)]
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        with contextlib.suppress(OSError):  # the disk with the log may be full
            sys.stdout.flush()
            sys.stderr.flush()
        for descriptor, original in zip((1, 2), originals, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
        os.close(target)
