# SPDX-License-Identifier: Apache-2.0
"""Prepares a process for whatever it was started with: closed descriptors, a reader that leaves, any encoding, `-OO`.

Every entry point begins with `run`, or with `prepare` where its own imports come before that. The standard library is
enough for it, on any Python 3.8: it must also say that packages are missing.
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
# What stands for a sign where the encoding of the terminal or the file lacks it.
_ASCII = {
    "✓": "+", "✗": "x", "…": "...", "–": "-", "—": "-", "×": "x", "→": "->", "≤": "<=", "≥": ">=", "█": "#", "▀": "#",
    "◀": "<", "━": "-", "“": '"', "”": '"', "‘": "'", "’": "'", "\N{NO-BREAK SPACE}": " ",
}  # fmt: skip
_DEGRADE = "readable"  # the name of the error handler, for `errors=` of any text stream
_GONE = (errno.EPIPE, errno.EIO)  # nobody reads any more: a pipe's other end is closed, a terminal is gone


class _Descriptor(io.FileIO):
    """Writes to a descriptor, and drops what cannot be written: a closed pipe or a full disk ends no work."""

    fault: ClassVar[OSError | None] = None  # the last one on the way to stdout, unless its reader left
    counts = False

    def write(self, data: Any, /) -> int:
        try:
            while (written := super().write(data)) is None:  # whoever shares the descriptor made it non-blocking
                select.select([], [self], [])
        except OSError as error:
            if self.counts and error.errno not in _GONE:
                _Descriptor.fault = error
            return memoryview(data).nbytes
        return written


def run(work: Callable[[], int]) -> NoReturn:
    """Prepares the process, does the work of a command and ends with its exit code, or 1 where stdout lost a part."""
    prepare()
    try:
        code = work()
    except SystemExit as end:  # --help
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    if flush() and code == 0:
        code = 1
    sys.exit(code)


def prepare() -> None:
    """Gives the process the interpreter, streams, signals and warnings that everything after it may rely on."""
    if sys.flags.optimize > 1:
        _start_with_docstrings()
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:  # then no exit code of a child could be had
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in range(3):  # ascending: the lowest free number is the one that is closed
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _stream(1, sys.stdout, "stdout")
    sys.stderr = _stream(2, sys.stderr, "stderr")
    sys.excepthook = _say_failure
    # TensorFlow, TFX and Beam warn while they are imported, here and in the processes that they start.
    if any(action == "error" for action, *_ in warnings.filters):
        os.environ.pop("PYTHONWARNINGS", None)
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)


def _start_with_docstrings() -> None:
    """Starts this very process again without `-OO`: Apache Beam cannot be imported where docstrings are removed."""
    import subprocess

    os.environ.pop("PYTHONOPTIMIZE", None)
    options = [flag for flag in subprocess._args_from_interpreter_flags() if not flag.startswith("-O")]  # type: ignore[attr-defined]
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]
    os.execv(sys.executable, [sys.executable, *options, *program, *sys.argv[1:]])


def duplicate(stream: TextIO) -> TextIO:
    """A stream on a duplicate of the descriptor, which leads to the same place when the original is redirected."""
    return _text(os.dup(stream.fileno()), stream.encoding, stream is sys.stdout, closefd=True)


def readable(text: str, encoding: str) -> str:
    """The text as a stream of that encoding shows it: ASCII stands for the signs that it lacks."""
    return text.encode(encoding, _DEGRADE).decode(encoding, "surrogateescape")


def flush() -> bool:
    """Writes what is buffered; True where a part of stdout was lost, which it then says on stderr."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    fault = _Descriptor.fault
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
        # Also where PYTHONUNBUFFERED asks for no buffer, as in containers: what is killed leaves its last line.
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
    if "\udc80" <= sign <= "\udcff":  # a byte of a file's name that is no UTF-8
        return bytes([ord(sign) - 0xDC00]), error.start + 1
    return _ASCII.get(sign) or sign.encode("ascii", "backslashreplace").decode(), error.start + 1


def _say_failure(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Says in one line what nobody caught; the exit code is 1."""
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
    if isinstance(error, KeyboardInterrupt):  # Python would end itself by the signal
        os._exit(1)


codecs.register_error(_DEGRADE, _degrade)
