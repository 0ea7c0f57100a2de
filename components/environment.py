# SPDX-License-Identifier: Apache-2.0
"""Prepares the environment variables of this process, and of those that it starts, for its libraries.

Keras reads its backend, float type, epsilon and image layout from the user's ~/.keras/keras.json and from KERAS_
variables when it is first imported, which is when TensorFlow is. A model must not depend on them, so every entry point
calls `prepare` before that. Needs the standard library alone, as `doctor` does.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd

# KERASTUNER_ variables would make each search part of a distributed one.
_KERAS_PREFIX = "KERAS"
# The first replaces Keras by another package; TensorFlow aborts on values of the others that it cannot parse.
_TENSORFLOW = ("TF_USE_LEGACY_KERAS", "TF_DETERMINISTIC_OPS", "TF_XLA_FLAGS")
_WORKERS = "TF_CONFIG"
# In a folder that cannot exist Keras neither reads nor writes a configuration, and uses its defaults.
_KERAS_HOME = os.devnull
# The home of an account without one: a path at which nobody, root included, can make a folder.
NO_HOME = f"{os.devnull}/home"

# Names of the variables and files that `prepare` disabled, for `doctor`.
ignored: list[str] = []


def prepare(*, keras_backend: str = "tensorflow", several_workers: bool = False) -> None:
    """Overrides a user's settings for Keras and TensorFlow, and sets a home and a user where the system has none.

    Args:
        keras_backend: name of Keras's backend.
        several_workers: keeps TF_CONFIG, which names the workers of a training job.
    """
    settings = {"KERAS_BACKEND": keras_backend, "KERAS_HOME": _KERAS_HOME}
    home = _home()
    file = pathlib.Path(os.environ.get("KERAS_HOME") or f"{home}/.keras", "keras.json")
    for name in sorted(os.environ):
        dropped = name.startswith(_KERAS_PREFIX) or name in _TENSORFLOW or (name == _WORKERS and not several_workers)
        if dropped and os.environ.pop(name) != settings.get(name):
            ignored.append(name)
    with contextlib.suppress(OSError):
        if file.exists():
            ignored.append(str(file))
    os.environ.update(settings)
    os.environ["HOME"] = home
    if _account() is None and not any(map(os.environ.get, ("LOGNAME", "USER", "LNAME", "USERNAME"))):
        os.environ["USER"] = str(os.getuid())


def _home() -> str:
    """Returns the absolute path of the user's home, from HOME or else from the account."""
    account = _account()
    homes = (os.environ.get("HOME", ""), account.pw_dir if account else "")
    return next((home for home in homes if home.startswith("/")), NO_HOME)


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        return None
