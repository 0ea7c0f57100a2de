# SPDX-License-Identifier: Apache-2.0
"""Whether this machine can run the pipeline, in one screen. Starts with the standard library alone, on any Python 3.8.

Each check says what it found and, where that is wrong, what to do. What only slows a run down or takes a choice away is
a warning; what would stop it blocks.
"""

from __future__ import annotations

import datetime
import getpass
import json
import os
import pathlib
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile

from components import environment, network, paths, stdio, storage
from components.errors import BadInput, GateStopped
from pipeline import cli, database, run_record
from pipeline.cli import BLOCKED, OK, WARNING, Check
from pipeline.local import lock

_ROOT = pathlib.Path(__file__).parents[2]
_LANE = runpy.run_path(str(_ROOT / "requirements/lane.py"))
# A run on MNIST was measured to take 2.1 GB of memory at its peak, all its processes together, and 80 MB of disk.
_DISK_GB, _DISK_LOW_GB = 0.5, 2.0
_MEMORY_GB, _MEMORY_LOW_GB = 2.2, 4.0
_PACKAGES = ("tensorflow", "tfx", "tensorflow_data_validation", "ml_metadata", "apache_beam", "rich", "sklearn")
_TENSORFLOW_SECONDS, _MIRROR_SECONDS = 120, 4
_SETUP = "make setup"
# The limit of a container and what it uses of that, in the two layouts there are.
_CGROUP = pathlib.Path("/sys/fs/cgroup")
_CGROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def main(output: str, serving_dir: str | None, serving_name: str, to: str | None) -> int:
    """Prints what every check found; returns 0, or 3 where something blocks.

    Args:
        output: the output folder of runs.
        serving_dir: folder or URL of the served models; None: `serving` in the output folder.
        serving_name: name of the model's folder there.
        to: where --json wants the result: a file, "-" for stdout, or None.
    """
    folder = paths.absolute(output, "--output")
    root = serving_dir if serving_dir and storage.is_url(serving_dir) else None
    model_dir = root or paths.absolute(serving_dir or folder / "serving", "--serving-dir")
    checks = examine(folder, f"{model_dir}/{serving_name}")
    blocked = cli.check_names(checks, BLOCKED)
    result = {"can_run": not blocked, "checks": [one._asdict() for one in checks]}
    last = f"Something blocks: {', '.join(blocked)}." if blocked else "This machine can run it."
    cli.print_lines(to, *cli.format_checks(checks, cli.message_stream(to).isatty()), last)
    cli.write_json(result, to)
    return GateStopped.exit_code if blocked else 0


def examine(output: pathlib.Path, model_dir: str | None = None) -> list[Check]:
    """Every check, in the order in which one would mend things.

    Args:
        output: the output folder of runs.
        model_dir: folder or URL of the served model; None: `serving/mnist` in the output folder.
    """
    model_dir = model_dir or str(output / "serving" / "mnist")
    here = _installed()
    return [
        _python(),
        _glibc(),
        _lane(),
        _compiler(not here),
        _packages(here),
        _disk(output),
        _memory(),
        _gpus("tensorflow" not in here),
        _settings(),
        _account(here),
        _network(),
        _data(here),
        _images(),
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
    found = f"{platform.python_version()} ({sys.executable})"
    if _is_python_supported():
        return Check("Python", OK, found)
    return Check("Python", BLOCKED, found, "Python 3.11, 3.12 or 3.13 is needed: make setup PYTHON=python3.11")


def _glibc() -> Check:
    version = _LANE["_glibc"]()
    found = _LANE["_dotted"](version)
    if platform.system() != "Linux" or (version is not None and version >= (2, 27)):
        return Check("glibc", OK, found if version else f"not used on {platform.system()}")
    return Check("glibc", BLOCKED, found, "2.27 or newer is needed: Debian 12, Ubuntu 22.04 or newer")


def _lane() -> Check:
    try:
        name = _LANE["lane"](sys.version_info[:2], platform.system(), platform.machine(), _LANE["_glibc"]())
    except _LANE["UnsupportedError"] as error:
        return Check("lane", BLOCKED, "none fits", str(error))
    return Check("lane", OK, f"{name} ({platform.system()} {platform.machine()})")


def _compiler(needed: bool) -> Check:
    missing = _LANE["missing_tools"]()
    if not missing:
        found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "")
        return Check("compiler", OK, f"{found}, Python's headers and venv")
    advice = "make setup needs them: apt-get install g++ python3-dev python3-venv"
    return Check("compiler", BLOCKED if needed else WARNING, f"missing: {', '.join(missing)}", advice)


def _installed() -> set[str]:
    from importlib import util

    return {name for name in _PACKAGES if util.find_spec(name) is not None}


def _packages(here: set[str]) -> Check:
    missing = [name for name in _PACKAGES if name not in here]
    if missing:
        return Check("packages", BLOCKED, f"missing: {', '.join(missing)}", f"{_SETUP}, then .venv/bin/python")
    other = _not_as_locked()
    if other:
        shown = ", ".join(other[:3]) + (", …" if len(other) > 3 else "")
        return Check("packages", WARNING, f"{len(other)} not as locked: {shown}", _SETUP)
    return Check("packages", OK, "as locked")


