# SPDX-License-Identifier: Apache-2.0
"""Outlives the process that does the work, to say how it ended when it could not say so itself.

When memory runs out the kernel kills a process, and a fault in native code ends it: no `except` sees either. So a child
does the work, and the parent, which imports next to nothing, waits.
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
from collections.abc import Callable
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_pipe: int | None = None


def tell(folder: pathlib.Path) -> None:
    """In the child: names the folder of the run that has begun."""
    if _pipe is not None:
        os.write(_pipe, os.fsencode(folder) + b"\n")


def call(work: Callable[[], int], died: Callable[[int, pathlib.Path | None], int]) -> int:
    """Does work in a child process; signals that would end this one go to the child's group.

    Args:
        work: returns the exit code. It must not rely on threads that run now.
        died: called when a signal ended the child, with its number and the last folder that it told of; returns the
            exit code.
    """
    global _pipe
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _pipe = writer
        _end_with(parent)
        _end(work())
    os.close(writer)
    with contextlib.suppress(OSError):  # both sides do it, so that it is done whoever comes first
        os.setpgid(child, child)

    def forward(number: int, _: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    with os.fdopen(reader, "rb") as pipe:
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):  # what the child has started and could not end
            os.killpg(child, signal.SIGKILL)
        os.set_blocking(pipe.fileno(), False)
        told = (pipe.read() or b"").splitlines()
    if os.WIFSIGNALED(status):
        return died(os.WTERMSIG(status), pathlib.Path(os.fsdecode(told[-1])) if told else None)
    return os.waitstatus_to_exitcode(status)


def _end(code: int) -> NoReturn:
    """Ends this process as `sys.exit` would, but does not first take apart, for half a second, all that it imported."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # whoever read this is gone
        sys.exit(code)
    os._exit(code)


def _end_with(parent: int) -> None:
    """Lets this process end when its parent does, and lets the parent alone have the terminal's signals."""
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it could be seen to
        os.kill(os.getpid(), signal.SIGKILL)
