# SPDX-License-Identifier: Apache-2.0
"""Real runs, and then: where their models came from, going back to the first, removing what nobody needs."""

from __future__ import annotations

import fcntl
import json
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import Any

import pytest
from ml_metadata.proto import metadata_store_pb2

from components.push import versions
from pipeline import metadata

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
FIRST = ("--dataset", "digits", "--train-steps", "200")
SECOND = (*FIRST, "--seed", "2")


@pytest.fixture(scope="module")
def output(copy_output: Any, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder: pathlib.Path = copy_output(tmp_path_factory.mktemp("housekeeping") / "output")
    return folder


@pytest.fixture(scope="module")
def pushed(run: Any, output: pathlib.Path) -> Any:
    """The records of two runs, each of which has pushed a version."""
    records = [run(*arguments, "--output", output).record for arguments in (FIRST, SECOND)]
    assert [record["verdict"] for record in records] == ["unchanged", "pushed"]
    return records


@pytest.fixture
def copy(pushed: Any, output: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(output, tmp_path / "copy")


def lineage(*arguments: str | pathlib.Path) -> Any:
    completed = subprocess.run(
        [sys.executable, "-m", "pipeline.lineage", *map(str, arguments), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)


def folders(output: pathlib.Path) -> set[str]:
    """Returns the folders of artifacts."""
    root = output / "pipeline_root"
    return {str(path.relative_to(root)) for path in root.glob("*/*/*") if path.parent.name != ".system"}


def test_metadata_know_all_of_a_pushed_version(pushed: Any, output: pathlib.Path) -> None:
    report = lineage("2", "--output", output)
    record = pushed[1]
    assert (report["source"], report["note"], report["production"]) == ("ML Metadata", None, True)
    assert (report["run_id"], report["location"]) == (record["run_id"], record["model"]["path"])
    assert report["data"]["sha256"] == record["dataset"]["sha256"]
    assert len(report["data"]["files"]) == 4
    assert sum(report["data"]["splits"].values()) == report["data"]["images"] == 1797
    assert report["config"]["training"]["seed"] == 2
    assert report["metrics"] == record["metrics"]
    assert report["baseline"]["version"] == 1
    assert report["gates"] == [gate for gate in record["gates"] if gate["name"] != "data"]
    assert report["findings"] == record["findings"]
    assert all(
        (
            report["code"]["sha256"],
            report["dependencies"]["lock_sha256"],
            report["schema"]["sha256"],
            report["pushed_at"],
        )
    )
    steps = {step["stage"]: step for step in report["steps"]}
    assert list(steps)[-1] == "push"
    assert steps["train"]["run_id"] == record["run_id"]
    assert steps["ingest"]["run_id"] == pushed[0]["run_id"]  # it was reused
    assert steps["train"]["outputs"]["model"] == record["candidate"]
    beside = json.loads((pathlib.Path(record["model"]["path"]) / "assets.extra" / "model_card.json").read_text())
    assert {key: report[key] for key in beside} == beside


def test_two_versions_differ_in_what_was_changed(pushed: Any, output: pathlib.Path) -> None:
    comparison = lineage("--compare", "1", "2", "--output", output)
    assert {"data", "schema", "code", "dependencies"} <= set(comparison["same"])
    assert {"name": "config.training.seed", "a": 1, "b": 2} in comparison["differences"]
    assert {row["name"] for row in comparison["differences"] if row["name"].startswith("config.")} == {
        "config.training.seed"
    }


@pytest.mark.parametrize("lost", ["removed", "damaged"])
def test_without_metadata_what_lies_beside_the_model_answers(
    copy: pathlib.Path, output: pathlib.Path, lost: str
) -> None:
    before = lineage("1", "--output", copy)
    if lost == "removed":
        (copy / "metadata.db").unlink()
    else:
        (copy / "metadata.db").write_bytes(b"no database" * 1000)
    after = lineage("1", "--output", copy)
    assert after["source"] == "provenance.json"
    assert str(copy / "metadata.db") in after["note"]
    assert after["steps"] == []
    same = before.keys() - {"source", "note", "steps"}
    assert {key: after[key] for key in same} == {key: before[key] for key in same}


def test_a_version_that_was_removed_is_still_known(copy: pathlib.Path) -> None:
    shutil.rmtree(copy / "serving" / "mnist" / "1")
    report = lineage("1", "--output", copy)
    assert (report["location"], report["source"], report["config"]["training"]["seed"]) == (None, "ML Metadata", 1)


def test_nothing_is_removed_while_a_run_is_going_on(run: Any, copy: pathlib.Path, serving_digest: Any) -> None:
    before = serving_digest(copy)
    with (copy / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = run("prune", "--keep", "1", "--output", copy)
    assert refused.code == 2
    assert "is using" in refused.stderr
    assert serving_digest(copy) == before


def test_pruning_that_is_killed_is_finished_by_the_next(run: Any, copy: pathlib.Path, tmp_path: pathlib.Path) -> None:
    undisturbed = shutil.copytree(copy, tmp_path / "undisturbed")
    pruned = run("prune", "--keep", "1", "--output", undisturbed).record
    assert pruned["removed"]["artifacts"] > 0
    program = (
        "import os, shutil, signal, sys\n"
        "shutil.rmtree = lambda *_, **more: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from pipeline.local import commands\n"
        "commands.main(['prune', '--keep', '1', '--output', sys.argv[1]])\n"
    )
    # A version is removed by a rename first; killed in there, it is gone for servers.
    killed = subprocess.run([sys.executable, "-c", program, copy], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert run("prune", "--keep", "1", "--output", copy).code == 0
    assert folders(copy) == folders(undisturbed)
    # No result of before is offered to a run without its files.
    artifacts = [
        row for row in metadata.connect(copy / "metadata.db").get_artifacts() if metadata.artifact_path(row.uri)
    ]
    live = {metadata.artifact_path(row.uri) for row in artifacts if row.state == metadata_store_pb2.Artifact.LIVE}
    assert live == folders(copy)
    assert [version.number for version in versions.all_versions(copy / "serving" / "mnist")] == [2]


def test_after_a_rollback_the_same_model_does_not_come_back_by_itself(
    run: Any, pushed: Any, output: pathlib.Path, serving_digest: Any
) -> None:
    back = run("rollback", "--output", output, "--reason", "it confuses sevens")
    assert (back.code, back.record["version"], back.record["of"]) == (0, 3, 1)
    assert "In production now: version 3, which is version 1 again" in back.stdout
    report = lineage("--output", output)
    assert (report["version"], report["source"], report["model"]) == (
        3,
        "ML Metadata",
        lineage("1", "--output", output)["model"],
    )
    assert report["rollback"]["reason"] == "it confuses sevens"
    assert [step["stage"] for step in report["steps"]][-2:] == ["push", "rollback"]
    before = serving_digest(output / "serving")
    again = run(*SECOND, "--output", output)
    assert (again.code, again.record["verdict"]) == (3, "stopped")
    assert "This very model was version 2" in again.record["reason"]
    repeated = run(*SECOND, "--output", output)
    assert (repeated.code, repeated.record["run_id"]) == (3, again.record["run_id"])
    first = run(*FIRST, "--output", output)
    assert (first.code, first.record["verdict"]) == (0, "unchanged")
    assert serving_digest(output / "serving") == before


def test_pruning_keeps_production_and_what_made_it(run: Any, pushed: Any, output: pathlib.Path) -> None:
    stale, fresh = output / "checkpoints" / "stale", output / "checkpoints" / "fresh"
    for folder in (stale, fresh):
        folder.mkdir(parents=True)
    # The oldest run that stays found the one, and no run has gone on from it since.
    path = output / "runs" / pushed[0]["run_id"] / "record.json"
    row = json.loads(path.read_text())
    row["fingerprint"]["checkpoints"] = {"stale": stale.stat().st_mtime_ns}
    path.write_text(json.dumps(row))
    labelled = run("label", "2", "blue", "--output", output)
    assert labelled.code == 0
    production = versions.serving_state(output / "serving" / "mnist")
    pruned = run("prune", "--keep", "1", "--output", output)
    assert pruned.code == 0, pruned.stderr
    result = pruned.record
    assert result["kept"]["versions"]["3"] == "in production"
    assert result["kept"]["versions"]["2"] in ("blue", "the best ever pushed")
    assert result["freed"]["total"] > 0
    assert "Freed " in pruned.stdout
    assert set(result["kept"]["runs"]) >= {record["run_id"] for record in pushed}
    assert len(result["removed"]["runs"]) == 1  # the one that was stopped
    assert not stale.exists()
    assert fresh.exists()
    assert versions.serving_state(output / "serving" / "mnist") == production
    unlabelled = run("label", "2", "blue", "--remove", "--output", output)
    assert unlabelled.code == 0


def test_after_pruning_a_run_makes_anew_what_is_gone(run: Any, pushed: Any, output: pathlib.Path) -> None:
    best = versions.best_version(output / "serving" / "mnist", "digits")
    assert best is not None
    if best.number == 2:  # it would stay as the best one: another than the best is to go
        shutil.rmtree(output / "serving" / "mnist" / "2")
    pruned = run("prune", "--keep", "1", "--output", output).record
    assert pushed[1]["run_id"] in pruned["removed"]["runs"]
    assert not pathlib.Path(pushed[1]["candidate"]).exists()
    assert pathlib.Path(pushed[0]["candidate"]).exists()
    assert lineage("2", "--output", output)["config"]["training"]["seed"] == 2  # metadata know it still
    first = run(*FIRST, "--output", output)
    assert (first.code, first.record["verdict"]) == (0, "unchanged")
    assert all(pathlib.Path(folder).is_dir() for folder in first.record["artifacts"].values())
    again = run(*SECOND, "--output", output)
    states = {stage["name"]: stage["state"] for stage in again.record["stages"]}
    assert (states["ingest"], states["train"]) == ("cached", "done")
    assert (again.code, again.record["verdict"]) == (3, "stopped")  # the rollback is not forgotten