def _not_as_locked() -> list[str]:
    """Packages whose installed version is none of those in the lock."""
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
    found = f"{free:,.1f} GB free in {folder}"
    if free < _DISK_GB:
        advice = f"a run needs {_DISK_GB:g} GB: runner_local.py prune --keep 3, or --output on another disk"
        return Check("disk", BLOCKED, found, advice)
    if free < _DISK_LOW_GB:
        return Check("disk", WARNING, found, "runner_local.py prune --keep 3 frees what old runs left")
    return Check("disk", OK, found)


def _memory() -> Check:
    free = _free_memory()
    if free is None:
        return Check("memory", OK, f"not known on {platform.system()}; a run needs {_MEMORY_GB:g} GB")
    found = f"{free / 1e9:,.1f} GB available"
    if free < _MEMORY_GB * 1e9:
        return Check("memory", BLOCKED, found, f"a run needs {_MEMORY_GB:g} GB: end other programs, or raise the limit")
    if free < _MEMORY_LOW_GB * 1e9:
        return Check("memory", WARNING, found, "enough for MNIST; data sets that are larger need more")
    return Check("memory", OK, found)


def _free_memory() -> float | None:
    """Bytes that can be had, within the limit of a container; None where the system does not say."""
    try:
        text = pathlib.Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    free = float(text.partition("MemAvailable:")[2].split()[0]) * 1024
    for limit, used in _CGROUP_FILES:
        try:
            numbers = [float((_CGROUP / name).read_text(encoding="ascii")) for name in (limit, used)]
        except (OSError, ValueError):  # no such file, or "max"
            continue
        free = min(free, numbers[0] - numbers[1])
    return free


def _gpus(no_tensorflow: bool) -> Check:
    devices = sorted(path.name for path in pathlib.Path("/dev").glob("nvidia[0-9]*"))
    if no_tensorflow:
        return Check("GPUs", WARNING, "TensorFlow is missing, so it sees none", _SETUP)
    program = "import tensorflow as tf; print(*(d.name for d in tf.config.list_physical_devices('GPU')), sep=',')"
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=env, timeout=_TENSORFLOW_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Check("GPUs", BLOCKED, f"TensorFlow did not start in {_TENSORFLOW_SECONDS} s", _SETUP)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Check("GPUs", BLOCKED, f"TensorFlow does not start: {reason[:100]}", f"make clean, then {_SETUP}")
    seen = done.stdout.strip()
    if seen:
        return Check("GPUs", OK, f"TensorFlow sees {seen}")
    if devices:
        advice = "training runs on the CPU; for them, install what requirements/gpu.lock names"
        return Check("GPUs", WARNING, f"TensorFlow sees none of {', '.join(devices)}", advice)
    return Check("GPUs", OK, "none: training runs on the CPU")


def _settings() -> Check:
    if environment.ignored:
        return Check("settings", OK, f"runs take no account of {', '.join(environment.ignored)}")
    return Check("settings", OK, "none for Keras and TensorFlow that runs would ignore")


def _account(here: set[str]) -> Check:
    home = "no home folder" if os.environ["HOME"] == environment.NO_HOME else f"home {os.environ['HOME']}"
    found = f"user {getpass.getuser()}, {home}"
    if "sklearn" not in here:
        return Check("account", OK, found)
    from components.ingest import source

    cache = folder = source.default_cache_dir()
    while not os.access(folder, os.F_OK):
        folder = folder.parent
    if os.access(folder, os.W_OK | os.X_OK):
        return Check("account", OK, f"{found}, cache {cache}")
    advice = "set HOME or XDG_CACHE_HOME to a folder that can; without one, runs need --data-dir"
    return Check("account", WARNING, f"{found}; the cache {cache} cannot be written", advice)


def _network() -> Check:
    faults = network.faults()
    if not faults:
        return Check("network", OK, "no variable of a proxy or of certificates is at fault")
    found = "; ".join(f"{name}: {reason}" for name, reason in faults.items())
    return Check("network", WARNING, found, "unset or correct it; without a connection runs take digits or --data-dir")


def _data(here: set[str]) -> Check:
    if "sklearn" not in here:
        return Check("data", WARNING, "not looked for: packages are missing", _SETUP)
    from components.ingest import download, source

    folder = source.default_cache_dir() / source.MNIST
    try:
        source.load(folder, None, download.IMAGE_SHAPE, source.MNIST)
    except BadInput:
        pass
    else:
        return Check("data", OK, f"mnist is cached in {folder}; digits come with scikit-learn")
    answered = _first_that_answers(download.MIRRORS)
    if answered:
        return Check("data", OK, f"mnist can be had from {answered}; digits come with scikit-learn")
    advice = "for MNIST give the four files with --data-dir DIR; without them runs take digits"
    return Check("data", WARNING, "mnist is not cached, and no mirror answers", advice)


