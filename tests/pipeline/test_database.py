# SPDX-License-Identifier: Apache-2.0
"""Every command with a metadata file that is in use, of another release, damaged, or not a file."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from ml_metadata import errors
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata as tfx_metadata

import runner_local
from components.errors import ProjectError
from pipeline import database, lineage, metadata
from pipeline.cli import BLOCKED, OK
from pipeline.local import commands, doctor, nodes

ROOT = pathlib.Path(__file__).parents[2]
# A program that opens a transaction and does not end it.
HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN " + sys.argv[2])
connection.execute("SELECT * FROM MLMDEnv").fetchall()
if len(sys.argv) > 3:
    connection.execute("PRAGMA cache_size = 1")
    for statement in ("UPDATE Type SET name = name || 'x'", "CREATE TABLE more AS SELECT * FROM Type"):
        connection.execute(statement)
print("open", flush=True)
sys.stdin.read()
"""
BUSY = "one program at a time may use the metadata, and another one, such as a database browser, has"


@pytest.fixture
def output(tmp_path: pathlib.Path) -> pathlib.Path:
    """An output folder with metadata that ML Metadata wrote, and a pushed version."""
    file = tmp_path / "output" / "metadata.db"
    version = tmp_path / "output" / "serving" / "mnist" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").touch()
    metadata_store.MetadataStore(tfx_metadata.sqlite_metadata_connection_config(str(file)))
    return file.parent


