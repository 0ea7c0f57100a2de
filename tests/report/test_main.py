# SPDX-License-Identifier: Apache-2.0
"""The command: lists runs, writes a report again, compares two runs."""

import json
import pathlib
import subprocess
import sys

import pytest

from pipeline.report import __main__ as command
from pipeline.report import page


@pytest.fixture(autouse=True)
def output(make_run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Two runs, of which the second has no metrics."""
    monkeypatch.setattr(page, "javascript", lambda: "")
    make_run("20260101-000000-aaaa", forced="a\nreason")
    make_run("20260102-000000-bbbb", verdict="stopped", metrics=None, baseline=None, model=None)
    return tmp_path / "output"


def test_lists_the_runs(output: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--output", str(output)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "20260101-000000-aaaa  pushed        95.00%  digits    cnn  version 2  forced: a reason",
        "20260102-000000-bbbb  stopped            –  digits",
    ]


def test_lists_as_json(output: pathlib.Path, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    assert command.main(["--output", str(output), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["run_id"], row["accuracy"], row["baseline_accuracy"]) for row in rows] == [
        ("20260101-000000-aaaa", 0.95, 0.9), ("20260102-000000-bbbb", None, None)
    ]  # fmt: skip
    assert command.main(["--output", str(output), "--json", str(tmp_path / "list.json")]) == 0
    assert json.loads((tmp_path / "list.json").read_text()) == rows


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_an_unreadable_record_is_left_out(
    output: pathlib.Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (output / "runs" / "20260102-000000-bbbb" / "record.json").write_text(content)
    assert command.main(["--output", str(output)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_no_runs(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--output", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == f"No runs in {tmp_path / 'none'}.\n"


def test_writes_a_report_again(output: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["aaaa", "--output", str(output)]) == 0
    path = output / "runs" / "20260101-000000-aaaa" / "report.html"
    assert capsys.readouterr().out == f"{path}\n"
    assert "accuracy 95.00%" in path.read_text(encoding="utf-8")


def test_compares_two_runs(output: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--compare", "aaaa", "bbbb", "--output", str(output), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["run_id"] for row in result["compared"]] == ["20260101-000000-aaaa", "20260102-000000-bbbb"]
    assert "Two runs side by side" in pathlib.Path(result["report"]).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zzzz"], "none of them matches 'zzzz'"),
        (["2026"], "2 of them match '2026'"),
        (["--compare", "aaaa", "zzzz"], "none of them matches 'zzzz'"),
        (["aaaa", "--compare", "aaaa", "bbbb"], "not both"),
        (["--compare", "aaaa"], "expected 2 arguments"),
        (["--json", "/proc/none/file"], "--json names a file"),
    ],
)
def test_wrong_usage_is_one_line(
    output: pathlib.Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert command.main([*arguments, "--output", str(output)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors


def test_a_missing_part_is_one_line_on_the_screen(output: pathlib.Path) -> None:
    record = json.loads((output / "runs" / "20260101-000000-aaaa" / "record.json").read_text())
    (pathlib.Path(record["artifacts"]["evaluate.checks"]) / "predictions.npz").write_bytes(b"no archive")
    process = subprocess.run(
        [sys.executable, "-m", "pipeline.report", "aaaa", "--output", output],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    [line] = [line for line in process.stderr.splitlines() if line.startswith("the report lacks")]
    assert line.startswith("the report lacks the predictions: ")
    assert "Traceback" not in process.stderr
