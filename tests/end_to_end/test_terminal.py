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

from tests.terminal import Terminal, descendants

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
RUN = [sys.executable, str(ROOT / "runner_local.py"), "--dataset", "digits", "--model", "linear"]
SHORT, ENDLESS = [*RUN, "--train-steps", "5"], [*RUN, "--train-steps", "1000000"]


def record_of(output: pathlib.Path) -> dict[str, Any]:
    [path] = output.glob("runs/*/record.json")
    return json.loads(path.read_text(encoding="utf-8"))


def stage_has_begun(output: pathlib.Path, stage: str) -> bool:
    paths = list(output.glob("runs/*/record.json"))
    return bool(paths) and stage in [row["name"] for row in record_of(output)["stages"]]


def plain(screen: str) -> str:
    """The screen's text without colours and without what moves the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).replace("\r", "")


@pytest.fixture(scope="module")
def narrow(guard: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, pathlib.Path]:
    """A run on a terminal of 40 columns that the model gate stops: its exit code, its screen, its output folder."""
    output = tmp_path_factory.mktemp("narrow") / "output"
    with Terminal([*SHORT, "--output", output], env=guard, cwd=ROOT, columns=40) as terminal:
        code = terminal.end()
    return code, plain(terminal.output), output


def test_the_screen_has_the_table_and_the_log_all_else(narrow: tuple[int, str, pathlib.Path]) -> None:
    code, screen, output = narrow
    assert code == 3, screen
    log = pathlib.Path(record_of(output)["log"]).read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in log
    assert "components.errors.NotBlessed" in log
    assert "WARNING" in log
    for sign in ("WARNING", "INFO", "Traceback", "I0000", "/site-packages/"):
        assert sign not in screen


def test_no_figure_and_no_name_is_cut(narrow: tuple[int, str, pathlib.Path]) -> None:
    _, screen, output = narrow
    record = record_of(output)
    assert "…" not in screen.rpartition("NOT BLESSED")[2]
    for stage in record["stages"]:
        assert stage["name"] in screen or stage["state"] == "skipped"
    for figure in (f"{record['metrics']['accuracy']:.2%}", "88.00%", "lowest class recall", "candidate", "limit"):
        assert figure in screen.rpartition("NOT BLESSED")[2]
    assert str(pathlib.Path(record["log"]).parent) in screen


def test_a_shell_has_control_of_the_job(guard: dict[str, str], tmp_path: pathlib.Path) -> None:
    output = tmp_path / "output"
    shell = ["bash", "--norc", "--noprofile", "-i"]
    with Terminal(shell, env={**guard, "PS1": "ready> "}, cwd=ROOT) as terminal:
        terminal.until("ready> ")
        # Neither may keep the run from seeing its own processes end, or from being in the background.
        terminal.type(f"trap '' CHLD; stty tostop; {' '.join(ENDLESS)} --output {output}\n")
        terminal.until(lambda: stage_has_begun(output, "train"))
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
    record = record_of(output)
    assert (record["verdict"], record["exit_code"], record["reason"]) == ("failed", 1, "it was interrupted")
    assert not (output / "tmp").exists()


def test_ctrl_c_again_and_again_while_it_starts(guard: dict[str, str], tmp_path: pathlib.Path) -> None:
    output = tmp_path / "output"
    with Terminal([*SHORT, "--output", output], env=guard, cwd=ROOT) as terminal:
        terminal.until(lambda: bool(list(output.glob("runs/*/record.json"))))
        time.sleep(1)  # among the imports
        for _ in range(300):  # also while the report and the record are written
            terminal.type("\x03")
            time.sleep(0.1)
            if "stopped: " in terminal.output or not terminal._read(0):
                break
        assert terminal.end() == 1, terminal.output
    assert "Traceback" not in terminal.output
    assert record_of(output)["reason"] == "it was interrupted"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end(guard: dict[str, str], tmp_path: pathlib.Path, end: signal.Signals) -> None:
    output = tmp_path / "output"
    with Terminal([*ENDLESS, "--output", output], env=guard, cwd=ROOT) as terminal:
        terminal.until(lambda: stage_has_begun(output, "train"))
        processes = descendants(terminal.pid)
        if end == signal.SIGHUP:
            terminal.hang_up()
        else:
            os.kill(terminal.pid, end)
        assert terminal._wait() == 1
    assert record_of(output)["reason"] == f"it was interrupted by {end.name}"
    assert not [process for process, _ in processes if pathlib.Path(f"/proc/{process}").exists()]


def test_a_reader_that_leaves_ends_nothing(guard: dict[str, str], tmp_path: pathlib.Path) -> None:
    output = tmp_path / "output"
    script = f'set -o pipefail; "$@" --output {output} | head -2'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *SHORT], cwd=ROOT, env=guard, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (3, "", 2)
    assert record_of(output)["verdict"] == "not_blessed"


def test_an_odd_start(guard: dict[str, str], tmp_path: pathlib.Path) -> None:
    output, link = tmp_path / "output", tmp_path / "link.py"
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
    done = subprocess.run(
        ["bash", "-c", script, "bash", *command], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 3, (output / "runs").exists() and record_of(output)["reason"]
    record = record_of(output)
    assert record == json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record["verdict"] == "not_blessed"
    assert record["report"]
