# SPDX-License-Identifier: Apache-2.0
"""How the child that does the work ends."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
WORK = """
import atexit, sys, threading
from pipeline.local import supervise

def work():
    atexit.register(print, "tidied up")
    threading.Timer(0.5, print, ["thread", "done"], dict(sep=" ", end=", ")).start()
    print("done", end=", ")
    {last}

sys.exit(supervise.call(work, lambda number, folder: 99))
"""


def ended(last):
    command = [sys.executable, "-c", WORK.format(last=last)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60, env=environment)
    return done.returncode, done.stdout, done.stderr


def test_what_was_said_is_seen_and_what_shall_be_done_at_the_end_is_done():
    assert ended("return 3") == (3, "done, thread done, tidied up\n", "")


def test_an_error_nobody_caught_is_shown():
    code, out, err = ended("raise RuntimeError('it broke')")
    assert (code, out) == (1, "done, thread done, tidied up\n")
    assert err.endswith("RuntimeError: it broke\n")
