# SPDX-License-Identifier: Apache-2.0
"""Environments that people really have.

Each runs the product as a user would and checks the exit code, one line of the screen, and that there is no traceback.
They end before any work, or repeat the verdict of the shared run; test_environment.py and test_terminal.py train.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from tests import account

pytestmark = pytest.mark.slow

AS_NOBODY = account.AS_NOBODY or None
_UNSHARE = ("unshare", "--mount")
UNSHARED = _UNSHARE if subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode == 0 else None
ROOT = pathlib.Path(__file__).parents[2]
SAME = ("--dataset", "digits", "--train-steps", "200", "--output", "{output}")
DOWNLOAD = ("--dataset", "mnist", "--output", "{scratch}/o")
STANDS = r"Nothing has changed since run .*: its verdict stands"
KERAS = {"KERAS_BACKEND": "jax", "KERAS_HOME": "{keras}"}
ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NOBODY = {"HOME": None, "USER": None, "XDG_CACHE_HOME": None}
# Another process has a transaction open for as long as the product takes.
BUSY = """coproc "$1" -c 'import os, sqlite3, time
connection = sqlite3.connect(os.environ["DATABASE"], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print(flush=True)
time.sleep(300)'
read -r <&"${COPROC[0]}"; "$@"; code=$?; kill "$COPROC_PID"; exit $code"""
PROXY = {"ALL_PROXY": "socks5://user:secret@127.0.0.1:9"}


@dataclasses.dataclass(frozen=True)
class Environment:
    """One way to start the product.

    Attributes:
        name: of the test.
        code: the exit code that is expected.
        line: regular expression that a line of the screen must match; "" where there is no screen.
        arguments: of runner_local.py; `{output}`, `{scratch}`, … are filled in.
        variables: of the environment; None takes one out.
        shell: shell command around the product, which is `"$@"`.
        through: command that starts the shell; None where this user may not.
        script: the script, or `-m` and a module.
    """

    name: str
    code: int
    line: str
    arguments: tuple[str, ...] = SAME
    variables: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    shell: str = '"$@"'
    through: Sequence[str] | None = ()
    script: tuple[str, ...] = (str(ROOT / "runner_local.py"),)


# fmt: off
ENVIRONMENTS = [
    # Streams and terminals
    Environment("stdout-closed", 0, "", shell='"$@" >&-'),
    Environment("stderr-closed", 0, STANDS, shell='"$@" 2>&-'),
    Environment("all-closed", 0, "", shell='"$@" <&- >&- 2>&-'),
    Environment("stdout-full", 0, "No space left on device", shell='"$@" >/dev/full'),
    Environment("head", 0, STANDS, shell='set -o pipefail; "$@" | head -n 3'),
    Environment("head-of-help", 0, "usage: ", ("--help",), shell='set -o pipefail; "$@" | head -n 1'),
    Environment("ascii", 0, r"\+ pass", variables=ASCII),
    Environment("latin-1", 0, STANDS, variables={"PYTHONIOENCODING": "latin-1"}),
    Environment("twenty-columns", 0, STANDS, variables={"COLUMNS": "20"}),
    Environment("no-term", 0, STANDS, variables={"TERM": None, "NO_COLOR": "1"}),
    # Shells
    Environment("sigchld-ignored", 0, STANDS, shell="trap '' CHLD; \"$@\""),
    Environment("nohup", 0, STANDS, shell="trap '' INT HUP QUIT; \"$@\""),
    Environment("umask-077", 0, STANDS, shell='umask 077; "$@"'),
    # Interpreters
    Environment("safe-path", 0, STANDS, variables={"PYTHONSAFEPATH": "1"}),
    Environment("optimize-2", 0, STANDS, variables={"PYTHONOPTIMIZE": "2"}),
    Environment("warnings-are-errors", 0, STANDS, variables={"PYTHONWARNINGS": "error"}),
    Environment("no-packages", 1, "make setup, then .venv/bin/python", shell='exec "$1" -S "${@:2}"'),
    # Accounts, homes and zones
    Environment("no-home", 0, STANDS, variables={"HOME": None, "XDG_CACHE_HOME": "{cache}"}),
    Environment("home-not-there", 0, STANDS, variables={"HOME": "/nonexistent", "XDG_CACHE_HOME": "{cache}"}),
    Environment("nobody", 0, STANDS, variables={**NOBODY, "XDG_CACHE_HOME": "{cache}"}, through=AS_NOBODY),
    Environment("nobody-without-cache", 2, "XDG_CACHE_HOME", ("--dataset", "mnist", *SAME[-2:]), NOBODY,
                through=AS_NOBODY),
    Environment("nobody-with-own-data", 2, "labels", ("--data-dir", "{qmnist}", *SAME[-2:]), NOBODY, through=AS_NOBODY),
    Environment("another-zone", 0, STANDS, variables={"TZ": "Asia/Tokyo"}),
    # Folders
    Environment("serving-dir-read-only", 2, "read-only file system", (*SAME, "--serving-dir", "{readonly}"),
                shell='mount --bind "$READONLY" "$READONLY" && mount -o remount,ro,bind "$READONLY" && "$@"',
                through=UNSHARED),
    Environment("serving-dir-is-a-file", 2, "serving-dir", (*SAME, "--serving-dir", "{file}")),
    Environment("output-below-a-file", 2, "output", (*SAME[:-1], "{file}/output")),
    Environment("output-is-a-pattern", 2, r"\[", (*SAME[:-1], "{scratch}/b[1]")),
    Environment("serving-dir-is-a-pattern", 2, r"\?", (*SAME, "--serving-dir", "{scratch}/models?")),
    Environment("prune-a-pattern", 2, r"\*", ("prune", "--keep", "1", "--output", "{scratch}/*")),
    # Proxies and certificates
    Environment("socks-proxy", 2, "ALL_PROXY", DOWNLOAD, PROXY),
    Environment("proxy-is-no-address", 2, "HTTPS_PROXY", DOWNLOAD, {"HTTPS_PROXY": "http://[garbage"}),
    Environment("authorities-not-there", 2, "SSL_CERT_FILE", DOWNLOAD, {"SSL_CERT_FILE": "/nonexistent.pem"}),
    # Data and metadata
    Environment("int32-labels", 2, "labels", ("--data-dir", "{qmnist}", "--output", "{scratch}/o")),
    Environment("kaggle-names", 2, "train-images-idx3-ubyte", ("--data-dir", "{kaggle}", "--output", "{scratch}/o")),
    Environment("metadata-busy", 2, "one program at a time may use the metadata", (*SAME, "--fresh"), shell=BUSY),
    Environment("metadata-of-another-release", 2, "that of a newer release", (*SAME[:-1], "{newer}", "--fresh")),
    Environment("metadata-is-no-database", 2, "sound SQLite database", (*SAME[:-1], "{broken}", "--fresh")),
    Environment("doctor", 0, "This machine can run it", ("doctor", "--output", "{output}"), KERAS),
]
# fmt: on


@pytest.fixture(scope="module")
def folders(copy_output: Callable[[pathlib.Path], pathlib.Path]) -> Iterator[dict[str, pathlib.Path]]:
    """The folders that arguments and variables name, by name; every account may read them."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield make_folders(pathlib.Path(folder), copy_output)


def make_folders(root: pathlib.Path, copy_output: Callable[[pathlib.Path], pathlib.Path]) -> dict[str, pathlib.Path]:
    root.chmod(0o777)
    names = ("cache", "home", "keras", "kaggle", "newer", "broken", "qmnist", "readonly")
    folders = {name: root / name for name in names}
    for folder in folders.values():
        folder.mkdir()
    keras = {"floatx": "float64", "epsilon": 1e-3, "backend": "jax", "image_data_format": "channels_first"}
    (folders["keras"] / "keras.json").write_text(json.dumps(keras))
    folders["output"] = copy_output(root / "output")
    completed = start(Environment("first", 0, STANDS), folders)  # which writes the digits into the cache
    assert completed.returncode == 0, completed.stdout + completed.stderr
    for path in (folders["output"], *folders["output"].rglob("*")):  # for another account too
        path.chmod(0o777)

    digits = folders["cache"] / "mnist-tfx" / "digits"
    for file in digits.iterdir():
        shutil.copy(file, folders["qmnist"])
        shutil.copy(file, folders["kaggle"] / file.name.replace("-idx", ".idx"))
    labels = folders["qmnist"] / "train-labels-idx1-ubyte"
    labels.write_bytes(bytes((0, 0, 12, 2, 0, 0, 0, 1, 0, 0, 0, 8)) + bytes(32))
    for name in ("newer", "broken"):
        shutil.copy(folders["output"] / "metadata.db", folders[name])
    with contextlib.closing(sqlite3.connect(folders["newer"] / "metadata.db")) as database:
        database.execute("UPDATE MLMDEnv SET schema_version = 99")
        database.commit()
    (folders["broken"] / "metadata.db").write_bytes(b"not a database" * 100)
    folders["file"] = root / "file"
    folders["file"].touch()
    return folders


def start(environment: Environment, folders: Mapping[str, pathlib.Path]) -> subprocess.CompletedProcess[str]:
    """Runs the product in an environment, to its end."""
    filled = {**folders, "scratch": folders["home"].parent / f"scratch-{environment.name}"}
    variables = {"PATH": os.environ["PATH"], "HOME": str(folders["home"]), "XDG_CACHE_HOME": str(folders["cache"])}
    for name, value in environment.variables.items():
        if value is None:
            variables.pop(name, None)
        else:
            variables[name] = value.format_map(filled) if name not in PROXY else value
    command = [
        *(environment.through or ()),
        *("bash", "-c", environment.shell, "bash", sys.executable, *environment.script),
        *(argument.format_map(filled) for argument in environment.arguments),
    ]
    variables["READONLY"], variables["DATABASE"] = str(folders["readonly"]), str(folders["output"] / "metadata.db")
    return subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, errors="replace", check=False
    )


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: environment.name)
def test_exit_code_and_one_line(environment: Environment, folders: dict[str, pathlib.Path]) -> None:
    if environment.through is None:
        pytest.skip("needs root")
    completed = start(environment, folders)
    screen = completed.stdout + completed.stderr
    assert completed.returncode == environment.code, screen
    assert "Traceback" not in screen
    assert "Exception ignored" not in screen
    assert "secret" not in screen
    lines = [line for line in screen.splitlines() if re.search(environment.line, line)]
    assert lines if environment.line else not screen, screen
    if environment.code == 2:  # one line, and nothing of a run before it
        assert len(completed.stderr.splitlines()) == 1, screen
        assert completed.stderr.startswith("error: ")
