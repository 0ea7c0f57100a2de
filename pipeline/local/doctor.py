# SPDX-License-Identifier: Apache-2.0
"""Checks whether this machine can run the pipeline. Starts with the standard library alone, from Python 3.8 on.

Each check has a result and, for a problem, the remedy. A problem that stops a run blocks; one that slows it down or
takes a choice away is a warning.
"""

from __future__ import annotations

import datetime
import getpass
import os
import pathlib
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from components import environment, network, paths, stdio, storage
from components.errors import BadInput, GateStopped
from pipeline import cgroup, cli, database
from pipeline.cli import BLOCKED, OK, WARNING, Check
from pipeline.local import lock

if TYPE_CHECKING:
    from pipeline.run_record import RunRecord

_ROOT = pathlib.Path(__file__).parents[2]
_LANE = runpy.run_path(str(_ROOT / "requirements/lane.py"))
# A run on MNIST takes 2.1 GB of memory at its peak, all its processes together, and 80 MB of disk.
_DISK_GB, _DISK_LOW_GB = 0.5, 2.0
_MEMORY_GB, _MEMORY_LOW_GB = 2.2, 4.0
_PACKAGES = (
    "tensorflow",
    "tfx",
    "tensorflow_data_validation",
    "ml_metadata",
    "apache_beam",
    "pydantic",
    "rich",
    "sklearn",
)
_TENSORFLOW_SECONDS, _MIRROR_SECONDS = 120, 4
_SETUP = "make setup"


def main(output: str, serving_dir: str | None, serving_name: str, to: str | None) -> int:
    """Prints the result of every check; returns 0, or 3 where something blocks.

    Args:
        output: the output folder of runs.
        serving_dir: folder or URL of the served models; None: `serving` in the output folder.
        serving_name: name of the model's folder there.
        to: the destination of --json: a file, "-" for stdout, or None.
    """
    folder = paths.absolute(output, "--output")
    root = serving_dir if serving_dir and storage.is_url(serving_dir) else None
    model_dir = root or paths.absolute(serving_dir or folder / "serving", "--serving-dir")
    checks = examine(folder, f"{model_dir}/{serving_name}")
    blocked = cli.check_names(checks, BLOCKED)
    result = {"can_run": not blocked, "checks": [check._asdict() for check in checks]}
    last = f"Something blocks: {', '.join(blocked)}." if blocked else "This machine can run it."
    cli.print_lines(to, *cli.format_checks(checks, cli.message_stream(to).isatty()), last)
    cli.write_json(result, to)
    return GateStopped.exit_code if blocked else 0


def examine(output: pathlib.Path, model_dir: str | None = None) -> list[Check]:
    """Runs every check, in the order in which problems are best solved.

    Args:
        output: the output folder of runs.
        model_dir: folder or URL of the served model; None: `serving/mnist` in the output folder.
    """
    model_dir = model_dir or str(output / "serving" / "mnist")
    installed = _installed()
    return [
        _python(),
        _glibc(),
        _lane(),
        _compiler(not installed),
        _packages(installed),
        _disk(output),
        _memory(),
        _gpus("tensorflow" not in installed),
        _settings(),
        _account(installed),
        _network(),
        _data(installed),
        _images(installed),
        _locks(output),
        _console(cli.message_stream(None).encoding),
        _path(output, model_dir),
        _serving(model_dir),
        _metadata(output),
        _clock(output),
    ]


def _is_python_supported() -> bool:
    return (3, 11) <= sys.version_info[:2] < (3, 14)


def _python() -> Check:
    result = f"{platform.python_version()} ({sys.executable})"
    if _is_python_supported():
        return Check("Python", OK, result)
    return Check("Python", BLOCKED, result, "Python 3.11, 3.12 or 3.13 is needed: make setup PYTHON=python3.11")


def _glibc() -> Check:
    version = _LANE["_glibc"]()
    result = _LANE["_dotted"](version)
    if platform.system() != "Linux" or (version is not None and version >= (2, 27)):
        return Check("glibc", OK, result if version else f"not used on {platform.system()}")
    return Check("glibc", BLOCKED, result, "2.27 or newer is needed: Debian 12, Ubuntu 22.04 or newer")


def _lane() -> Check:
    try:
        name = _LANE["lane"](sys.version_info[:2], platform.system(), platform.machine(), _LANE["_glibc"]())
    except _LANE["UnsupportedError"] as error:
        return Check("lane", BLOCKED, "none fits", str(error))
    return Check("lane", OK, f"{name} ({platform.system()} {platform.machine()})")


