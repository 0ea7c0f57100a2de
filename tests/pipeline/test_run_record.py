# SPDX-License-Identifier: Apache-2.0
"""The record of a run: its file, its verdict, and the error for people."""

from __future__ import annotations

import json
import math

import pytest

from components.errors import BadInput, GateStopped, NotBlessed, ProjectError
from components.findings import Finding, GateResult
from pipeline import run_record
from pipeline.kubeflow.task_records import TaskRun
from pipeline.run_record import (
    Baseline,
    DatasetRecord,
    Failure,
    Metrics,
    ModelRecord,
    RunRecord,
    StageRecord,
    State,
    Verdict,
)  # fmt: skip

RECORD = RunRecord(
    run_id="20260101-000000-aaaa",
    sequence=3,
    dataset=DatasetRecord(name="digits", images=1797, excluded={"train": {"11": 2}}),
    model=ModelRecord(type="cnn", version=2, path="/output/serving/mnist/2"),
    metrics=Metrics(accuracy=0.95, loss=math.nan, recall={"0": 1.0}, intervals={"accuracy": (0.9, 1.0)}),
    baseline=Baseline(version=1, metrics=Metrics(accuracy=0.9)),
    findings=(Finding("blank", "One image is blank.", examples=("a#1",)),),
    gates=(GateResult("change", 0.05, -0.03, True, "", interval=(-0.1, 0.2)),),
    stages=(StageRecord("ingest", State.CACHED, 0.5),),
    config={"output": "/output", "training": {"seed": 1}},
    log="/output/runs/20260101-000000-aaaa/log.txt",
)


def catch(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError


def raise_with_cause():
    try:
        raise OSError("the disk")
    except OSError as error:
        raise BadInput("a sentence") from error


def raise_wrapped():
    try:
        raise_with_cause()
    except BadInput as error:
        raise RuntimeError("the stage failed") from error


def raise_in_a_cycle():
    """Raises the cause of an error that a library wrapped."""
    try:
        try:
            raise OSError("the disk")
        except OSError as error:
            raise RuntimeError("fatal") from error
    except RuntimeError as error:
        raise error.__cause__ or error from None


def raise_during_handling():
    try:
        raise GateStopped("a gate")
    except GateStopped:
        raise ZeroDivisionError("while tidying up")  # noqa: B904 - as a fault would be


def raise_after_ctrl_c():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        raise RuntimeError("stopped") from error


@pytest.mark.parametrize(
    ("function", "kind", "text"),
    [
        (raise_with_cause, BadInput, "a sentence"),
        (raise_wrapped, BadInput, "a sentence"),
        (raise_in_a_cycle, OSError, "the disk"),
        (raise_during_handling, ZeroDivisionError, "while tidying up"),
        (raise_after_ctrl_c, RuntimeError, "stopped"),
    ],
    ids=lambda value: getattr(value, "__name__", "" if isinstance(value, str) else None),
)
@pytest.mark.timeout(30)
def test_the_error_for_people_comes_first(function, kind, text):
    cause = run_record.failure_cause(catch(function))
    assert (type(cause), str(cause)) == (kind, text)


def test_a_failed_stage_reports_its_own_error():
    failure = ProjectError("a stage")
    failure.__cause__ = catch(raise_in_a_cycle)
    assert run_record.failure_cause(failure) is failure


def test_a_record_is_read_as_it_was_written(tmp_path):
    folder = tmp_path / "runs" / RECORD.run_id
    folder.mkdir(parents=True)
    run_record.write_record(RECORD, folder)
    assert [path.name for path in folder.iterdir()] == ["record.json"]
    assert "NaN" in (folder / "record.json").read_text()
    record = run_record.read_record(folder)
    assert record.metrics is not None
    assert math.isnan(record.metrics.loss or 0)
    assert record.log == str(folder / "log.txt")  # the output folder has moved
    assert record.rebase("/output").to_text() == RECORD.to_text()


def test_a_field_that_an_older_record_lacks_is_none():
    record = run_record.parse_record('{"schema_version": 1, "run_id": "a", "fingerprint": {"inputs": "cd"}}')
    assert record.fingerprint is not None
    assert (record.sequence, record.tuning, record.fingerprint.serving, record.gates) == (None, None, None, ())


@pytest.mark.parametrize("text", ["", "[]", '{"run_id": "a"}', '{"schema_version": 1, "run_id": "a", "verdict": "x"}'])
def test_a_damaged_record_is_refused(text):
    with pytest.raises(ValueError, match=r"Expecting value|schema_version|verdict"):
        run_record.parse_record(text)


def test_a_record_of_a_newer_schema_is_one_sentence(tmp_path):
    folder = tmp_path / "runs" / RECORD.run_id
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(RECORD.to_json() | {"schema_version": 2, "gates": "other"}))
    with pytest.raises(BadInput, match=f"schema version 1, but that of {RECORD.run_id} has 2; use the version"):
        run_record.all_runs(tmp_path)


def test_a_run_has_not_ended_until_it_has_a_verdict():
    assert not RECORD.has_ended
    ended = RECORD.end(Verdict.PUSHED, "every gate passed")
    assert ended.has_ended
    assert ended.sentence == (
        "PUSHED: accuracy 95.00%, baseline 90.00% (version 1), version 2 in /output/serving/mnist/2"
    )
    assert not RECORD.has_ended


@pytest.mark.parametrize(
    ("error", "verdict", "code", "reason"),
    [
        (NotBlessed("the limit"), Verdict.NOT_BLESSED, 3, "the limit"),
        (GateStopped("two\nlines"), Verdict.STOPPED, 3, "two lines"),
        (BadInput("no data"), Verdict.FAILED, 2, "no data"),
        (RuntimeError("a library's"), Verdict.FAILED, 1, "the stage train failed: RuntimeError: a library's"),
    ],
)
def test_the_verdict_of_a_run_that_failed(error, verdict, code, reason, tmp_path):
    stage = TaskRun("train", State.FAILED, 1.234, {}, tmp_path)
    record = run_record.judge(RECORD, [stage], Failure.of(error))
    assert (record.verdict, record.exit_code, record.reason) == (verdict, code, reason)
    assert record.sentence == f"{verdict.display_name}: {reason}"
    assert record.stages == (StageRecord("train", State.FAILED, 1.23),)
    assert RECORD.stages == (StageRecord("ingest", State.CACHED, 0.5),)
