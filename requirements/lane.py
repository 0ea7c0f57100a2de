# SPDX-License-Identifier: Apache-2.0
"""Tells which of the two sets of locked dependencies this machine takes: `python requirements/lane.py` prints its name.

It runs before anything is installed, on whatever Python is there, so it uses nothing that Python 3.6 lacks (hence the
quoted types). Where no lane fits, or a tool that the installation needs is missing, it prints one line to stderr and
exits 2.
"""

import importlib.util
import os
import pathlib
import platform
import shutil
import sys
import sysconfig

OFFICIAL = "official"  # TFX's own releases throughout; their wheels need glibc 2.39
COMPATIBLE = "compatible"  # older TFDV and ML Metadata, for older glibc


class UnsupportedError(Exception):
    """This machine cannot hold the dependencies; the message is one line: the rule, what was found, the way out."""


def lane(python: "tuple[int, int]", system: str, machine: str, glibc: "tuple[int, ...] | None") -> str:
    """Returns OFFICIAL or COMPATIBLE.

    Args:
        python: version of Python, such as (3, 11).
        system: as `platform.system()`, such as "Linux".
        machine: as `platform.machine()`, such as "x86_64".
        glibc: version of the C library, such as (2, 36), or None where it is another one.

    Raises:
        UnsupportedError: neither lane has wheels for it.
    """
    version = f"{python[0]}.{python[1]}"
    if (system, machine) not in {("Linux", "x86_64"), ("Darwin", "arm64")}:
        raise UnsupportedError(
            f"TFX has wheels for Linux on x86_64 and macOS on arm64. This is {system} on {machine}. "
            "Use a machine or a container of that kind."
        )
    if not (3, 11) <= python < (3, 14):
        raise UnsupportedError(
            f"Python 3.11, 3.12 or 3.13 is needed. {sys.executable} is {version}. "
            "Name another one: make PYTHON=python3.11 and the target."
        )
    if system == "Darwin":
        return OFFICIAL
    if glibc is None or glibc < (2, 27):
        raise UnsupportedError(
            f"glibc 2.27 or newer is needed. This machine has {_dotted(glibc)}. Use Debian 12, Ubuntu 22.04 or newer."
        )
    if python == (3, 11):
        return COMPATIBLE
    if glibc < (2, 39):
        raise UnsupportedError(
            f"Python {version} needs glibc 2.39 (Debian 13, Ubuntu 24.04). This machine has "
            f"{_dotted(glibc)}. Name Python 3.11: make PYTHON=python3.11 and the target."
        )
    return OFFICIAL


def missing_tools() -> "list[str]":
    """Returns the names of what is missing to make an environment and to build the packages that have no wheels."""
    missing = []
    if importlib.util.find_spec("ensurepip") is None:
        missing.append("Python's venv (python3-venv)")
    if not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing.append("Python's headers (python3-dev)")
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        missing.append("a C++ compiler (g++)")
    return missing


def _glibc() -> "tuple[int, ...] | None":
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
    except (OSError, ValueError):  # macOS, musl
        return None
    return tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" else None


def _dotted(glibc: "tuple[int, ...] | None") -> str:
    return "another C library" if glibc is None else "{}.{}".format(*glibc)


def main() -> int:
    """Prints the lane, or one line to stderr, and returns the exit code."""
    try:
        name = lane(sys.version_info[:2], platform.system(), platform.machine(), _glibc())
        missing = missing_tools()
        if missing:
            raise UnsupportedError(
                "Some packages are built here and need tools. Missing: {}. Install them (the names "
                "of Debian's packages are in brackets).".format(", ".join(missing))
            )
    except UnsupportedError as error:
        print(error, file=sys.stderr)
        return 2
    print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
