# SPDX-License-Identifier: Apache-2.0
"""Prepares a process for any start: closed descriptors, a reader that exits, any encoding, `-OO`.

Every entry point begins with `run`, or with `prepare` if its own imports come before that. Needs the standard library
alone, on any Python from 3.8 on: it also reports missing packages.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import pathlib
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn, TextIO, cast

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# Replacements of characters that the encoding of the terminal or the file lacks.
_ASCII = {
    "✓": "+", "✗": "x", "…": "...", "–": "-", "—": "-", "×": "x", "→": "->", "≤": "<=", "≥": ">=", "█": "#", "▀": "#",
    "◀": "<", "━": "-", "“": '"', "”": '"', "‘": "'", "’": "'", "\N{NO-BREAK SPACE}": " ",
}  # fmt: skip
_DEGRADE = "readable"  # the name of the error handler, for `errors=` of any text stream
_NO_READER = (errno.EPIPE, errno.EIO)  # the other end of a pipe or the terminal is closed


class _Descriptor(io.FileIO):
    """Writes to a descriptor, and drops data that cannot be written: a closed pipe or a full disk stops no work."""

    fault: ClassVar[OSError | None] = None  # the last error of stdout, unless its reader has exited
    counts = False

    def write(self, data: Any, /) -> int:
        try:
            while (written := super().write(data)) is None:  # another process made the shared descriptor non-blocking
                select.select([], [self], [])
        except OSError as error:
            if self.counts and error.errno not in _NO_READER:
                _Descriptor.fault = error
            return memoryview(data).nbytes
        return written


def run(work: Callable[[], int]) -> NoReturn:
    """Prepares the process, runs a command and exits with its code, or 1 if a part of stdout was lost."""
    prepare()
    try:
        code = work()
    except SystemExit as end:  # --help
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    if flush() and code == 0:
        code = 1
    sys.exit(code)


def prepare() -> None:
    """Sets up the interpreter flags, streams, signals and warnings that the rest of the program relies on."""
    if sys.flags.optimize > 1:
        _start_with_docstrings()
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:  # else the exit codes of children would be lost
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in range(3):  # ascending, as `open` returns the lowest free number
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _stream(1, sys.stdout, "stdout")
    sys.stderr = _stream(2, sys.stderr, "stderr")
    sys.excepthook = _print_failure
    # TensorFlow, TFX and Beam warn while they are imported, also in the processes that they start.
    if any(action == "error" for action, *_ in warnings.filters):
        os.environ.pop("PYTHONWARNINGS", None)
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)


def _start_with_docstrings() -> None:
    """Restarts this process without `-OO`: Apache Beam cannot be imported without docstrings."""
    import subprocess

    os.environ.pop("PYTHONOPTIMIZE", None)
    options = [flag for flag in subprocess._args_from_interpreter_flags() if not flag.startswith("-O")]  # type: ignore[attr-defined]
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]
    os.execv(sys.executable, [sys.executable, *options, *program, *sys.argv[1:]])


def duplicate(stream: TextIO) -> TextIO:
    """Returns a stream on a duplicate of the descriptor, which is not redirected with the original."""
    return _text(os.dup(stream.fileno()), stream.encoding, stream is sys.stdout, closefd=True)


def readable(text: str, encoding: str) -> str:
    """Returns the text as a stream of that encoding shows it: with ASCII for characters that it lacks."""
    return text.encode(encoding, _DEGRADE).decode(encoding, "surrogateescape")


def flush() -> bool:
    """Flushes the streams; returns True, and reports it on stderr, if stdout lost a part since the last call."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    fault, _Descriptor.fault = _Descriptor.fault, None
    if fault is not None:
        sys.stderr.write(f"stdout could not be written: {fault.strerror}\n")
        sys.stderr.flush()
    return fault is not None


def _stream(descriptor: int, former: TextIO | None, name: str) -> TextIO:
    if isinstance(former, io.TextIOWrapper) and isinstance(getattr(former.buffer, "raw", None), _Descriptor):
        return former  # prepared already
    encoding = former.encoding if former else "utf-8"
    stream = _text(descriptor, encoding, name == "stdout", closefd=False)
    if isinstance(former, io.TextIOWrapper):
        former.flush()
        # Also with PYTHONUNBUFFERED, as in containers, so that a killed process leaves its last line.
        by_line = former.line_buffering or former.write_through or descriptor == 2
        cast(io.TextIOWrapper, stream).reconfigure(line_buffering=by_line)
    return stream


def _text(descriptor: int, encoding: str, counts: bool, *, closefd: bool) -> TextIO:
    raw = _Descriptor(descriptor, "w", closefd=closefd)
    raw.counts = counts
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, _DEGRADE)


def _degrade(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    if "\udc80" <= sign <= "\udcff":  # a byte of a file name that is no UTF-8
        return bytes([ord(sign) - 0xDC00]), error.start + 1
    return _ASCII.get(sign) or sign.encode("ascii", "backslashreplace").decode(), error.start + 1


def _print_failure(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Prints an uncaught error in one line; the exit code is 1."""
    if isinstance(error, KeyboardInterrupt):
        line = "stopped"
    elif isinstance(error, ModuleNotFoundError) and not (_ROOT / (error.name or "").partition(".")[0]).exists():
        line = (
            f"error: Python 3.11 to 3.13 is needed, with the packages of requirements/run.lock; {sys.executable} lacks "
            f"{error.name}: make setup, then .venv/bin/python"
        )
    else:
        own = [
            frame
            for frame in traceback.extract_tb(trace)
            if frame.filename.startswith(str(_ROOT)) and frame.filename != __file__
        ]
        site = f" ({pathlib.Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
        line = f"FAILED: {kind.__name__}: {error}".rstrip(": ") + site
    sys.stderr.write(" ".join(line.split()) + "\n")
    flush()
    if isinstance(error, KeyboardInterrupt):  # Python would kill itself by the signal
        os._exit(1)


codecs.register_error(_DEGRADE, _degrade)
