# SPDX-License-Identifier: Apache-2.0
"""Paths that a person gives: made absolute, and tried before any work. Starts with the standard library alone."""

from __future__ import annotations

import errno
import os
import pathlib
import stat
import tempfile

from components.errors import BadInput

# TensorFlow reads each of them as a pattern, in a folder's name too: with "[" or "\" it does not find the weights of a
# model, with "*" or "?" it may take those of another folder. Beam does the same with all but the last.
PATTERN_CHARACTERS = "*?[\\"
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Enough for the file system to need a block.
_PROBE_BYTES = 4096


def absolute(path: str | os.PathLike[str], key: str) -> pathlib.Path:
    """Makes a path absolute, with ~ as the user's home.

    Args:
        path: what a person gave.
        key: name of the setting, for the message.

    Raises:
        BadInput: no file can have that name, it is not UTF-8, or ~ is the home of nobody.
    """
    text = os.fspath(path)
    if "\0" in text or not _is_utf8(text):
        raise BadInput(
            f"{key} takes a path in UTF-8 without zero bytes; received {text!r}. Rename it, or make a link to it."
        )
    expanded = os.path.expanduser(text)  # noqa: PTH111 - pathlib takes ./~NAME for ~NAME
    if expanded.startswith("~"):
        raise BadInput(
            f"{key} takes a path, in which ~NAME is a user's home; received {text!r}. Write ./~NAME for a file."
        )
    return pathlib.Path(expanded).absolute()


def refuse_patterns(path: pathlib.Path, key: str) -> None:
    """Raises `BadInput` for a path with a character that TensorFlow or Beam take for a pattern."""
    if found := "".join(character for character in PATTERN_CHARACTERS if character in str(path)):
        raise BadInput(
            f"{key} takes a path without {' '.join(PATTERN_CHARACTERS)}, which TensorFlow and Beam read as patterns of "
            f"other names; received {found} in {str(path)!r}. Name another folder, or a link to this one."
        )


def fault(folder: pathlib.Path, *, room: bool = True) -> str:
    """Finds out whether files can be written to a folder or, while it is missing, to the one that it would be made in.

    A file is made there and removed, without ever having a name where the file system can do that. Permission bits
    tell root nothing, nor of a mount that is read-only.

    Args:
        folder: an absolute path.
        room: whether a full disk counts.

    Returns:
        The path and the reason, as `PATH: REASON`; empty where it can be written to.
    """
    present = folder
    try:
        present = nearest(folder)
        if present.is_symlink() and not present.exists():
            return f"{present}: the link leads nowhere"
        with tempfile.TemporaryFile(dir=present) as file:
            file.write(bytes(_PROBE_BYTES))
    except OSError as error:
        if error.errno in _FULL and not room:
            return ""
        return f"{folder}: {_reason(error)}" + ("" if present == folder else f" in {present}")
    return ""


def nearest(folder: pathlib.Path) -> pathlib.Path:
    """The folder itself or, while it is missing, the one above that is there.

    Raises:
        OSError: that cannot be found out.
    """
    while not _is_there(folder):
        folder = folder.parent
    return folder


def file_fault(file: pathlib.Path) -> str:
    """Finds out whether a file can be written, or made; its content stays. Returns the reason, empty where it can."""
    try:
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            return "it is a folder"
        if stat.S_ISREG(mode):
            os.close(os.open(file, os.O_WRONLY))
        elif not os.access(file, os.W_OK):  # a pipe or a terminal: opening it may wait for a reader
            return "it is not writable"
    except (FileNotFoundError, NotADirectoryError):
        folder = pathlib.Path(os.path.realpath(file)).parent  # of what a link leads to
        return fault(folder) if folder.is_dir() else f"{folder} is no folder"
    except OSError as error:
        return _reason(error)
    return ""


def refuse_unwritable_file(file: str, key: str) -> None:
    """Raises `BadInput` where a file that a result is to go to could not be written in the end."""
    if reason := file_fault(absolute(file, key)):
        raise BadInput(f"{key} names a file that can be written, but {file}: {reason}")


def version_number(name: str) -> int | None:
    """Reads the name of a version's folder as TensorFlow Serving does: decimal, zeros before it or not, of 63 bits.

    Returns:
        The number, None where the name is no version's.
    """
    if not (name.isascii() and name.isdecimal()):
        return None
    number = int(name)
    return number if number < 2**63 else None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8 come in as lone surrogates
        return False
    return True


def _is_there(path: pathlib.Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
