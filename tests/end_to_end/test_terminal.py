# SPDX-License-Identifier: Apache-2.0
"""Whole runs on real terminals and from real shells: what is on the screen, what in the log, and how they end."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.end_to_end.records import is_started, newest_record
from tests.terminal import Terminal, descendants

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
# The data stages are those of the shared run; nothing is in production under this name.
RUN = [
    *(sys.executable, str(ROOT / "runner_local.py"), "--dataset", "digits", "--model", "linear"),
    *("--serving-name", "linear"),
]
SHORT, ENDLESS = [*RUN, "--train-steps", "5"], [*RUN, "--train-steps", "1000000"]


@pytest.fixture
def output(copy_output: Any, tmp_path: pathlib.Path) -> pathlib.Path:
    """An output folder in which the data stages are finished."""
    folder: pathlib.Path = copy_output(tmp_path / "output")
    return folder


@pytest.fixture
def former(pushed_run: Any) -> str:
    """The identifier of the run that is in an output folder already."""
    run_id: str = pushed_run.record["run_id"]
    return run_id


def plain(screen: str) -> str:
    """The screen's text without colours and without what moves the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).replace("\r", "")


@pytest.fixture(scope="module")
def narrow(
    guard: dict[str, str], copy_output: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, str, pathlib.Path]:
    """A run on a terminal of 40 columns that the model gate stops: its exit code, its screen, its output folder."""
    output = copy_output(tmp_path_factory.mktemp("narrow") / "output")
    with Terminal([*SHORT, "--output", output], env=guard, cwd=ROOT, columns=40) as terminal:
        code = terminal.end()
    return code, plain(terminal.output), output


def test_the_screen_has_the_table_and_the_log_all_else(narrow: tuple[int, str, pathlib.Path]) -> None:
    code, screen, output = narrow
    assert code == 3, screen
    log = pathlib.Path(newest_record(output)["log"]).read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in log
    assert "components.errors.NotBlessed" in log
    assert "WARNING" in log
    for sign in ("WARNING", "INFO", "Traceback", "I0000", "/site-packages/"):
        assert sign not in screen


def test_no_figure_and_no_name_is_cut(narrow: tuple[int, str, pathlib.Path]) -> None:
    _, screen, output = narrow
    record = newest_record(output)
    assert "…" not in screen.rpartition("NOT BLESSED")[2]
    for stage in record["stages"]:
        assert stage["name"] in screen or stage["state"] == "skipped"
    for figure in (f"{record['metrics']['accuracy']:.2%}", "88.00%", "lowest class recall", "candidate", "limit"):
        assert figure in screen.rpartition("NOT BLESSED")[2]
    assert str(pathlib.Path(record["log"]).parent) in screen


def test_a_shell_has_control_of_the_job(guard: dict[str, str], output: pathlib.Path, former: str) -> None:
    shell = ["bash", "--norc", "--noprofile", "-i"]
    with Terminal(shell, env={**guard, "PS1": "ready> "}, cwd=ROOT) as terminal:
        terminal.until("ready> ")
        # Neither may keep the run from seeing its own processes end, or from being in the background.
        terminal.type(f"trap '' CHLD; stty tostop; {' '.join(ENDLESS)} --output {output}\n")
        terminal.until(lambda: is_started(output, "train", former))
        assert len(descendants(terminal.pid)) >= 2

        terminal.type("\x1a")
        terminal.until("ready> ")
        assert {state for _, state in descendants(terminal.pid)} == {"T"}
        terminal.type("bg\n")
        terminal.until("ready> ")
        terminal.until(lambda: "T" not in {state for _, state in descendants(terminal.pid)})
        time.sleep(2)  # long enough for the table to have been drawn, were it drawn
        assert "T" not in {state for _, state in descendants(terminal.pid)}
        terminal.type("fg\n")
        terminal.until("train")

        for _ in range(3):
            terminal.type("\x03")
            time.sleep(0.1)
        terminal.until("ready> ", seconds=60)
        terminal.type("echo code=$?\n")
        terminal.until("code=1")
        assert descendants(terminal.pid) == []
        assert "Traceback" not in terminal.output
        assert terminal.output.count("stopped: ") == 1
    record = newest_record(output)
    assert (record["verdict"], record["exit_code"], record["reason"]) == ("failed", 1, "it was interrupted")
    assert not (output / "tmp").exists()


def test_ctrl_c_again_and_again_while_it_starts(guard: dict[str, str], output: pathlib.Path, former: str) -> None:
    with Terminal([*SHORT, "--output", output], env=guard, cwd=ROOT) as terminal:
        terminal.until(lambda: newest_record(output)["run_id"] != former)
        time.sleep(1)  # among the imports
        for _ in range(300):  # also while the report and the record are written
            terminal.type("\x03")
            time.sleep(0.1)
            if "stopped: " in terminal.output or not terminal.read(0):
                break
        assert terminal.end() == 1, terminal.output
    assert "Traceback" not in terminal.output
    assert newest_record(output)["reason"] == "it was interrupted"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it(guard: dict[str, str], output: pathlib.Path, former: str, end: signal.Signals) -> None:
    with Terminal([*ENDLESS, "--output", output], env=guard, cwd=ROOT) as terminal:
        terminal.until(lambda: is_started(output, "train", former))
        processes = descendants(terminal.pid)
        if end == signal.SIGHUP:
            terminal.hang_up()
        else:
            os.kill(terminal.pid, end)
        assert terminal.wait() == 1
    assert newest_record(output)["reason"] == f"it was interrupted by {end.name}"
    assert not [process for process, _ in processes if pathlib.Path(f"/proc/{process}").exists()]


def test_a_reader_that_leaves_ends_nothing(guard: dict[str, str], output: pathlib.Path) -> None:
    script = f'set -o pipefail; "$@" --output {output} | head -2'
    completed = subprocess.run(
        ["bash", "-c", script, "bash", *SHORT], cwd=ROOT, env=guard, capture_output=True, text=True, check=False
    )
    assert (completed.returncode, completed.stderr, completed.stdout.count("\n")) == (3, "", 2)
    assert newest_record(output)["verdict"] == "not_blessed"


def test_an_odd_start(guard: dict[str, str], output: pathlib.Path, tmp_path: pathlib.Path) -> None:
    link = tmp_path / "link.py"
    link.symlink_to(ROOT / "runner_local.py")
    environment = {
        **guard,
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONOPTIMIZE": "2",
        "PYTHONSAFEPATH": "1",
        "PYTHONWARNINGS": "error",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
    }
    command = [SHORT[0], str(link), *SHORT[2:], "--output", str(output), "--json", str(tmp_path / "record.json")]
    script = '"$@" >/dev/full 2>&- <&-'
    completed = subprocess.run(
        ["bash", "-c", script, "bash", *command], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert completed.returncode == 3, newest_record(output)["reason"]
    record = newest_record(output)
    assert record == json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record["verdict"] == "not_blessed"
    assert record["report"]
