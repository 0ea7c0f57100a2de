# SPDX-License-Identifier: Apache-2.0
"""The console on terminals of any width and encoding, and with streams that are none."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.terminal import Terminal

ROOT = pathlib.Path(__file__).parents[2]
# A run's console without a run: stages, a library that writes and warns meanwhile, a download, and the verdict.
PROGRAM = """
import logging, pathlib, sys
from components import progress, stdio
from pipeline.local.console import Console, redirected
from pipeline.report.gates import GateRow

def work():
    early = logging.StreamHandler(sys.stderr)
    console = Console(sys.stdout)
    with redirected(pathlib.Path(sys.argv[1])), console.stages():
        console.stage("image-check", "running", 0)
        progress.report(progress.EpochEnd(3, 4, 70, 96, 0.5, 0.5, 123.4567, 2.0))
        progress.report(progress.Message("exporting"))
        print("printed by a library")
        logging.getLogger("library").addHandler(early)
        logging.getLogger("library").warning("logged by a library")
        print("written to stderr", file=sys.stderr)
        console.stage("image-check", "done", 1.5)
    console.download(50, 100)
    print("printed during the download")
    console.download(100, 100)
    console.say("PUSHED: version 3 – in /a/folder/with/a/name/that/is/long")
    console.verdict([
        GateRow(name="change", metric="accuracy vs production", candidate="98.75%", baseline="99.20%",
                difference="-0.45 points", interval="-0.60 to -0.30", limit="-0.30 points", passed=False, reason=""),
        GateRow(name="infra-latency", metric="latency of one image", candidate="123.4 ms", baseline=None,
                difference=None, interval=None, limit="100.0 ms", passed=True, reason="")])
    return 0

stdio.run(work)
"""
WORDS = (
    "image-check", "12345.67", "/a/folder/with/a/name/that/is/long", "accuracy vs production", "latency of one image",
    "98.75%", "99.20%", "-0.45 (-0.60 to -0.30)", "-0.30", "123.4 ms", "100.0 ms", "candidate", "baseline", "limit",
)  # fmt: skip


def environment(**variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "PYTHONUNBUFFERED")}
    return inherited | variables


@pytest.mark.parametrize("columns", [120, 40, 20])
def test_a_terminal_shows_the_stages_and_the_log_has_the_rest(tmp_path: pathlib.Path, columns: int) -> None:
    log = tmp_path / "log.txt"
    command = [sys.executable, "-c", PROGRAM, str(log)]
    with Terminal(command, env=environment(), cwd=ROOT, columns=columns) as terminal:
        assert terminal.end() == 0, terminal.output
    screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.output).replace("\r", "")
    assert log.read_text().splitlines() == ["printed by a library", "logged by a library", "written to stderr"]
    assert "library" not in screen
    assert "written to stderr" not in screen
    assert "printed during the download" in screen
    for word in WORDS:
        assert word in screen
    assert "…" not in re.sub("… (?=image-check)", "", screen)  # the mark of a stage that runs
    # The cursor is there while the table is: a shell that stops the run needs it.
    assert "\x1b[?25l" not in terminal.output.partition("\x1b[?25h")[2].partition("bytes")[0].partition("done")[0]
    assert "100/100" in screen


def piped(tmp_path: pathlib.Path, **variables: str) -> bytes:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "log.txt")]
    process = subprocess.run(command, cwd=ROOT, env=environment(**variables), capture_output=True, check=False)
    assert (process.returncode, process.stderr) == (0, b"")
    return process.stdout


@pytest.mark.parametrize("columns", ["40", "20"])
def test_a_pipe_of_a_given_width_cuts_nothing(tmp_path: pathlib.Path, columns: str) -> None:
    shown = piped(tmp_path, COLUMNS=columns).decode()
    for word in WORDS:
        assert word in shown


def test_a_pipe_gets_lines_even_where_colours_are_asked_for(tmp_path: pathlib.Path) -> None:
    shown = piped(tmp_path, FORCE_COLOR="1").decode()
    assert "\x1b[" in shown
    assert not re.search(r"\x1b\[[0-9;?]*[^0-9;?m]", shown)  # nothing that moves the cursor


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_signs_degrade(tmp_path: pathlib.Path, encoding: str) -> None:
    shown = piped(tmp_path, PYTHONIOENCODING=encoding).decode(encoding)
    assert "+ image-check  done" in shown
    assert "x fail" in shown
    assert "PUSHED: version 3 - in" in shown
    assert "?" not in shown


def test_a_terminal_that_is_dumb_gets_lines(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "log.txt")]
    with Terminal(command, env=environment(TERM="dumb"), cwd=ROOT) as terminal:
        assert terminal.end() == 0
    assert "✓ image-check  done" in terminal.output
    assert "\x1b" not in terminal.output


@pytest.mark.parametrize("width", [160, 80, 40, 20])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_lineage_breaks_no_digest(tmp_path: pathlib.Path, width: int, encoding: str) -> None:
    from rich.console import Console

    from components import stdio
    from pipeline import tables

    digest, words = "0123456789abcdef" * 4, "the accuracy is below its limit by 3.14 points"
    rows: list[Any] = [("locked dependencies, SHA-256", digest), ("chosen", words)]
    gates = [("accuracy-floor", "CLOSED", words), ("recall-floor", "passed", "\x1b[2J✓")]
    with (tmp_path / "shown.txt").open("w", encoding=encoding) as file:
        terminal = Console(file=stdio.duplicate(file), width=width)
        tables.show(terminal, rows, gap=2, indent=2)
        tables.show(terminal, gates, ("gate", "", "why"), gap=4, indent=2)
        tables.show(terminal, [], ("gate", "why"))
        terminal.file.close()
    shown = (tmp_path / "shown.txt").read_text(encoding)
    assert digest in shown
    assert "\x1b" not in shown
    for word in ("locked dependencies, SHA-256", "accuracy-floor", "recall-floor", "CLOSED", "passed", *words.split()):
        assert word in shown
    if width == 160:
        assert f"  accuracy-floor    CLOSED    {words}" in [line.rstrip() for line in shown.splitlines()]
