# SPDX-License-Identifier: Apache-2.0
"""Checks the database file of ML Metadata with the standard library alone.

Messages suggest removing a damaged file only, never one that another program has open, that another release wrote, or
that this user may not read.
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
# Wait for another program to close the database: before any work starts, and during a run, which has work to lose.
PATIENCE_SECONDS, RUN_PATIENCE_SECONDS = 5.0, 30.0


class DatabaseUnavailable(BadInput):
    """The database cannot be used now, but shows no damage."""


def check(database: pathlib.Path, *, write: bool = True) -> None:
    """Refuses a database that cannot be used; a missing or empty file is fine.

    Args:
        database: the file.
        write: whether it will be written to; then no other program may have it open, not even to read.

    Raises:
        DatabaseUnavailable: another program has it open, another release of ML Metadata wrote it, or it cannot be read.
        BadInput: it is damaged, or holds something else.
    """
    if not os.path.lexists(database):
        return
    if not database.is_file():
        raise BadInput(
            f"the metadata must be a file, but {database} is something else; move it away, or name another --output"
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
        raise DatabaseUnavailable(
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
    """Returns the error for a message of SQLite or ML Metadata about a database."""
    reason = " ".join(reason.split())
    lowered = reason.lower()
    if "locked" in lowered or "concurrent writes" in lowered:
        return DatabaseUnavailable(
            f"one program at a time may use the metadata, and another one, such as a database browser, has {database} "
            "open; close it, and run the same command again (on a file system without locks, name an --output on "
            "another)"
        )
    if any(words in lowered for words in ("malformed", "not a database", "corrupt")):
        return _damaged(database, reason)
    return DatabaseUnavailable(
        f"the metadata must be readable and writable, but {database}: {reason}; look at its rights and its disk, or "
        "name another --output"
    )


def _damaged(database: pathlib.Path, reason: str) -> BadInput:
    return BadInput(
        f"the metadata must be a sound SQLite database, but {database}: {' '.join(reason.split())}; put back a copy, "
        "or remove it: then every stage runs again, with the model in production as the baseline"
    )


@contextlib.contextmanager
def _connection(database: pathlib.Path, write: bool, patience: float) -> Iterator[sqlite3.Connection]:
    """Opens a transaction that changes nothing; SQLite rolls back what a killed process left unfinished."""
    mode = "rw" if os.access(database, os.W_OK) else "ro"
    uri = f"{database.absolute().as_uri()}?mode={mode}"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=patience, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE" if write and mode == "rw" else "BEGIN")
        yield connection
