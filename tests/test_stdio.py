# SPDX-License-Identifier: Apache-2.0
"""Commands in processes that were started with something missing, odd or full."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping

import pytest

from components import stdio

ROOT = pathlib.Path(__file__).parents[1]
LOCAL, KFP = str(ROOT / "runner_local.py"), str(ROOT / "runner_kfp.py")
SCRIPTS = ([LOCAL, "--help"], [LOCAL, "label", "--help"], [KFP, "--help"])
MODULES = (
    ["-m", "pipeline.lineage", "--help"],
    ["-m", "pipeline.report", "--output", "/nowhere"],
    ["-m", "serving", "--help"],
    ["-m", "serving.predict", "--help"],
    ["-m", "serving.batch", "--help"],
    ["-m", "serving.drift", "--help"],
    ["-m", "pipeline.kubeflow.report", "--help"],
    ["-m", "pipeline.kubeflow.entrypoint", "--help"],
    ["-m", "pipeline.kubeflow.training_job.worker", "--help"],
)
ALL = pytest.mark.parametrize("command", [*SCRIPTS, *MODULES], ids=" ".join)
# Every command has the same start and end: a script, a module that writes by itself, and argparse's exit.
SOME = pytest.mark.parametrize("command", [SCRIPTS[1], *MODULES[:2]], ids=" ".join)
# A program that writes signs, a file's name, and warns, as a command does.
PROGRAM = """
import sys, warnings
from components import stdio
def work():
    print("✓ done, – 3 … é")
    warnings.warn("old", FutureWarning)
    {more}
    return 0
