# SPDX-License-Identifier: Apache-2.0
"""Gives this process, and those that it starts, the environment that its libraries are meant to see.

Keras takes its backend, float type, epsilon and image layout from the user's ~/.keras/keras.json and from KERAS_
variables when it is first imported, which is when TensorFlow is. A model must not depend on them, so every entry point
calls `prepare` before that. The standard library alone: `doctor` starts with it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd

# KERASTUNER_ variables would make each search a part of a distributed one.
_KERAS_PREFIX = "KERAS"
# The first swaps Keras for another package; TensorFlow aborts the process on a value of the others that it can't read.
_TENSORFLOW = ("TF_USE_LEGACY_KERAS", "TF_DETERMINISTIC_OPS", "TF_XLA_FLAGS")
_WORKERS = "TF_CONFIG"
# Keras neither reads nor writes a configuration in a folder that cannot exist; its own defaults hold.
_KERAS_HOME = os.devnull
# The home of an account without one. Nobody can make a folder there, root included, so nothing is ever written to it.
NO_HOME = f"{os.devnull}/home"

# Names of the variables and files that `prepare` took out of force, for `doctor`.
ignored: list[str] = []


def prepare(*, keras_backend: str = "tensorflow", several_workers: bool = False) -> None:
    """Replaces what a user has set for Keras and TensorFlow, and names a home and a user where the system has none.

    Args:
        keras_backend: what Keras computes with.
        several_workers: whether TF_CONFIG counts: it names the workers of a training job.
    """
    wanted = {"KERAS_BACKEND": keras_backend, "KERAS_HOME": _KERAS_HOME}
    home = _home()
    file = pathlib.Path(os.environ.get("KERAS_HOME") or f"{home}/.keras", "keras.json")
    for name in sorted(os.environ):
        dropped = name.startswith(_KERAS_PREFIX) or name in _TENSORFLOW or (name == _WORKERS and not several_workers)
        if dropped and os.environ.pop(name) != wanted.get(name):
            ignored.append(name)
    with contextlib.suppress(OSError):
        if file.exists():
            ignored.append(str(file))
    os.environ.update(wanted)
    os.environ["HOME"] = home
    if _account() is None and not any(map(os.environ.get, ("LOGNAME", "USER", "LNAME", "USERNAME"))):
        os.environ["USER"] = str(os.getuid())


def _home() -> str:
    """The absolute path of the user's home, from HOME or else from the account."""
    account = _account()
    homes = (os.environ.get("HOME", ""), account.pw_dir if account else "")
    return next((home for home in homes if home.startswith("/")), NO_HOME)


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        return None
