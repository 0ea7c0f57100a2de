# SPDX-License-Identifier: Apache-2.0
"""A real pseudo-terminal with a program on it, for tests of what a person sees and types."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self


class Terminal:
    """A program that leads a session of its own on a pseudo-terminal.

    Attributes:
        pid: the program's.
        output: all that it has written so far.
    """

    def __init__(
        self,
        command: Sequence[str | pathlib.Path],
        *,
        env: Mapping[str, str],
        cwd: pathlib.Path,
        columns: int = 120,
        rows: int = 50,
    ) -> None:
        ready, go = os.pipe()
        self.pid, self._keyboard = pty.fork()
        if self.pid == 0:
            os.read(ready, 1)  # until the terminal has its size
            os.chdir(cwd)
            os.execvpe(str(command[0]), [str(part) for part in command], {"TERM": "xterm", **env})
        fcntl.ioctl(self._keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.write(go, b"!")
        os.close(ready)
        os.close(go)
        self.output = ""
        self._code: int | None = None

    def type(self, text: str) -> None:
        """Types; the character 3 is Ctrl-C, 26 Ctrl-Z."""
        os.write(self._keyboard, text.encode())

    def until(self, condition: str | Callable[[], bool], seconds: float = 300) -> str:
        """Reads until a text has been written, or a condition holds; returns what was written meanwhile."""
        start, end = len(self.output), time.monotonic() + seconds
        while time.monotonic() < end:
            if condition in self.output[start:] if isinstance(condition, str) else condition():
                return self.output[start:]
            if not self.read(0.05):
                break
        raise AssertionError(f"{condition} did not come to pass: {self.output[start:]}")

    def end(self) -> int:
        """Reads to the end and returns the exit code."""
        while self.read(0.5):
            pass
        return self.wait()

    def hang_up(self) -> None:
        """Closes the terminal, as a person closes its window."""
        os.close(self._keyboard)
        self._keyboard = -1

    def read(self, seconds: float) -> bool:
        """False once nobody has the terminal open any more."""
        if select.select([self._keyboard], [], [], seconds)[0]:
            try:
                self.output += os.read(self._keyboard, 65536).decode("utf-8", "replace")
            except OSError:
                return False
        return True

    def wait(self) -> int:
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._keyboard >= 0:
            self.hang_up()
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()


def descendants(pid: int) -> list[tuple[int, str]]:
    """The processes below one, each with its state as the kernel writes it: R, S, T for stopped, Z."""
    processes = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if int(parent) == pid:
                child = int(stat.parent.name)
                processes += [(child, state), *descendants(child)]
    return processes