def _first_that_answers(mirrors: tuple[str, ...]) -> str | None:
    """In a process of its own: the look-up of a name may hang longer than any time-out of a socket."""
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
        done = subprocess.run(
            [sys.executable, "-c", program, *mirrors], capture_output=True, text=True, timeout=_MIRROR_SECONDS
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() or None


def _locks(output: pathlib.Path) -> Check:
    try:
        process = lock.holder(output)
        if process is None:
            lock.probe(output)
    except BadInput as error:
        return Check("locks", BLOCKED, "the file system has none", str(error))
    except OSError as error:
        return Check("locks", WARNING, f"not looked for: {error.strerror}")
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
    """Asks whether models can be pushed, and versions moved as a whole."""
    if storage.is_url(model_dir):
        from components.push import destination

        try:
            destination.open_destination(model_dir).probe()
        except BadInput as error:
            return Check("serving", BLOCKED, "models cannot be pushed", str(error))
        except ImportError as error:
            return Check("serving", WARNING, f"not looked at: {error.name} is missing", _SETUP)
        return Check("serving", OK, f"{model_dir} takes models")
    folder = pathlib.Path(model_dir)
    if fault := paths.fault(folder):
        return Check("serving", BLOCKED, f"not writable: {fault}", "name another folder with --serving-dir")
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=paths.nearest(folder)) as scratch:
        (pathlib.Path(scratch) / "staged").mkdir()
        try:
            (pathlib.Path(scratch) / "staged").rename(pathlib.Path(scratch) / "version")
        except OSError as error:
            found = f"{folder} has no renaming of folders ({error.strerror}): versions come and go file by file"
            return Check("serving", WARNING, found, "a server may try to load one too early, and tries again")
    how = "its older layers by file, else by renaming" if _on_overlay(folder) else "by renaming"
    found = f"{folder} takes models; versions are moved {how}"
    if not _is_python_supported():
        return Check("serving", OK, found)
    from components.push import versions

    try:
        production = versions.production_version(folder)
    except BadInput as error:
        return Check("serving", BLOCKED, "its versions cannot be read", str(error))
    name = production.path.name if production else "–"
    return Check("serving", OK, f"{found}; in production: {name}")


def _images() -> Check:
    """Names the models that images of this size are too small for."""
    if not _is_python_supported():
        return Check("images", WARNING, "not looked at: this Python is not supported", _SETUP)
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
    """Says whether a folder is on an overlay file system, where folders of lower layers cannot be renamed."""
    try:
        mounts = [line.split()[1:3] for line in pathlib.Path("/proc/self/mounts").read_text("utf-8").splitlines()]
    except OSError:
        return False
    above = [(point, kind) for point, kind in mounts if point == "/" or f"{folder}/".startswith(f"{point}/")]
    return max(above, key=lambda mount: len(mount[0]), default=("", ""))[1] == "overlay"


def _console(encoding: str) -> Check:
    columns = shutil.get_terminal_size().columns
    found = f"{columns} columns, {encoding}" if sys.stdout.isatty() else f"no terminal, {encoding}"
    if getattr(sys.flags, "safe_path", False):  # from Python 3.11 on
        advice = "unset PYTHONSAFEPATH for the commands that begin with python -m; the two scripts need nothing"
        return Check("console", WARNING, f"{found}; this Python does not look for modules in the folder", advice)
    if stdio.readable("✓", encoding) != "✓":
        return Check("console", WARNING, f"{found}: signs are spelt in ASCII", "a UTF-8 locale: export LC_ALL=C.UTF-8")
    return Check("console", OK, found)


def _metadata(output: pathlib.Path) -> Check:
    file = output / "metadata.db"
    if lock.holder(output) is not None:
        return Check("metadata", OK, f"in use by the run in {output}")
    try:
        database.check(file)
    except BadInput as error:
        found, _, advice = str(error).partition("; ")
        return Check("metadata", BLOCKED, found, advice)
    if not file.exists():
        return Check("metadata", OK, f"none yet in {output}")
    former = _former_output(output)
    moved = former not in (None, str(output))
    found = f"sound, schema version {database.SCHEMA_VERSION}"
    return Check("metadata", OK, found + (f"; the last run was in {former}, before that was moved or copied" * moved))


def _former_output(output: pathlib.Path) -> str | None:
    """Path of the output folder when its last run began; None without a run that says so."""
    records = run_record.all_runs(output)
    if not records:
        return None
    raw = json.loads((run_record.run_folder(output, records[-1]) / run_record.RECORD_FILE).read_text(encoding="utf-8"))
    return (raw.get("config") or {}).get("output")


def _clock(output: pathlib.Path) -> Check:
    now = datetime.datetime.now(datetime.timezone.utc)  # noqa: UP017
    records = run_record.all_runs(output)
    newest = str(records[-1].get("created_at") or "") if records else ""
    shown = now.isoformat(timespec="seconds")
    if newest > shown:
        advice = "set it; the order of runs does not depend on it, but the times that they note do"
        return Check("clock", WARNING, f"{shown}, before the last run began, {newest}", advice)
    return Check("clock", OK, shown)
