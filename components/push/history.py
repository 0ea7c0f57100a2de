# SPDX-License-Identifier: Apache-2.0
"""Changes that people make to a model's folder, one at a time, each with a line in `history.jsonl` beside the versions.

    {"at": "2026-03-01T12:00:00+00:00", "by": "ann@host", "action": "rollback", "version": 4, "of": 2, …}

`action` is `rollback`, `label` or `prune`. Pushes are not in it: versions hold their provenance.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import getpass
import json
import os
import platform
from collections.abc import Iterator
from typing import Any

from components import file_lock
from components.errors import BadInput
from components.push.destination import Destination
from components.push.local_folder import LocalFolder

HISTORY_FILE = "history.jsonl"
_LOCK_FILE = ".change.lock"


@contextlib.contextmanager
def lock(destination: Destination) -> Iterator[None]:
    """Waits for other changes by people and locks them out. Object stores have no locks: there the last change wins.

    Raises:
        BadInput: the folder is not writable, or its file system has no locks.
    """
    if not isinstance(destination, LocalFolder) or not destination.path.is_dir():
        yield
        return
    try:
        file = os.open(destination.path / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise BadInput(
            f"the serving folder must be writable, but {error.filename}: {(error.strerror or str(error)).lower()}"
        ) from None
    try:
        file_lock.acquire(file, fcntl.LOCK_EX, destination.path, "Change it on a machine that mounts it with locks.")
        yield
    finally:
        os.close(file)


def signature() -> dict[str, str]:
    """Returns the time and the author of a change: `at` (UTC, ISO 8601) and `by` (user@machine)."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        user = str(os.getuid())
    return {"at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "by": f"{user}@{platform.node()}"}


def append(destination: Destination, action: str, **details: Any) -> dict[str, Any]:
    """Adds a line and returns it; `details` may replace its signature."""
    line = {**signature(), "action": action, **details}
    before = destination.read(HISTORY_FILE) or b""
    destination.write(HISTORY_FILE, before + json.dumps(line).encode() + b"\n")
    return line


def read(destination: Destination) -> list[dict[str, Any]]:
    """Returns every line, oldest first."""
    return [json.loads(line) for line in (destination.read(HISTORY_FILE) or b"").splitlines()]
