# SPDX-License-Identifier: Apache-2.0
"""Whether the metadata of an output folder can be read: asked before any work starts, and without TensorFlow."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3

from components.errors import BadInput


def check(database: pathlib.Path) -> None:
    """Refuses a file that is no SQLite database, or one whose pages are damaged; none at all is fine.

    Raises:
        BadInput: it cannot be used.
    """
    if not database.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise BadInput(
            f"the metadata must be a sound SQLite database, but {database}: {' '.join(found.split())}; put back a "
            "copy, or remove it: then every stage runs again, and the model in production stays the baseline"
        )