@contextlib.contextmanager
def hold(file: pathlib.Path, mode: str) -> Iterator[None]:
    """Has another program open the file, in a transaction of this mode."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, file, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield
        process.communicate()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(database, "RUN_PATIENCE_SECONDS", 0.0)


def rewrite(file: pathlib.Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)


def test_the_version_is_that_of_the_locked_release(output: pathlib.Path) -> None:
    with contextlib.closing(sqlite3.connect(output / "metadata.db")) as connection:
        assert connection.execute("SELECT schema_version FROM MLMDEnv").fetchall() == [(database.SCHEMA_VERSION,)]


@pytest.mark.parametrize("mode", ["EXCLUSIVE", "IMMEDIATE", "DEFERRED"])
def test_another_programs_transaction_is_named(output: pathlib.Path, mode: str) -> None:
    file = output / "metadata.db"
    with hold(file, mode):
        with pytest.raises(database.DatabaseUnavailable, match=BUSY) as caught:
            database.check(file)
        assert "remove" not in str(caught.value)
        if mode != "EXCLUSIVE":
            database.check(file, write=False)
    database.check(file)


def test_during_a_run_it_is_one_line_and_not_bad_input(output: pathlib.Path) -> None:
    connection = nodes._Connection(tfx_metadata.sqlite_metadata_connection_config(str(output / "metadata.db")))
    with hold(output / "metadata.db", "EXCLUSIVE"), pytest.raises(ProjectError, match=BUSY) as caught, connection:
        pass
    assert caught.value.exit_code == 1
    with connection as handle:
        assert handle.store.get_artifacts() == []
    with pytest.raises(ProjectError, match=BUSY), connection:
        # The error of ML Metadata after a wait of their own.
        raise errors.AbortedError("Concurrent writes aborted after max number of retries.")
    with connection as handle, connection as same:
        assert same.store.get_artifacts() == handle.store.get_artifacts() == []


def _other_version(file: pathlib.Path) -> None:
    rewrite(file, "UPDATE MLMDEnv SET schema_version = 11")


def _older_version(file: pathlib.Path) -> None:
    rewrite(file, "UPDATE MLMDEnv SET schema_version = 7")


def _other_program(file: pathlib.Path) -> None:
    file.unlink()
    rewrite(file, "CREATE TABLE bookmarks (url TEXT)")


def _no_database(file: pathlib.Path) -> None:
    file.write_bytes(b"no database" * 1000)


def _damaged_page(file: pathlib.Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096 : 2 * 4096] = b"\xff" * 4096
    file.write_bytes(content)


def _folder(file: pathlib.Path) -> None:
    file.unlink()
    file.mkdir()


FAULTS: dict[Callable[[pathlib.Path], None], str] = {
    _other_version: "must have the schema version 10 of ML Metadata, but .* has 11, that of a newer release",
    _older_version: "must have the schema version 10 of ML Metadata, but .* has 7, that of an older release",
    _other_program: "is another program's, with the table bookmarks; move it away",
    _no_database: "must be a sound SQLite database, but .*; put back a copy, or remove it",
    _damaged_page: "must be a sound SQLite database, but .*; put back a copy, or remove it",
    _folder: "the metadata must be a file, but .* is something else|metadata.db: it is a folder",
}


def _run(*arguments: str) -> int:
    return runner_local.main(["--dataset", "digits", *arguments])


COMMANDS: dict[str, Callable[[str], int]] = {
    "run": lambda output: _run("--output", output),
    "--explain": lambda output: _run("--explain", "--output", output),
    "prune": lambda output: commands.main(["prune", "--keep", "1", "--output", output]),
    "rollback": lambda output: commands.main(["rollback", "1", "--output", output]),
    "lineage": lambda output: lineage.main(["--output", output]),
}


@pytest.mark.parametrize("command", ["run", "--explain"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_names_the_fault_before_any_work(
    output: pathlib.Path, capfd: pytest.CaptureFixture[str], command: str, fault: Callable[[pathlib.Path], None]
) -> None:
    fault(output / "metadata.db")
    assert COMMANDS[command](str(output)) == 2
    message = capfd.readouterr().err
    assert message.startswith(("error: the metadata ", "error: the output folder must be writable, but "))
    assert message.count("\n") == 1
    assert re.search(FAULTS[fault], message)
    assert not (output / "runs").exists()


@pytest.mark.parametrize("command", ["run", "--explain", "prune"])
def test_no_message_suggests_removing_a_file_in_use(
    output: pathlib.Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    (output / "pipeline_root" / "train" / "model" / "1").mkdir(parents=True)
    with hold(output / "metadata.db", "EXCLUSIVE"):
        assert COMMANDS[command](str(output)) == 2
    message = capfd.readouterr().err
    assert message.startswith(f"error: {BUSY} {output / 'metadata.db'} open; close it, and run")
    assert (message.count("\n"), "remove" in message) == (1, False)
    assert (output / "pipeline_root" / "train" / "model" / "1").is_dir()


@pytest.mark.parametrize("fault", [*FAULTS, None])
def test_lineage_falls_back_to_the_provenance_and_gives_the_reason(
    output: pathlib.Path, capfd: pytest.CaptureFixture[str], fault: Callable[[pathlib.Path], None] | None
) -> None:
    if fault:
        fault(output / "metadata.db")
        assert COMMANDS["lineage"](str(output)) == 0
    else:
        with hold(output / "metadata.db", "EXCLUSIVE"):
            assert COMMANDS["lineage"](str(output)) == 0
    message = " ".join(capfd.readouterr().out.split())
    assert "The facts are from provenance.json instead." in message
    assert (BUSY.replace("one", "One", 1) in message) == (fault is None)


def test_a_lock_that_comes_later_is_no_traceback_either(output: pathlib.Path) -> None:
    with pytest.raises(metadata.MetadataError, match=BUSY.replace("one", "One", 1)), metadata.translate_errors(output):
        raise errors.AbortedError("Concurrent writes aborted after max number of retries.")


@pytest.mark.parametrize("fault", [_other_version, _older_version])
def test_prune_removes_nothing_with_metadata_of_another_release(
    output: pathlib.Path, capfd: pytest.CaptureFixture[str], fault: Callable[[pathlib.Path], None]
) -> None:
    fault(output / "metadata.db")
    (output / "pipeline_root" / "train" / "model" / "1").mkdir(parents=True)
    assert COMMANDS["prune"](str(output)) == 2
    assert "schema version" in capfd.readouterr().err
    assert (output / "pipeline_root" / "train" / "model" / "1").is_dir()


def test_a_rollback_succeeds_and_reports_that_it_was_not_recorded(
    output: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    second = output / "serving" / "mnist" / "2"
    second.mkdir()
    (second / "saved_model.pb").write_bytes(b"another")
    with hold(output / "metadata.db", "EXCLUSIVE"):
        assert COMMANDS["rollback"](str(output)) == 0
    assert BUSY.replace("one", "One", 1) in capfd.readouterr().out
    assert (output / "serving" / "mnist" / "3" / "saved_model.pb").read_bytes() == b""


def test_unfinished_work_of_a_killed_process_is_rolled_back(output: pathlib.Path) -> None:
    file = output / "metadata.db"
    before = file.read_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, file, "IMMEDIATE", "write"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert file.with_name("metadata.db-journal").stat().st_size
    assert file.read_bytes() != before
    database.check(file)
    assert file.read_bytes() == before


def test_an_empty_file_and_one_in_wal_mode_are_fine(output: pathlib.Path) -> None:
    file = output / "metadata.db"
    rewrite(file, "PRAGMA journal_mode = WAL")
    database.check(file)
    with hold(file, "DEFERRED"):
        database.check(file)  # there, readers do not keep writers away
    file.write_bytes(b"")
    database.check(file)


@pytest.mark.parametrize("mode", [0o000, 0o200])
def test_a_file_that_may_not_be_read_is_not_called_damaged(output: pathlib.Path, mode: int) -> None:
    (output / "metadata.db").chmod(mode)
    program = "import pathlib, sys; from pipeline import database; database.check(pathlib.Path(sys.argv[1]))"
    through = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    process = subprocess.run(
        [*through, sys.executable, "-c", program, output / "metadata.db"], capture_output=True, text=True, cwd=ROOT
    )
    assert "DatabaseUnavailable: the metadata must be readable and writable" in process.stderr.splitlines()[-1]
    assert "remove" not in process.stderr.splitlines()[-1]


def test_a_full_disk_is_no_damage() -> None:
    error = database.refusal(pathlib.Path("metadata.db"), "INTERNAL: database or disk is full")
    assert isinstance(error, database.DatabaseUnavailable)
    assert "look at its rights and its disk" in str(error)


def test_the_doctor_reports_it(output: pathlib.Path) -> None:
    assert doctor._metadata(output).state == OK
    with hold(output / "metadata.db", "EXCLUSIVE"):
        check = doctor._metadata(output)
    assert (check.state, check.result.startswith(BUSY)) == (BLOCKED, True)
    assert check.advice.startswith("close it, and run")
    _other_version(output / "metadata.db")
    check = doctor._metadata(output)
    assert (check.state, check.advice) == (BLOCKED, "use that release, or name another --output")


def test_relocation_distinguishes_nested_folders(tmp_path: pathlib.Path) -> None:
    store = metadata_store.MetadataStore(tfx_metadata.sqlite_metadata_connection_config(str(tmp_path / "metadata.db")))
    kind = store.put_artifact_type(metadata_store_pb2.ArtifactType(name="PushedModel"), can_add_fields=True)
    for root in ("/data", "/data/inner"):
        artifact = metadata_store_pb2.Artifact(type_id=kind, uri=f"{root}/pipeline_root/push/pushed_model/1")
        artifact.custom_properties["path"].string_value = f"{root}/serving/mnist/1"
        store.put_artifacts([artifact])
    for output in ("/data/inner", "/data", "/data"):
        metadata.relocate(store, pathlib.Path(output))
        for artifact in store.get_artifacts():
            assert artifact.uri == f"{output}/pipeline_root/push/pushed_model/1"
            assert artifact.custom_properties["path"].string_value == f"{output}/serving/mnist/1"


def test_a_lock_between_the_wait_and_the_opening_is_not_tried_ten_times(
    output: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def refuse(config: object) -> None:
        attempts.append(config)
        raise RuntimeError("Concurrent writes aborted after max number of retries.")  # after half a minute

    monkeypatch.setattr(metadata_store, "MetadataStore", refuse)
    connection = nodes._Connection(tfx_metadata.sqlite_metadata_connection_config(str(output / "metadata.db")))
    with pytest.raises(ProjectError, match=BUSY), connection:
        pass
    assert len(attempts) == 1