stdio.run(work)
"""


def shell(
    redirections: str, *command: str, env: Mapping[str, str] | None = None, cwd: pathlib.Path = ROOT
) -> subprocess.CompletedProcess[str]:
    script = f'"$@" {redirections}'
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script, "bash", sys.executable, *command],
        cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def program(more: str = "pass") -> tuple[str, str]:
    return "-c", PROGRAM.format(more=more)


@ALL
def test_closed_descriptors_are_dev_null(command: list[str]) -> None:
    completed = shell("<&- >&- 2>&-", *command)
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "", "")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_a_file_gets_no_standard_descriptor(tmp_path: pathlib.Path, closed: tuple[int, ...]) -> None:
    result = tmp_path / "descriptor"
    more = f"file = open({str(result)!r}, 'w'); file.write(f'{{file.fileno()}} {{sys.stdin.read()!r}}'); file.close()"
    completed = shell(
        " ".join(f"{number}>&-" for number in closed) + ("" if 0 in closed else " </dev/null"), *program(more)
    )
    assert completed.returncode == 0, completed.stderr
    descriptor, content = result.read_text().split()
    assert int(descriptor) > 2
    assert content == "''"


@SOME
def test_a_reader_that_leaves_is_no_fault(command: list[str]) -> None:
    completed = shell("| true", *command, env={"PYTHONUNBUFFERED": "1"})
    assert (completed.returncode, completed.stderr) == (0, "")


@SOME
def test_output_that_a_full_disk_loses_is_reported(command: list[str]) -> None:
    completed = shell(">/dev/full", *command)
    assert (completed.returncode, completed.stderr) == (1, "stdout could not be written: No space left on device\n")


def test_a_full_disk_behind_stderr_is_no_fault() -> None:
    completed = shell("2>/dev/full", *program("sys.stderr.write('progress')"))
    assert (completed.returncode, completed.stdout) == (0, "✓ done, – 3 … é\n")


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", b"+ done, - 3 ... \\xe9\n"),
        ("latin-1", b"+ done, - 3 ... \xe9\n"),
        ("utf-8", "✓ done, – 3 … é\n".encode()),
    ],
)
def test_signs_degrade(encoding: str, expected: bytes) -> None:
    completed = subprocess.run(
        [sys.executable, *program()], cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True
    )
    assert (completed.returncode, completed.stdout) == (0, expected)


def test_names_that_are_no_utf_8_pass_through() -> None:
    completed = subprocess.run(
        [sys.executable, *program(r"print('\udcff')")], cwd=ROOT, capture_output=True, check=True
    )
    assert completed.stdout.splitlines()[-1] == b"\xff"


@SOME
def test_the_interpreter_may_have_any_option(command: list[str]) -> None:
    plain = shell("", *command)
    for options in (["-W", "error"], ["-OO"], ["-X", "dev", "-B", "-u"]):
        completed = shell("", *options, *command)
        assert (completed.returncode, completed.stdout, completed.stderr) == (
            plain.returncode,
            plain.stdout,
            plain.stderr,
        ), options


def test_docstrings_come_back_and_other_options_stay(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom components import stdio\nstdio.prepare()\n"
        "print(bool(stdio.__doc__), sys.flags.optimize, sys.flags.dont_write_bytecode, sys.argv[1:])\n"
    )
    for environment in ({}, {"PYTHONOPTIMIZE": "2"}):
        completed = shell("", "-OO", "-B", str(script), "--option", "a b", env=environment)
        assert (completed.stdout, completed.stderr) == ("True 0 1 ['--option', 'a b']\n", "")


def test_warnings_are_no_errors_in_children_either() -> None:
    warn = "import warnings; warnings.warn(str())"
    more = f"import subprocess; sys.exit(subprocess.call([sys.executable, '-c', {warn!r}]))"
    assert shell("2>/dev/null", *program(more), env={"PYTHONWARNINGS": "error"}).returncode == 0


@pytest.mark.parametrize(("command", "options"), [(SCRIPTS[1], ["-P"]), (SCRIPTS[2], ["-I"])])
def test_scripts_find_the_project_from_anywhere(command: list[str], options: list[str], tmp_path: pathlib.Path) -> None:
    link = tmp_path / "link.py"
    link.symlink_to(command[0])
    completed = shell("", *options, str(link), *command[1:], cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr


@pytest.mark.parametrize("command", [["--dataset", "digits"], ["rollback"]], ids=" ".join)
def test_a_python_without_the_packages_is_told_what_to_do(command: list[str], tmp_path: pathlib.Path) -> None:
    # No site-packages at all: what any other Python has of this project's dependencies.
    completed = shell("", "-S", LOCAL, *command, "--output", str(tmp_path / "output"))
    assert completed.returncode == 1
    assert completed.stdout == ""
    [line] = completed.stderr.splitlines()
    assert line.startswith("error: Python 3.11 to 3.13 is needed, with the packages of requirements/run.lock; ")
    assert line.endswith("make setup, then .venv/bin/python")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("raise KeyError('x')", "FAILED: KeyError: 'x'\n"),
        ("raise RuntimeError", "FAILED: RuntimeError\n"),
        ("raise ValueError('two\\nlines')", "FAILED: ValueError: two lines\n"),
        ("raise KeyboardInterrupt", "stopped\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", "stopped\n"),
    ],
)
def test_an_uncaught_error_is_one_line(error: str, line: str) -> None:
    completed = shell("", *program(error))
    assert (completed.returncode, completed.stderr.splitlines(keepends=True)[-1]) == (1, line)
    assert "Traceback" not in completed.stderr


def test_a_line_of_the_project_is_named() -> None:
    completed = shell("", *program("from components import errors; errors.exit_code(None)"))
    assert "FAILED: TypeError: 'NoneType' object is not callable (errors.py:" in completed.stderr


def test_exit_codes_of_children_are_known_where_sigchld_is_ignored() -> None:
    more = "import subprocess; sys.exit(subprocess.call([sys.executable, '-c', 'raise SystemExit(7)']))"
    former = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = os.fork()
        if child == 0:
            os.chdir(ROOT)
            os.execv(sys.executable, [sys.executable, *program(f"stdio.prepare(); {more}")])
    finally:
        signal.signal(signal.SIGCHLD, former)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.skipif(shutil.which("python3", path="/usr/bin") is None, reason="needs the system's own Python")
def test_the_systems_python() -> None:
    completed = subprocess.run(["/usr/bin/python3", LOCAL, "--dataset", "digits"], capture_output=True, text=True)
    assert completed.returncode == 1
    assert completed.stderr.count("\n") == 1


def test_readable_keeps_what_the_encoding_has() -> None:
    assert stdio.readable("✓ … é", "utf-8") == "✓ … é"
    assert stdio.readable("✓ … é", "latin-1") == "+ ... é"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_process_that_is_killed_leaves_its_last_line(unbuffered):
    code = (
        "import os, sys\nfrom components import stdio\nstdio.prepare()\nsys.stderr.write('last words\\n')\nos._exit(1)"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    assert completed.stderr == b"last words\n"
