# SPDX-License-Identifier: Apache-2.0
"""Ends of the child process that does the work."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
WORK = """
import atexit, sys, threading
from pipeline.local import supervisor

def work():
    atexit.register(print, "tidied up")
    threading.Timer(0.5, print, ["thread", "done"], dict(sep=" ", end=", ")).start()
    print("done", end=", ")
    {last}

sys.exit(supervisor.call(work, lambda number, folder: 99))
"""


def ended(last):
    command = [sys.executable, "-c", WORK.format(last=last)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    return process.returncode, process.stdout, process.stderr


def test_what_was_said_is_seen_and_what_shall_be_done_at_the_end_is_done():
    assert ended("return 3") == (3, "done, thread done, tidied up\n", "")


def test_an_error_nobody_caught_is_shown():
    code, out, err = ended("raise RuntimeError('it broke')")
    assert (code, out) == (1, "done, thread done, tidied up\n")
    assert err.endswith("RuntimeError: it broke\n")


CHILD = """
import os, signal, subprocess, sys, time
from components import stdio
from pipeline.local import supervisor

folder = sys.argv[1]

def work():
    supervisor.report_folder(folder)
    # One process that ignores what its parent is asked, in a session of its own.
    subprocess.Popen(["sh", "-c", "trap '' INT TERM HUP; sleep 60 & echo $! > $0/stray; wait", folder],
                     start_new_session=True)
    while not os.path.exists(folder + "/stray"): time.sleep(0.01)
    try:
        os.write(1, b"ready\\n")
        {body}
    except KeyboardInterrupt:
        try: time.sleep(1)
        finally:
            print(supervisor.interruption_reason(), flush=True)
        return 1
    return 0

def died(number, folder):
    print("died", signal.Signals(number).name, folder, flush=True)
    return 1

supervisor._GRACE_SECONDS = {grace}
stdio.run(lambda: supervisor.call(work, died))
"""


def interrupted(tmp_path, numbers, body="time.sleep(60)", before="", to_group=False, grace=60):
    """Sends signals, one after the other, and returns the exit code and the lines printed."""
    program = CHILD.format(body=body, grace=grace)
    command = ["bash", "-c", f'{before} exec "$@"', "bash", sys.executable, "-c", program, str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    for number in numbers:
        (os.killpg if to_group else os.kill)(process.pid, number)
        time.sleep(0.1)
    lines += process.communicate(timeout=60)[0].splitlines(keepends=True)
    stray = int((tmp_path / "stray").read_text())
    assert not pathlib.Path(f"/proc/{stray}").exists()
    return process.returncode, [line.rstrip() for line in lines]


@pytest.mark.parametrize("to_group", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("times", [1, 4])
def test_the_first_signal_interrupts_and_the_others_change_nothing(tmp_path, number, times, to_group):
    reason = "it was interrupted" + ("" if number == signal.SIGINT else f" by {number.name}")
    code, lines = interrupted(tmp_path, [number] * times, to_group=to_group)
    assert (code, lines) == (1, ["ready", reason, f"died {number.name} {tmp_path}"])


def test_a_child_that_does_not_heed_is_killed(tmp_path):
    body = "signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    code, lines = interrupted(tmp_path, [signal.SIGINT], body=body, grace=1)
    assert (code, [line for line in lines if line != "deaf"]) == (1, ["ready", f"died SIGINT {tmp_path}"])


def test_ctrl_backslash_ends_the_child_and_the_parent_says_so(tmp_path):
    code, lines = interrupted(tmp_path, [signal.SIGQUIT], before="ulimit -c 0;", to_group=True)
    assert (code, lines) == (1, ["ready", f"died SIGQUIT {tmp_path}"])


@pytest.mark.parametrize(("trap", "number"), [("INT", signal.SIGINT), ("HUP", signal.SIGHUP)])
def test_what_the_shell_ignores_stays_ignored(tmp_path, trap, number):
    code, lines = interrupted(tmp_path, [number] * 2, body="time.sleep(1)", before=f"trap '' {trap};", to_group=True)
    assert (code, lines) == (0, ["ready"])


def test_a_parent_that_ignores_sigchld(tmp_path):
    assert interrupted(tmp_path, [], body="return 0", before="trap '' CHLD;") == (0, ["ready"])


def test_a_killed_child_leaves_nothing(tmp_path):
    code, lines = interrupted(tmp_path, [], body="os.kill(os.getpid(), signal.SIGKILL)")
    assert (code, lines) == (1, ["ready", f"died SIGKILL {tmp_path}"])
