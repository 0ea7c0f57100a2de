# SPDX-License-Identifier: Apache-2.0
"""The end of a run: the table of the gates, and files that cannot be read or screen."""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator

import pytest

import runner_local
from components.errors import BadInput
from components.findings import GateResult
from pipeline import database, run_record
from pipeline.local import run_command, runner
from pipeline.local.console import Console
from pipeline.report import gates
from pipeline.run_record import RunRecord, Tuning, Verdict

ROOT = pathlib.Path(__file__).parents[2]
GATES = [
    GateResult("data", 0, 0, True, ""),
    GateResult("infra-latency", 123.4, 100.0, False, ""),
    GateResult("change", -0.0045, -0.003, False, "", candidate=0.9875, baseline=0.992, interval=(-0.006, -0.003)),
    GateResult("best", 0.001, -0.002, True, "", candidate=0.9875, baseline=0.9865),
    GateResult("accuracy-floor", 0.9875, 0.98, True, "", baseline=0.992, interval=(0.985, 0.99)),
    GateResult("recall-floor", None, 0.8, False, ""),
    GateResult("tfma-validation", None, None, False, ""),
]


@pytest.fixture
def screen(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "console.txt"


@pytest.fixture
def console(screen: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    monkeypatch.delenv("COLUMNS", raising=False)
    with screen.open("w", encoding="utf-8") as stream:
        console = Console(stream)
        yield console
        console.close()


def test_the_table_has_comparisons_and_failed_gates(console: Console, screen: pathlib.Path) -> None:
    console.verdict(gates.short_gates(RunRecord(run_id="", gates=tuple(GATES))))
    console.close()
    text = screen.read_text(encoding="utf-8")
    assert [line.rstrip() for line in text.splitlines()] == [
        "metric                 candidate baseline      difference (95 %)    limit",
        "latency of one image    123.4 ms        –                      – 100.0 ms ✗ fail",
        "accuracy vs production    98.75%   99.20% -0.45 (-0.60 to -0.30)    -0.30 ✗ fail",
        "accuracy vs best ever     98.75%   98.65%                  +0.10    -0.20 ✓ pass",
        "accuracy                  98.75%   99.20%                      –   98.00% ✓ pass",
        "lowest class recall            –        –                      –   80.00% ✗ fail",
        "tfma-validation                –        –                      –        – ✗ fail",
    ]


def test_a_run_without_gates_has_no_table(console: Console, screen: pathlib.Path) -> None:
    console.verdict(gates.short_gates(RunRecord(run_id="")))
    console.close()
    assert screen.read_text(encoding="utf-8") == ""


def test_a_report_that_cannot_be_written_leaves_the_verdict(
    console: Console, screen: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    record = RunRecord(run_id="20260101-000000-aaaa", verdict=Verdict.PUSHED)
    (tmp_path / "report.html").mkdir()
    record = runner.write_report(record, tmp_path, console)
    console.close()
    [line] = screen.read_text(encoding="utf-8").splitlines()
    assert line.startswith("The report could not be written, the log has the cause: IsADirectoryError: ")
    assert "Traceback" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert (record.report, record.verdict) == (None, "pushed")


def test_a_report_with_a_fault_in_it_leaves_the_verdict(
    console: Console, screen: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    without_trials = Tuning(trials=(), winner=1, space={}, share=0.2)
    record = RunRecord(run_id="20260101-000000-aaaa", verdict=Verdict.PUSHED, tuning=without_trials)
    record = runner.write_report(record, tmp_path, console)
    console.close()
    assert "The report could not be written" in screen.read_text(encoding="utf-8")
    assert (record.report, record.verdict) == (None, "pushed")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("to", ["/proc/none/record.json", "/proc"])
def test_a_record_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    output = tmp_path / "output"
    assert runner_local.main(["--dataset", "digits", "--output", str(output), "--json", to]) == 2
    assert capsys.readouterr().err.startswith(f"error: --json names a file that can be written, but {to}: ")
    assert not output.exists()


def test_a_record_goes_through_a_link_and_not_in_its_place(tmp_path: pathlib.Path) -> None:
    run_record.write_record(RunRecord(run_id="20260101-000000-aaaa"), tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert run_command.record_death(["--json", str(tmp_path / "link")], signal.SIGKILL, tmp_path) == 1
    assert (tmp_path / "link").is_symlink()  # as /dev/stderr is
    assert json.loads((tmp_path / "file").read_text())["reason"].startswith("SIGKILL ended the process")


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGKILL, True), (signal.SIGABRT, True), (signal.SIGTERM, False)]
)
def test_memory_is_named_only_where_it_may_be_the_cause(
    capsys: pytest.CaptureFixture[str], number: int, expected: bool
) -> None:
    assert run_command.record_death([], number, None) == 1
    assert ("memory" in capsys.readouterr().out) is expected


def test_a_killed_run_whose_record_cannot_be_written_says_so(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_record.write_record(RunRecord(run_id="20260101-000000-aaaa"), tmp_path)
    assert run_command.record_death(["--json", "/proc/none/record.json"], signal.SIGKILL, tmp_path) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("FAILED: SIGKILL ended the process")
    assert captured.err.startswith("The record could not be written: --json names a file")


def test_a_fault_outside_of_the_stages_is_one_line_and_the_log_has_the_cause(tmp_path: pathlib.Path) -> None:
    fail = (
        "import sys, runner_local; from components import stdio; from pipeline.local import runner; "
        "runner._temporary_folder = lambda output: (output / 'gone' / 'tmp').mkdir(); stdio.prepare(); "
        "sys.exit(runner_local.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", fail, "--dataset", "digits", "--output", str(tmp_path / "output"), "--json"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    row = json.loads(process.stdout)
    assert (process.returncode, row["verdict"], row["exit_code"]) == (1, "failed", 1)
    assert row["reason"].startswith("FileNotFoundError: ")
    assert f"FAILED: {row['reason']}" in process.stderr.splitlines()
    assert row["reason"].endswith(f"; the log has the cause: {row['log']}")
    assert "Traceback" not in process.stderr
    assert "FileNotFoundError" in pathlib.Path(row["log"]).read_text(encoding="utf-8").splitlines()[-1]
    assert run_record.read_record(pathlib.Path(row["log"]).parent).to_json() == row


@pytest.mark.parametrize("content", ["", '{"verdict": ', "[]", "{}", '{"run_id": "x", "verdict": "pushed"}'])
def test_a_damaged_record_is_skipped(tmp_path: pathlib.Path, content: str) -> None:
    folder = tmp_path / "runs" / "20260101-000000-aaaa"
    folder.mkdir(parents=True)
    run_record.write_record(RunRecord(run_id="20260101-000000-aaaa"), folder)
    assert run_record.newest_record(tmp_path) is not None
    (folder / run_record.RECORD_FILE).write_text(content)
    assert run_record.newest_record(tmp_path) is None


@pytest.mark.parametrize("pages", [0, 1, 3])
def test_damaged_metadata_are_refused_before_any_work(tmp_path: pathlib.Path, pages: int) -> None:
    path = tmp_path / "metadata.db"
    database.check(path)  # none yet
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE MLMDEnv (schema_version INTEGER)")
        connection.execute("CREATE TABLE artifact (name TEXT)")
        connection.executemany("INSERT INTO artifact VALUES (?)", [(f"{row:>100}",) for row in range(1000)])
    database.check(path)
    path.write_bytes(path.read_bytes()[: 4096 * pages] or b"something else")
    with pytest.raises(BadInput, match=r"must be a sound SQLite database, but .*; put back a copy, or remove it"):
        database.check(path)
