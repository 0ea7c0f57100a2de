# SPDX-License-Identifier: Apache-2.0
"""The file of ML Metadata as a file: whether it can be used now, asked with the standard library alone.

Only a damaged file is ever to be removed. One that another program has open, that another release wrote, or that this
user may not read is sound, and says so.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
from collections.abc import Iterator

from components.errors import BadInput, ProjectError

# `MLMDEnv.schema_version` of the ML Metadata in requirements/run.lock.
SCHEMA_VERSION = 10
# For how long another program's use is waited for: before any work starts, and once there is work to lose.
PATIENCE_SECONDS, RUN_PATIENCE_SECONDS = 5.0, 30.0


class Unavailable(BadInput):
    """The database cannot be used now, and is sound as far as one can tell."""


def check(database: pathlib.Path, *, write: bool = True) -> None:
    """Refuses a file that cannot be used; none at all is fine, and so is an empty one.

    Args:
        database: the file.
        write: whether it is to be written to, so that not even a reader may have it open.

    Raises:
        Unavailable: another program has it open, another release of ML Metadata wrote it, or it cannot be read.
        BadInput: it is damaged, or holds something else.
    """
    if not os.path.lexists(database):
        return
    if not database.is_file():
        raise BadInput(
            f"the metadata are a file, but {database} is none; move away what is there, or name another --output"
        )
    try:
        with _connection(database, write, PATIENCE_SECONDS) as connection:
            fault = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            versions = connection.execute("SELECT schema_version FROM MLMDEnv") if "MLMDEnv" in tables else ()
            version = next((number for (number,) in versions), None)
    except sqlite3.Error as error:
        raise refusal(database, str(error)) from None
    if fault != "ok":
        raise _damaged(database, fault)
    if tables and "MLMDEnv" not in tables:
        raise BadInput(
            f"the metadata must be a database of ML Metadata, but {database} is another program's, with the table "
            f"{min(tables)}; move it away, or name another --output"
        )
    if version not in (None, SCHEMA_VERSION):
        raise Unavailable(
            f"the metadata must have the schema version {SCHEMA_VERSION} of ML Metadata, but {database} has {version}, "
            f"that of {'a newer' if version > SCHEMA_VERSION else 'an older'} release; use that release, or name "
            "another --output"
        )


def wait(database: pathlib.Path) -> None:
    """Waits, in the middle of a run, until no other program has the database open.

    This process must not have it open in another thread: closing a file gives up all of a process's locks on it.

    Raises:
        ProjectError: another program keeps it open, or it cannot be used any longer.
    """
    if database.is_file():
        try:
            with _connection(database, True, RUN_PATIENCE_SECONDS):
                pass
        except sqlite3.Error as error:
            raise ProjectError(str(refusal(database, str(error)))) from None


def refusal(database: pathlib.Path, reason: str) -> BadInput:
    """The error for what SQLite or ML Metadata say of a database."""
    reason = " ".join(reason.split())
    lowered = reason.lower()
    if "locked" in lowered or "concurrent writes" in lowered:
        return Unavailable(
            f"one program at a time may use the metadata, and another one, such as a database browser, has {database} "
            "open; close it there, and the same command goes on (on a file system without locks, name an --output on "
            "another)"
        )
    if any(words in lowered for words in ("malformed", "not a database", "corrupt")):
        return _damaged(database, reason)
    return Unavailable(
        f"the metadata must be readable and writable, but {database}: {reason}; look at its rights and its disk, or "
        "name another --output"
    )


def _damaged(database: pathlib.Path, reason: str) -> BadInput:
    return BadInput(
        f"the metadata must be a sound SQLite database, but {database}: {' '.join(reason.split())}; put back a copy, "
        "or remove it: then every stage runs again, and the model in production stays the baseline"
    )


@contextlib.contextmanager
def _connection(database: pathlib.Path, write: bool, patience: float) -> Iterator[sqlite3.Connection]:
    """A transaction that changes nothing, but what a killed process left half done is rolled back."""
    mode = "rw" if os.access(database, os.W_OK) else "ro"
    uri = f"{database.absolute().as_uri()}?mode={mode}"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=patience, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE" if write and mode == "rw" else "BEGIN")
        yield connection