def _compiler(needed: bool) -> Check:
    missing = _LANE["missing_tools"]()
    if not missing:
        result = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "")
        return Check("compiler", OK, f"{result}, Python's headers and venv")
    advice = "make setup needs them: apt-get install g++ python3-dev python3-venv"
    return Check("compiler", BLOCKED if needed else WARNING, f"missing: {', '.join(missing)}", advice)


def _installed() -> set[str]:
    from importlib import util

    return {name for name in _PACKAGES if util.find_spec(name) is not None}


def _packages(installed: set[str]) -> Check:
    missing = [name for name in _PACKAGES if name not in installed]
    if missing:
        return Check("packages", BLOCKED, f"missing: {', '.join(missing)}", f"{_SETUP}, then .venv/bin/python")
    other = _not_as_locked()
    if other:
        shown = ", ".join(other[:3]) + (", …" if len(other) > 3 else "")
        return Check("packages", WARNING, f"{len(other)} not as locked: {shown}", _SETUP)
    return Check("packages", OK, "as locked")


def _not_as_locked() -> list[str]:
    """Returns the packages whose installed version is not in the lock."""
    from importlib import metadata

    locked: dict[str, set[str]] = {}
    for line in (_ROOT / "requirements/run.lock").read_text(encoding="utf-8").splitlines():
        name, equals, rest = line.partition("==")
        if equals and not line.startswith((" ", "#")):
            locked.setdefault(name.strip(), set()).add(rest.split()[0])
    other = []
    for name, versions in sorted(locked.items()):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:  # for another platform or Python
            continue
        if version not in versions:
            other.append(f"{name} {version}")
    return other


def _disk(output: pathlib.Path) -> Check:
    if fault := paths.fault(output, room=False):
        return Check("disk", BLOCKED, f"not writable: {fault}", "name another folder with --output")
    folder = paths.nearest(output)
    free = shutil.disk_usage(folder).free / 1e9
    result = f"{free:,.1f} GB free in {folder}"
    if free < _DISK_GB:
        advice = f"a run needs {_DISK_GB:g} GB: runner_local.py prune --keep 3, or --output on another disk"
        return Check("disk", BLOCKED, result, advice)
    if free < _DISK_LOW_GB:
        return Check("disk", WARNING, result, "runner_local.py prune --keep 3 frees what old runs left")
    return Check("disk", OK, result)


def _memory() -> Check:
    free = _free_memory()
    if free is None:
        return Check("memory", OK, f"not known on {platform.system()}; a run needs {_MEMORY_GB:g} GB")
    result = f"{free / 1e9:,.1f} GB available"
    if free < _MEMORY_GB * 1e9:
        return Check(
            "memory", BLOCKED, result, f"a run needs {_MEMORY_GB:g} GB: end other programs, or raise the limit"
        )
    if free < _MEMORY_LOW_GB * 1e9:
        return Check("memory", WARNING, result, "enough for MNIST; data sets that are larger need more")
    return Check("memory", OK, result)


def _free_memory() -> float | None:
    """Returns the available bytes, within the limit of a container; None where the system does not report them."""
    try:
        text = pathlib.Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    free = float(text.partition("MemAvailable:")[2].split()[0]) * 1024
    memory = cgroup.memory()
    return min(free, memory.limit - memory.used) if memory else free


def _gpus(no_tensorflow: bool) -> Check:
    devices = sorted(path.name for path in pathlib.Path("/dev").glob("nvidia[0-9]*"))
    if no_tensorflow:
        return Check("GPUs", WARNING, "TensorFlow is missing, so it sees none", _SETUP)
    program = "import tensorflow as tf; print(*(d.name for d in tf.config.list_physical_devices('GPU')), sep=',')"
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        process = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=env, timeout=_TENSORFLOW_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Check("GPUs", BLOCKED, f"TensorFlow did not start in {_TENSORFLOW_SECONDS} s", _SETUP)
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        return Check("GPUs", BLOCKED, f"TensorFlow does not start: {reason[:100]}", f"make clean, then {_SETUP}")
    gpus = process.stdout.strip()
    if gpus:
        return Check("GPUs", OK, f"TensorFlow sees {gpus}")
    if devices:
        advice = "training runs on the CPU; for them, install what requirements/gpu.lock names"
        return Check("GPUs", WARNING, f"TensorFlow sees none of {', '.join(devices)}", advice)
    return Check("GPUs", OK, "none: training runs on the CPU")


def _settings() -> Check:
    if environment.ignored:
        return Check("settings", OK, f"runs take no account of {', '.join(environment.ignored)}")
    return Check("settings", OK, "none for Keras and TensorFlow that runs would ignore")


