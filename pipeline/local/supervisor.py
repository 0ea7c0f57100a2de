# SPDX-License-Identifier: Apache-2.0
"""Runs the work in a child process, and reports the child's end where the child cannot.

When memory runs out the kernel kills a process, and a fault in native code ends it; no `except` catches either. So a
child does the work, and the parent, which imports next to nothing, waits. Both stay in the process group that the shell
made, so that Ctrl-C, Ctrl-Z, `fg`, `bg` and the end of the terminal reach every process of a run, as of any program.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from components import stdio

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# An interrupted child is killed after this time: it hangs in native code, or a library swallowed the interruption. It
# takes a second or two to wind up, and many times that on an overloaded machine.
_GRACE_SECONDS = 60
# State of the child process, as a signal handler gets no arguments: the first signal that interrupted it, and the pipe
# to its parent, open only in a child.
_interruption: signal.Signals | None = None
_pipe: int | None = None


def report_folder(folder: pathlib.Path) -> None:
    """Sends the folder of the child's run to the parent."""
    if _pipe is not None:
        os.write(_pipe, os.fsencode(folder) + b"\n")


def interruption_reason() -> str:
    """Returns the reason for the child's record; "" while no signal has interrupted it."""
    return "" if _interruption is None else signal_reason(_interruption)


def signal_reason(number: int) -> str:
    """Returns the reason for the record of a run that a signal interrupted."""
    return "it was interrupted" + ("" if number == signal.SIGINT else f" by {signal.Signals(number).name}")


def ignore_interruptions() -> None:
    """Protects the rest of the child, which writes the outcome, from interruptions."""
    if _pipe is not None:
        for number in INTERRUPTIONS:
            signal.signal(number, signal.SIG_IGN)


def call(work: Callable[[], int], on_death: Callable[[int, pathlib.Path | None], int]) -> int:
    """Does work in a child process, in which the first interruption raises KeyboardInterrupt.

    Args:
        work: returns the exit code. It must not rely on threads that run now.
        on_death: called where a signal ended the child, or an interrupted child failed, with the signal's number and
            the last folder that the child reported; returns the exit code.

    Returns:
        In the parent and in the child: the exit code, for the caller to end with.
    """
    global _pipe
    stdio.flush()
    reader, writer = os.pipe()
    parent = os.getpid()
    # An ignored signal stays ignored, as nohup and a shell without job control rely on.
    numbers = [number for number in (*INTERRUPTIONS, signal.SIGQUIT) if signal.getsignal(number) != signal.SIG_IGN]
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # else a run in the background stops at its first line to a terminal
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # until both sides have their handlers
    _adopt_orphans()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _pipe = writer
        _die_with(parent)
        for number in set(numbers) - {signal.SIGQUIT}:
            signal.signal(number, _interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        code = work()
        ignore_interruptions()
        stdio.flush()  # here, as the verdict's exit code stands where stdout cannot be written
        return code
    os.close(writer)
    received: list[int] = []

    def forward(number: int, _: Any) -> None:
        received.append(number)
        # The terminal's signals have reached the child already; it acts on the first alone.
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
        _kill_children()  # processes that the child started and did not end
        os.set_blocking(pipe.fileno(), False)
        folders = (pipe.read() or b"").splitlines()
    code = os.waitstatus_to_exitcode(status)
    folder = pathlib.Path(os.fsdecode(folders[-1])) if folders else None
    if code < 0 or (code and received and folder):
        return on_death(received[0] if received else -code, folder)
    return code


def _interrupt(number: int, _: Any) -> None:
    global _interruption
    if _interruption is None:
        _interruption = signal.Signals(number)
        raise KeyboardInterrupt


def _die_with(parent: int) -> None:
    """Makes the kernel end this process with its parent."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # which ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


def _adopt_orphans() -> None:
    """Makes orphaned descendants children of this process; on Linux alone."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _kill_children() -> None:
    """Kills the children of this process, and the orphans that become its children."""
    while children := list(_children()):
        for process in children:
            os.kill(process, signal.SIGKILL)
        for process in children:
            os.waitpid(process, 0)


def _children() -> Iterator[int]:
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has ended
            # "PID (NAME) STATE PARENT …", where the name may hold anything.
            if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                yield int(stat.parent.name)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)
