# SPDX-License-Identifier: Apache-2.0
"""An account that the system does not know: in containers and services a process often has one."""

from __future__ import annotations

import os
import shutil
import subprocess

UID = "12345"
# Reading is allowed, as the checkout and its Python may lie in root's home.
_READING = ("--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search")
_COMMAND: tuple[str, ...] = ("setpriv", "--reuid", UID, "--regid", UID, "--clear-groups", *_READING)


def _works() -> bool:
    if os.getuid() != 0 or shutil.which(_COMMAND[0]) is None:
        return False
    return subprocess.run([*_COMMAND, "true"], capture_output=True, check=False).returncode == 0


# Begins a command that runs as that account; () where that is not possible.
AS_NOBODY = _COMMAND if _works() else ()