def _account(installed: set[str]) -> Check:
    home = "no home folder" if os.environ["HOME"] == environment.NO_HOME else f"home {os.environ['HOME']}"
    result = f"user {getpass.getuser()}, {home}"
    if "sklearn" not in installed:
        return Check("account", OK, result)
    from components.ingest import source

    cache = folder = source.default_cache_dir()
    while not os.access(folder, os.F_OK):
        folder = folder.parent
    if os.access(folder, os.W_OK | os.X_OK):
        return Check("account", OK, f"{result}, cache {cache}")
    advice = "set HOME or XDG_CACHE_HOME to a folder that can; without one, runs need --data-dir"
    return Check("account", WARNING, f"{result}; the cache {cache} cannot be written", advice)


def _network() -> Check:
    faults = network.faults()
    if not faults:
        return Check("network", OK, "no variable of a proxy or of certificates is at fault")
    result = "; ".join(f"{name}: {reason}" for name, reason in faults.items())
    return Check("network", WARNING, result, "unset or correct it; without a connection runs take digits or --data-dir")


def _data(installed: set[str]) -> Check:
    if "sklearn" not in installed:
        return Check("data", WARNING, "not checked: packages are missing", _SETUP)
    from components.ingest import download, source

    folder = source.default_cache_dir() / source.MNIST
    try:
        source.load(folder, None, download.IMAGE_SHAPE, source.MNIST)
    except BadInput:
        pass
    else:
        return Check("data", OK, f"mnist is cached in {folder}; digits come with scikit-learn")
    mirror = _reachable_mirror(download.MIRRORS)
    if mirror:
        return Check("data", OK, f"mnist is available from {mirror}; digits come with scikit-learn")
    advice = "for MNIST give the four files with --data-dir DIR; without them runs take digits"
    return Check("data", WARNING, "mnist is not cached, and no mirror answers", advice)


def _reachable_mirror(mirrors: tuple[str, ...]) -> str | None:
    """Tries the mirrors in another process: the look-up of a name may hang longer than any time-out of a socket."""
    program = (
        "import sys, urllib.request\n"
        "for url in sys.argv[1:]:\n"
        "    try:\n"
        "        request = urllib.request.Request(url + 'train-labels-idx1-ubyte.gz', method='HEAD')\n"
        "        urllib.request.urlopen(request, timeout=2)\n"
        "    except Exception:\n"
        "        continue\n"
        "    print(url)\n"
        "    break\n"
    )
    try:
        process = subprocess.run(
            [sys.executable, "-c", program, *mirrors], capture_output=True, text=True, timeout=_MIRROR_SECONDS
        )
    except subprocess.TimeoutExpired:
        return None
    return process.stdout.strip() or None


def _locks(output: pathlib.Path) -> Check:
    try:
        process = lock.holder(output)
        if process is None:
            lock.probe(output)
    except BadInput as error:
        return Check("locks", BLOCKED, "the file system has none", str(error))
    except OSError as error:
        return Check("locks", WARNING, f"not checked: {error.strerror}")
    if process is None:
        return Check("locks", OK, f"nobody uses {output}")
    return Check("locks", BLOCKED, f"{process} uses {output}", "wait for it, or name another with --output")


def _path(output: pathlib.Path, model_dir: str) -> Check:
    try:
        paths.refuse_patterns(output, "--output")
        if not storage.is_url(model_dir):
            paths.refuse_patterns(pathlib.Path(model_dir), "--serving-dir")
    except BadInput as error:
        return Check("path", BLOCKED, "it has characters of patterns", str(error))
    return Check("path", OK, "no character that TensorFlow takes for a pattern")


def _serving(model_dir: str) -> Check:
    """Checks whether models can be pushed, and versions moved in one step."""
    if storage.is_url(model_dir):
        from components.push.serving_dir import open_destination

        try:
            open_destination(model_dir).probe()
        except BadInput as error:
            return Check("serving", BLOCKED, "models cannot be pushed", str(error))
        except ImportError as error:
            return Check("serving", WARNING, f"not checked: {error.name} is missing", _SETUP)
        return Check("serving", OK, f"{model_dir} takes models")
    folder = pathlib.Path(model_dir)
    if fault := paths.fault(folder):
        return Check("serving", BLOCKED, f"not writable: {fault}", "name another folder with --serving-dir")
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=paths.nearest(folder)) as scratch:
        (pathlib.Path(scratch) / "staged").mkdir()
        try:
            (pathlib.Path(scratch) / "staged").rename(pathlib.Path(scratch) / "version")
        except OSError as error:
            result = f"{folder} has no renaming of folders ({error.strerror}): versions come and go file by file"
            return Check("serving", WARNING, result, "a server may try to load one too early, and tries again")
    method = "its older layers by file, else by renaming" if _on_overlay(folder) else "by renaming"
    result = f"{folder} takes models; versions are moved {method}"
    if not _is_python_supported():
        return Check("serving", OK, result)
    from components.push import versions

    try:
        production = versions.production_version(folder)
    except BadInput as error:
        return Check("serving", BLOCKED, "its versions cannot be read", str(error))
    name = production.path.name if production else "–"
    return Check("serving", OK, f"{result}; in production: {name}")


