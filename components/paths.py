# SPDX-License-Identifier: Apache-2.0
"""Checks of the paths in a configuration before any work. Needs the standard library alone."""

from __future__ import annotations

import errno
import hashlib
import os
import pathlib
import stat
import tempfile

from components.errors import BadInput

# TensorFlow treats them as patterns, in folder names too: with "[" or "\" it does not find the weights of a model, with
# "*" or "?" it may load those of another folder. Beam treats all but the last as patterns.
PATTERN_CHARACTERS = "*?[\\"
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Enough that the file system must allocate a block.
_PROBE_BYTES = 4096


def absolute(path: str | os.PathLike[str], key: str) -> pathlib.Path:
    """Makes a path absolute, with ~ as the user's home.

    Args:
        path: from the user.
        key: name of the setting, for the message.

    Raises:
        BadInput: no file can have that name, it is not UTF-8, or ~NAME is no user.
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
    """Raises `BadInput` for a path with a character that TensorFlow or Beam treat as a pattern."""
    if characters := "".join(character for character in PATTERN_CHARACTERS if character in str(path)):
        raise BadInput(
            f"{key} takes a path without {' '.join(PATTERN_CHARACTERS)}, which TensorFlow and Beam read as patterns of "
            f"other names; received {characters} in {str(path)!r}. Name another folder, or a link to this one."
        )


def fault(folder: pathlib.Path, *, room: bool = True) -> str:
    """Checks that files can be written to a folder or, if it is missing, to the folder that it would be made in.

    An unnamed file is written there. Permission bits say nothing for root or about a read-only mount.

    Args:
        folder: an absolute path.
        room: counts a full disk as a fault.

    Returns:
        The path and the reason, as `PATH: REASON`; empty for a writable folder.
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
    """Returns the folder itself or, if it is missing, the nearest parent that exists.

    Raises:
        OSError: a parent is not accessible.
    """
    while not _exists(folder):
        folder = folder.parent
    return folder


def file_fault(file: pathlib.Path) -> str:
    """Checks that a file can be written or created, without changing it. Returns the reason if not, else ""."""
    try:
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            return "it is a folder"
        if stat.S_ISREG(mode):
            os.close(os.open(file, os.O_WRONLY))
        elif not os.access(file, os.W_OK):  # a pipe or a terminal: opening it may wait for a reader
            return "it is not writable"
    except (FileNotFoundError, NotADirectoryError):
        folder = pathlib.Path(os.path.realpath(file)).parent  # of the target of a link
        return fault(folder) if folder.is_dir() else f"{folder} is no folder"
    except OSError as error:
        return _reason(error)
    return ""


def refuse_unwritable_file(file: str, key: str) -> None:
    """Raises `BadInput` if an output file cannot be written."""
    if reason := file_fault(absolute(file, key)):
        raise BadInput(f"{key} names a file that can be written, but {file}: {reason}")


def tree_digest(folder: pathlib.Path) -> str:
    """Returns a SHA-256 over the relative path and the bytes of every file below a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def version_number(name: str) -> int | None:
    """Parses the name of a version's folder as TensorFlow Serving does: decimal, of 63 bits, leading zeros allowed.

    Returns:
        The number, None for any other name.
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


def _exists(path: pathlib.Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
