# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed, starved, raced, or find their results spoilt: what was finished is kept, nothing half is."""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata

pytestmark = pytest.mark.slow

WORK = ("--dataset", "digits", "--train-steps", "60")
STAGES = (
    "baseline", "ingest", "statistics", "image-check", "data-check", "data-gate", "transform", "train", "evaluate",
    "infra-check", "push",
)  # fmt: skip
REUSED = {
    "ingest", "statistics", "image-check", "data-check", "transform", "train", "evaluate",
    "infra-check",
}  # fmt: skip


def newest_record(output: pathlib.Path) -> dict[str, Any]:
    records = sorted(output.glob("runs/*/record.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(records[-1].read_text()) if records else {"run_id": None, "stages": []}


def wait_for(output: pathlib.Path, stage: str, process: Any, former: str | None = None) -> None:
    """Waits until a stage of the process's run is running, or is over."""
    while process.poll() is None:
        record = newest_record(output)
        if record["run_id"] != former and stage in [one["name"] for one in record["stages"]]:
            return
        time.sleep(0.001)
    raise AssertionError(process.communicate())


def child_of(process: Any) -> int:
    """The process that does the work."""
    return int(pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def gone(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return "\nState:\tZ" in pathlib.Path(f"/proc/{pid}/status").read_text()
    return True


def states(record: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["state"] for stage in record["stages"]}


def running(record: dict[str, Any]) -> list[str]:
    return [name for name, state in states(record).items() if state == "running"]


def weights(record: dict[str, Any]) -> bytes:
    return pathlib.Path(record["model"]["path"], "variables", "variables.data-00000-of-00001").read_bytes()


def assert_no_orphans(output: pathlib.Path, temporary: str) -> None:
    store = metadata_store.MetadataStore(metadata.sqlite_metadata_connection_config(str(output / "metadata.db")))
    kinds = metadata_store_pb2.Execution
    assert not [one for one in store.get_executions() if one.last_known_state in (kinds.NEW, kinds.RUNNING)]
    known = {pathlib.Path(artifact.uri) for artifact in store.get_artifacts()}
    found = {path for path in output.glob("pipeline_root/*/*/*") if path.parent.name != ".system"}
    assert found <= known
    assert {path.name for path in output.iterdir()} == {
        ".lock", "checkpoints", "metadata.db", "pipeline_root", "runs", "serving",
    }  # fmt: skip
    assert not list((output / "checkpoints").iterdir())
    assert [path.name for path in (output / "serving" / "mnist").iterdir()] == ["1"]
    assert not list(pathlib.Path(temporary).iterdir())


@pytest.fixture(scope="module")
def undisturbed(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    ended = run(*WORK, "--output", tmp_path_factory.mktemp("undisturbed") / "output")
    assert ended.code == 0, ended.stdout + ended.stderr
    return ended


def test_killed_in_every_stage(
    run: Any, start: Any, guard: dict[str, str], undisturbed: Any, tmp_path: pathlib.Path
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
        while not gone(child):  # its parent's end is the worker's too
            time.sleep(0.01)
        record = newest_record(output)
        assert record["verdict"] == "failed"
        killed_in += running(record)
    # A stage of a few milliseconds may be over before it is hit.
    assert {"ingest", "statistics", "image-check", "train", "evaluate", "infra-check"} <= set(killed_in)

    ended = run(*WORK, "--output", output)
    assert ended.code == 0, ended.stdout + ended.stderr
    assert {name for name, state in states(ended.record).items() if state == "cached"} >= REUSED - {"infra-check"}
    assert ended.record["metrics"] == undisturbed.record["metrics"]
    assert weights(ended.record) == weights(undisturbed.record)
    assert_no_orphans(output, guard["TMPDIR"])


def test_spoilt_results_are_not_used_again(run: Any, undisturbed: Any) -> None:
    record = undisturbed.record
    output = pathlib.Path(record["config"]["output"])
    model = next(pathlib.Path(record["artifacts"]["train.model"]).rglob("variables.data-*"))
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    shutil.rmtree(record["artifacts"]["statistics.statistics"])
    again = run(*WORK, "--output", output)
    assert again.record["verdict"] == "unchanged", again.stdout + again.stderr
    found = states(again.record)
    assert found["statistics"] == found["train"] == found["evaluate"] == "done"
    assert found["ingest"] == found["image-check"] == "cached"
    assert again.record["metrics"]["confusion"] == record["metrics"]["confusion"]


def test_a_serving_folder_that_is_gone_is_filled_again(run: Any, undisturbed: Any) -> None:
    output = pathlib.Path(undisturbed.record["config"]["output"])
    shutil.rmtree(output / "serving")
    again = run(*WORK, "--output", output)
    assert again.record["verdict"] == "pushed", again.stdout + again.stderr
    assert states(again.record)["train"] == "cached"
    assert (output / "serving" / "mnist" / "1" / "saved_model.pb").is_file()


def test_a_second_run_is_refused_and_ctrl_c_ends_the_first(run: Any, start: Any, tmp_path: pathlib.Path) -> None:
    output = tmp_path / "output"
    first = start("--dataset", "digits", "--train-steps", "1000000", "--output", output)
    wait_for(output, "train", first)
    second = run(*WORK, "--output", output)
    assert second.code == 2
    assert f"process {child_of(first)} is using {output}" in second.stderr
    first.send_signal(signal.SIGINT)
    stdout, stderr = first.communicate(timeout=60)
    assert first.returncode == 1
    assert stderr == "stopped: finished work is kept, and the same command resumes from it\n", stdout
    record = newest_record(output)
    assert (record["verdict"], record["reason"]) == ("failed", "it was interrupted")
    assert states(record)["transform"] == "done"
    assert not (output / "tmp").exists()


@pytest.mark.parametrize("how", ["killed by the kernel", "refused by the kernel"])
def test_out_of_memory(start: Any, tmp_path: pathlib.Path, how: str) -> None:
    output = tmp_path / "output"
    process = start("--dataset", "digits", "--train-steps", "1000000", "--output", output)
    wait_for(output, "train", process)
    worker = child_of(process)
    if how == "killed by the kernel":
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
    assert not (output / "serving").exists()


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[Any]:
    """Mounts a small file system of its own."""
    mounted = []

    def mount(folder: pathlib.Path, size: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip("needs the right to mount a file system")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_disk_full_while_pushing(run: Any, small_disk: Any, serving_digest: Any, tmp_path: pathlib.Path) -> None:
    output = tmp_path / "output"
    small_disk(output / "serving", "1m")
    first = run("--dataset", "digits", "--model", "linear", "--output", output)
    assert first.code == 0, first.stdout + first.stderr
    before = serving_digest(output / "serving")
    full = run(*WORK, "--output", output)
    assert full.code == 1
    assert "No space left on device" in full.record["reason"]
    assert states(full.record)["push"] == "failed"
    assert serving_digest(output / "serving") == before
    subprocess.run(["mount", "-o", "remount,size=100m", output / "serving"], check=True)
    again = run(*WORK, "--output", output)
    assert again.record["verdict"] == "pushed", again.stdout
    assert states(again.record)["train"] == "cached"


def test_disk_full_while_working(run: Any, small_disk: Any, tmp_path: pathlib.Path) -> None:
    output = tmp_path / "output"
    small_disk(output, "2m")
    full = run(*WORK, "--output", output)
    assert full.code == 1
    assert "No space left on device" in full.stdout
    assert "Traceback" not in full.stdout + full.stderr
    subprocess.run(["mount", "-o", "remount,size=200m", output], check=True)
    again = run(*WORK, "--output", output)
    assert again.record["verdict"] == "pushed", again.stdout


@pytest.mark.parametrize("inner", [".", "runs", "pipeline_root", "serving/mnist"])
def test_a_read_only_folder_is_said_before_any_work(run: Any, tmp_path: pathlib.Path, inner: str) -> None:
    output = tmp_path / "output"
    (output / inner).mkdir(parents=True)
    (output / inner).chmod(0o555)
    # Root may write anyway, unless it gives up the capabilities that let it.
    through = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()
    ended = run(*WORK, "--output", output, through=through)
    assert ended.code == 2
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert str(output / inner) in ended.stderr
    assert not (output / "metadata.db").exists()


def test_metadata_that_another_program_opens_in_the_middle_are_waited_for_and_named(
    run: Any, start: Any, tmp_path: pathlib.Path
) -> None:
    output = tmp_path / "output"
    process = start(*WORK, "--output", output)
    wait_for(output, "train", process)
    with contextlib.closing(sqlite3.connect(output / "metadata.db", isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN EXCLUSIVE")
        stdout, stderr = process.communicate()
        assert process.returncode == 1, stdout + stderr
        [sentence] = [line for line in stdout.splitlines() if line.startswith("FAILED: ")]
        assert f"another one, such as a database browser, has {output / 'metadata.db'} open" in sentence
        assert "remove" not in sentence
        assert "Traceback" not in stdout + stderr
    again = run(*WORK, "--output", output)
    assert again.code == 0, again.stdout + again.stderr
    assert {states(again.record)[name] for name in ("ingest", "statistics", "transform")} == {"cached"}