def _images(installed: set[str]) -> Check:
    """Names the models that need larger images."""
    if not _is_python_supported():
        return Check("images", WARNING, "not checked: this Python is not supported", _SETUP)
    if "pydantic" not in installed:
        return Check("images", WARNING, "not checked: packages are missing", _SETUP)
    from components import features
    from components.train import hyperparameters

    size = "x".join(map(str, features.IMAGE_SHAPE))
    unfit = [
        name
        for name, model in hyperparameters.MODELS.items()
        if hyperparameters.smallest_side(model) > min(features.IMAGE_SHAPE)
    ]
    if unfit:
        return Check("images", WARNING, f"{size}, too small for {', '.join(unfit)}", "take another model with --model")
    return Check("images", OK, f"{size}, which every model takes")


def _on_overlay(folder: pathlib.Path) -> bool:
    """Returns whether a folder is on an overlay file system, where folders of lower layers cannot be renamed."""
    try:
        mounts = [line.split()[1:3] for line in pathlib.Path("/proc/self/mounts").read_text("utf-8").splitlines()]
    except OSError:
        return False
    above = [(point, kind) for point, kind in mounts if point == "/" or f"{folder}/".startswith(f"{point}/")]
    return max(above, key=lambda mount: len(mount[0]), default=("", ""))[1] == "overlay"


def _console(encoding: str) -> Check:
    columns = shutil.get_terminal_size().columns
    result = f"{columns} columns, {encoding}" if sys.stdout.isatty() else f"no terminal, {encoding}"
    if getattr(sys.flags, "safe_path", False):  # from Python 3.11 on
        advice = "unset PYTHONSAFEPATH for the commands that begin with python -m; the two scripts need nothing"
        return Check("console", WARNING, f"{result}; this Python does not look for modules in the folder", advice)
    if stdio.readable("✓", encoding) != "✓":
        return Check("console", WARNING, f"{result}: signs are spelt in ASCII", "a UTF-8 locale: export LC_ALL=C.UTF-8")
    return Check("console", OK, result)


def _metadata(output: pathlib.Path) -> Check:
    file = output / "metadata.db"
    if lock.holder(output) is not None:
        return Check("metadata", OK, f"in use by the run in {output}")
    try:
        database.check(file)
        record = _newest_record(output)
    except BadInput as error:
        result, _, advice = str(error).partition("; ")
        return Check("metadata", BLOCKED, result, advice)
    if not file.exists():
        return Check("metadata", OK, f"none yet in {output}")
    former = record and (record.config or {}).get("output")
    moved = former not in (None, str(output))
    result = f"sound, schema version {database.SCHEMA_VERSION}"
    return Check("metadata", OK, result + (f"; the last run was in {former}, before that was moved or copied" * moved))


def _newest_record(output: pathlib.Path) -> RunRecord | None:
    """Returns the last run's record as it was written, with its paths; None where the packages to read it are missing.

    Raises:
        BadInput: a newer version of the project wrote one of the records.
    """
    if not _is_python_supported() or "pydantic" not in _installed():
        return None
    from pipeline import run_record

    newest = run_record.newest_record(output)
    if newest is None:
        return None
    path = run_record.run_folder(output, newest.run_id) / run_record.RECORD_FILE
    return run_record.parse_record(path.read_bytes())


def _clock(output: pathlib.Path) -> Check:
    now = datetime.datetime.now(datetime.timezone.utc)  # noqa: UP017
    try:
        record = _newest_record(output)
    except BadInput:  # which the check of the metadata reports
        record = None
    newest = (record and record.created_at) or ""
    shown = now.isoformat(timespec="seconds")
    if newest > shown:
        advice = "set it; runs keep their order, but their times would be wrong"
        return Check("clock", WARNING, f"{shown}, before the last run began, {newest}", advice)
    return Check("clock", OK, shown)
