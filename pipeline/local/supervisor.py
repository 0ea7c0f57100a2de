# SPDX-License-Identifier: Apache-2.0
"""Outlives the process that does the work, to say how it ended when it could not say so itself.

When memory runs out the kernel kills a process, and a fault in native code ends it: no `except` sees either. So a child
does the work, and the parent, which imports next to nothing, waits. Both stay in the process group that the shell made,
so that Ctrl-C, Ctrl-Z, `fg`, `bg` and the end of the terminal reach all processes of a run as those of any program.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from components import stdio

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# After which an interrupted child is killed: it hangs in native code, or a library swallowed the interruption. To wind
# up takes a second or two, and many times that on a machine that is overloaded.
_GRACE_SECONDS = 60
_pipe: int | None = None
_interruption: signal.Signals | None = None


def tell(folder: pathlib.Path) -> None:
    """In the child: names the folder of the run that has begun."""
    if _pipe is not None:
        os.write(_pipe, os.fsencode(folder) + b"\n")


def interruption() -> str:
    """In the child: the reason for a record, "" as long as no signal has asked it to end."""
    return "" if _interruption is None else reason(_interruption)


def reason(number: int) -> str:
    """Says for a record that a signal has interrupted the run."""
    return "it was interrupted" + ("" if number == signal.SIGINT else f" by {signal.Signals(number).name}")


def ignore_interruptions() -> None:
    """In the child: lets the rest of the process, which says how the work ended, not be interrupted."""
    if _pipe is not None:
        for number in INTERRUPTIONS:
            signal.signal(number, signal.SIG_IGN)


def call(work: Callable[[], int], died: Callable[[int, pathlib.Path | None], int]) -> int:
    """Does work in a child process, in which the first signal that asks it to end raises KeyboardInterrupt.

    Args:
        work: returns the exit code. It must not rely on threads that run now.
        died: called when a signal ended the child, or the child failed after one had asked it to end, with the signal's
            number and the last folder that the child named; returns the exit code.
    """
    global _pipe
    stdio.flush()
    reader, writer = os.pipe()
    parent = os.getpid()
    # As nohup and a shell without job control ask for: what is ignored stays ignored.
    numbers = [number for number in (*INTERRUPTIONS, signal.SIGQUIT) if signal.getsignal(number) != signal.SIG_IGN]
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # else a run in the background stops at its first line to a terminal
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # until both sides have their handlers
    _adopt_orphans()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _pipe = writer
        _end_with(parent)
        for number in set(numbers) - {signal.SIGQUIT}:
            signal.signal(number, _interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        _end(work())
    os.close(writer)
    received: list[int] = []

    def forward(number: int, _: Any) -> None:
        received.append(number)
        # The terminal's signals have reached the child already; it heeds the first alone.
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        if len(received) == 1:
            signal.alarm(_GRACE_SECONDS)

    def kill(*_: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    for number in numbers:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    with os.fdopen(reader, "rb") as pipe:
        _, status = os.waitpid(child, 0)
        for number in (*numbers, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        _kill_children()  # what the child has started and could not end
        os.set_blocking(pipe.fileno(), False)
        folders = (pipe.read() or b"").splitlines()
    code = os.waitstatus_to_exitcode(status)
    folder = pathlib.Path(os.fsdecode(folders[-1])) if folders else None
    if code < 0 or (code and received and folder):
        return died(received[0] if received else -code, folder)
    return code


def _interrupt(number: int, _: Any) -> None:
    global _interruption
    if _interruption is None:
        _interruption = signal.Signals(number)
        raise KeyboardInterrupt


def _end(code: int) -> NoReturn:
    """Ends this process as `sys.exit` would, but does not first take apart, for half a second, all that it imported."""
    ignore_interruptions()
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    stdio.flush()
    os._exit(code)


def _end_with(parent: int) -> None:
    """Lets this process end when its parent does."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it could be seen to
        os.kill(os.getpid(), signal.SIGKILL)


def _adopt_orphans() -> None:
    """Makes processes whose parent ends before them children of this process; on Linux alone."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _kill_children() -> None:
    """Ends the children of this process, and what these leave behind."""
    while children := list(_children()):
        for process in children:
            os.kill(process, signal.SIGKILL)
        for process in children:
            os.waitpid(process, 0)


def _children() -> Iterator[int]:
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended since
            # "PID (NAME) STATE PARENT …", where the name may hold anything.
            if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                yield int(stat.parent.name)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)
