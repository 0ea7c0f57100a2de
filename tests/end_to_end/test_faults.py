# SPDX-License-Identifier: Apache-2.0
"""Runs whose disk is full, whose results are spoilt, or whose folders and metadata can't be used."""

import contextlib
import os
import pathlib
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.end_to_end.records import newest_record, states, wait_for

pytestmark = pytest.mark.slow

WORK = ("--dataset", "digits", "--train-steps", "200")


@pytest.fixture(scope="module")
def output(copy_output: Any, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The output folder of a run that has pushed."""
    folder: pathlib.Path = copy_output(tmp_path_factory.mktemp("faults") / "output")
    return folder


def test_spoilt_results_are_not_used_again(run: Any, output: pathlib.Path) -> None:
    record = run(*WORK, "--output", output).record
    model = next(pathlib.Path(record["artifacts"]["train.model"]).rglob("variables.data-*"))
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    shutil.rmtree(record["artifacts"]["statistics.statistics"])
    again = run(*WORK, "--output", output)
    assert again.record["verdict"] == "unchanged", again.stdout + again.stderr
    results = states(again.record)
    assert results["statistics"] == results["train"] == results["evaluate"] == "done"
    assert results["ingest"] == results["image-check"] == "cached"
    assert again.record["metrics"]["confusion"] == record["metrics"]["confusion"]


def test_a_missing_serving_folder_is_filled_again(run: Any, output: pathlib.Path) -> None:
    shutil.rmtree(output / "serving")
    again = run(*WORK, "--output", output)
    assert again.record["verdict"] == "pushed", again.stdout + again.stderr
    assert states(again.record)["train"] == "cached"
    assert (output / "serving" / "mnist" / "1" / "saved_model.pb").is_file()


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[Any]:
    """Mounts a small file system of its own."""
    mounted = []

    def mount(folder: pathlib.Path, size: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        completed = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if completed.returncode:
            pytest.skip("needs the right to mount a file system")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_disk_full_while_pushing(
    run: Any, copy_output: Any, small_disk: Any, serving_digest: Any, tmp_path: pathlib.Path
) -> None:
    output = copy_output(tmp_path / "output")
    serving = (output / "serving").rename(tmp_path / "serving")
    blocks = sum(path.stat().st_size // 4096 + 1 for path in serving.rglob("*"))
    small_disk(output / "serving", f"{4 * blocks + 500}k")  # room for version 1 and half of another
    shutil.copytree(serving, output / "serving", dirs_exist_ok=True)
    before = serving_digest(output / "serving")
    full = run(*WORK, "--seed", "5", "--output", output)
    assert full.code == 1
    assert "No space left on device" in full.record["reason"]
    assert states(full.record)["push"] == "failed"
    assert serving_digest(output / "serving") == before
    subprocess.run(["mount", "-o", "remount,size=100m", output / "serving"], check=True)
    again = run(*WORK, "--seed", "5", "--output", output)
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
def test_a_read_only_folder_is_refused_before_any_work(run: Any, tmp_path: pathlib.Path, inner: str) -> None:
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
    run: Any, start: Any, copy_output: Any, tmp_path: pathlib.Path
) -> None:
    output = copy_output(tmp_path / "output")
    former = newest_record(output)["run_id"]
    process = start(*WORK, "--seed", "5", "--output", output)
    wait_for(output, "train", process, former)
    with contextlib.closing(sqlite3.connect(output / "metadata.db", isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN EXCLUSIVE")
        stdout, stderr = process.communicate()
        assert process.returncode == 1, stdout + stderr
        [sentence] = [line for line in stdout.splitlines() if line.startswith("FAILED: ")]
        assert f"another one, such as a database browser, has {output / 'metadata.db'} open" in sentence
        assert "remove" not in sentence
        assert "Traceback" not in stdout + stderr
    again = run(*WORK, "--seed", "5", "--output", output)
    assert again.code == 0, again.stdout + again.stderr
    assert {states(again.record)[name] for name in ("ingest", "statistics", "transform")} == {"cached"}
