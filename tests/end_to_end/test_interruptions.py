# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed, interrupted, or out of memory: finished work stays, half-finished work does not."""

import contextlib
import os
import pathlib
import resource
import signal
import time
from typing import Any

import pytest
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata

from tests.end_to_end.records import newest_record, states, wait_for

pytestmark = pytest.mark.slow

WORK = ("--dataset", "digits", "--train-steps", "200")
# Those that take long enough to be hit, and push: reading, Beam, training, a process of its own, TFMA, publishing.
STAGES = ("ingest", "statistics", "train", "infra-check", "evaluate", "push")
REUSED = {"ingest", "statistics", "image-check", "data-check", "transform", "train", "evaluate"}


def child_of(process: Any) -> int:
    """The process that does the work."""
    return int(pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def has_ended(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return "\nState:\tZ" in pathlib.Path(f"/proc/{pid}/status").read_text()
    return True


def running(record: dict[str, Any]) -> list[str]:
    return [name for name, state in states(record).items() if state == "running"]


def weights(record: dict[str, Any]) -> bytes:
    return pathlib.Path(record["model"]["path"], "variables", "variables.data-00000-of-00001").read_bytes()


def assert_no_orphans(output: pathlib.Path, temporary: str) -> None:
    store = metadata_store.MetadataStore(metadata.sqlite_metadata_connection_config(str(output / "metadata.db")))
    kinds = metadata_store_pb2.Execution
    executions = store.get_executions()
    assert not [row for row in executions if row.last_known_state in (kinds.NEW, kinds.RUNNING)]
    registered = {pathlib.Path(artifact.uri) for artifact in store.get_artifacts()}
    folders = {path for path in output.glob("pipeline_root/*/*/*") if path.parent.name != ".system"}
    assert folders <= registered
    assert {path.name for path in output.iterdir()} == {
        ".lock", "checkpoints", "metadata.db", "pipeline_root", "runs", "serving",
    }  # fmt: skip
    assert not list((output / "checkpoints").iterdir())
    assert [path.name for path in (output / "serving" / "mnist").iterdir()] == ["1"]
    assert not list(pathlib.Path(temporary).iterdir())


def test_killed_in_stage_after_stage(
    run: Any, start: Any, guard: dict[str, str], pushed_run: Any, tmp_path: pathlib.Path
) -> None:
    output = tmp_path / "output"
    killed_in = []
    for stage in STAGES:
        former = newest_record(output)["run_id"]
        before = set(output.glob(f"pipeline_root/{stage}/*/*"))
        process = start(*WORK, "--output", output)
        wait_for(output, stage, process, former)
        # In the middle of it: it has begun to write, or is over already.
        while before == set(output.glob(f"pipeline_root/{stage}/*/*")) and stage in running(newest_record(output)):
            time.sleep(0.001)
        child = child_of(process)
        process.kill()
        process.communicate()
        while not has_ended(child):  # its parent's end is the worker's too
            time.sleep(0.01)
        record = newest_record(output)
        assert record["verdict"] == "failed"
        killed_in += running(record)
    # A push of a few milliseconds may be over before it is hit.
    assert {*STAGES, "image-check"} - {"push"} <= set(killed_in)

    ended = run(*WORK, "--output", output)
    assert ended.code == 0, ended.stdout + ended.stderr
    assert {name for name, state in states(ended.record).items() if state == "cached"} >= REUSED
    assert ended.record["metrics"] == pushed_run.record["metrics"]
    assert weights(ended.record) == weights(pushed_run.record)
    assert_no_orphans(output, guard["TMPDIR"])


def test_a_second_run_is_refused_and_ctrl_c_ends_the_first(
    run: Any, start: Any, copy_output: Any, tmp_path: pathlib.Path
) -> None:
    output = copy_output(tmp_path / "output")
    former = newest_record(output)["run_id"]
    first = start("--dataset", "digits", "--train-steps", "1000000", "--output", output)
    wait_for(output, "train", first, former)
    second = run(*WORK, "--output", output)
    assert second.code == 2
    assert f"process {child_of(first)} is using {output}" in second.stderr
    first.send_signal(signal.SIGINT)
    stdout, stderr = first.communicate(timeout=60)
    assert first.returncode == 1
    assert stderr == "stopped: finished work is kept, and the same command resumes from it\n", stdout
    record = newest_record(output)
    assert (record["verdict"], record["reason"]) == ("failed", "it was interrupted")
    assert states(record)["transform"] == "cached"
    assert not (output / "tmp").exists()


@pytest.mark.parametrize("cause", ["killed by the kernel", "refused by the kernel"])
def test_out_of_memory(start: Any, copy_output: Any, tmp_path: pathlib.Path, cause: str) -> None:
    output = copy_output(tmp_path / "output")
    former = newest_record(output)["run_id"]
    process = start("--dataset", "digits", "--train-steps", "1000000", "--output", output)
    wait_for(output, "train", process, former)
    worker = child_of(process)
    if cause == "killed by the kernel":
        os.kill(worker, signal.SIGKILL)
    else:
        pages = int(pathlib.Path(f"/proc/{worker}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 2**20
        resource.prlimit(worker, resource.RLIMIT_AS, (limit, limit))
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    [sentence] = [line for line in (stdout + stderr).splitlines() if line.startswith("FAILED: ")]
    assert "train" in sentence
    assert "memory" in sentence.lower()
    record = newest_record(output)
    assert record["verdict"] == "failed"
    assert f"FAILED: {record['reason']}" == sentence
    assert [path.name for path in (output / "serving" / "mnist").iterdir()] == ["1"]
