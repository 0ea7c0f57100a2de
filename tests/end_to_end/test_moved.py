# SPDX-License-Identifier: Apache-2.0
"""An output folder that was copied, moved, or reached by another path; a checkout too; and clocks that disagree."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline import metadata, run_record

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
WORK = ("--dataset", "digits", "--train-steps", "200")
# These look at what is in production, or at a baseline that was not there before.
ANEW = {"data-gate", "push"}


def states(row: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["state"] for stage in row["stages"]}


def uris(output: pathlib.Path) -> set[str]:
    """Returns every path in ML Metadata."""
    store = metadata.connect(output / "metadata.db")
    artifacts = store.get_artifacts()
    paths = {row.custom_properties["path"].string_value for row in artifacts if "path" in row.custom_properties}
    return paths | {row.uri for row in artifacts}


def has_own_paths_only(output: pathlib.Path) -> bool:
    """Says whether these are all in the output folder."""
    return all(pathlib.Path(uri).is_relative_to(output) for uri in uris(output))


def command(module: str, *arguments: str | pathlib.Path) -> str:
    completed = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.fixture(scope="module")
def first(pushed_run: Any) -> Any:
    """The record of a run that has pushed, in Tokyo."""
    return pushed_run.record


@pytest.fixture
def original(first: Any, serving_digest: Any) -> Iterator[pathlib.Path]:
    """Its output folder, which no test may change."""
    output = pathlib.Path(first["config"]["output"])
    before = serving_digest(output)
    yield output
    assert serving_digest(output) == before


@pytest.fixture
def copy(original: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(original, tmp_path / "elsewhere" / "copy")


def test_a_copy_is_known_as_unchanged_and_names_its_own_files(
    run: Any, first: Any, original: pathlib.Path, copy: pathlib.Path
) -> None:
    same = run(*WORK, "--output", copy)
    assert (same.code, same.record["verdict"], same.record["run_id"]) == (0, "unchanged", first["run_id"])
    text = same.stdout + same.stderr + json.dumps(same.record, ensure_ascii=False)
    text += command("pipeline.lineage", "--output", copy) + command("pipeline.lineage", "--output", copy, "--json")
    text += command("pipeline.report", "--output", copy, "--json")
    text += (copy / "runs" / first["run_id"] / "report.html").read_text()
    for file in (copy / "serving").rglob("*"):
        text += file.read_text(errors="replace") if file.is_file() else ""
    assert str(original) not in text.replace("\\u00e4", "ä")  # as JSON has it
    assert str(copy / "serving" / "mnist" / "1") in same.stdout


def test_a_run_in_a_copy_works_with_its_own_files(run: Any, original: pathlib.Path, copy: pathlib.Path) -> None:
    next(copy.glob("runs/*/report.html")).unlink()  # so that it is done again
    explained = run(*WORK, "--output", copy, "--explain").record["stages"]
    again = run(*WORK, "--output", copy)
    assert (again.code, again.record["verdict"]) == (0, "unchanged"), again.stdout
    results = states(again.record)
    assert {row["stage"] for row in explained if row["runs"]} == {name for name in results if results[name] == "done"}
    # There is a baseline now, which the first run did not have.
    assert {name for name, state in results.items() if state != "cached"} == {
        "baseline",
        "data-check",
        "evaluate",
        *ANEW,
    }
    text = again.stdout + again.stderr + json.dumps(again.record, ensure_ascii=False)
    text += (copy / "runs" / again.record["run_id"] / "report.html").read_text()
    assert str(original) not in text
    assert has_own_paths_only(copy)
    assert command("pipeline.report", again.record["run_id"], "--output", copy).startswith(str(copy))
    pruned = run("prune", "--keep", "1", "--output", copy)
    assert pruned.code == 0, pruned.stderr


def test_a_moved_folder_trains_nothing_again_even_with_something_else_at_its_former_place(
    run: Any, copy: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    next(copy.glob("runs/*/report.html")).unlink()
    unchanged = run(*WORK, "--output", copy).record  # now its metadata know this place
    assert unchanged["verdict"] == "unchanged"
    candidate = pathlib.Path(unchanged["candidate"]).relative_to(copy)
    moved = copy.rename(tmp_path / "moved")
    other = copy / candidate
    other.mkdir(parents=True)
    (other / "somebody's").write_text("own")
    assert run(*WORK, "--output", moved).record["model"]["path"] == str(moved / "serving" / "mnist" / "1")
    (moved / "runs" / run_record.newest_record(moved).run_id / "report.html").unlink()  # type: ignore[union-attr]
    again = run(*WORK, "--output", moved)
    assert {name for name, state in states(again.record).items() if state != "cached"} == ANEW
    linked = tmp_path / "link"
    linked.symlink_to(moved)
    by_link = run(*WORK, "--output", linked)
    assert by_link.record["run_id"] == again.record["run_id"]
    assert by_link.record["candidate"] == str(linked / candidate)
    assert run("prune", "--keep", "1", "--output", moved).code == 0
    assert [path.name for path in copy.rglob("*") if path.is_file()] == ["somebody's"]


@pytest.mark.parametrize("lost", ["serving", "metadata.db", "pipeline_root"])
def test_a_part_that_was_not_copied_is_made_anew(
    run: Any, original: pathlib.Path, copy: pathlib.Path, lost: str
) -> None:
    path = copy / lost
    path.unlink() if path.is_file() else shutil.rmtree(path)
    again = run(*WORK, "--output", copy)
    assert again.code == 0, again.stdout + again.stderr
    assert str(original) not in again.stdout + json.dumps(again.record, ensure_ascii=False)
    assert (states(again.record)["train"] == "cached") is (lost == "serving")
    assert (again.record["verdict"] == "pushed") is (lost == "serving")
    assert lost == "metadata.db" or has_own_paths_only(
        copy
    )  # without them the record still says that nothing has changed


def test_a_moved_checkout_and_moved_data_change_nothing(
    run: Any, first: Any, copy: pathlib.Path, checkout: pathlib.Path, guard: dict[str, str], tmp_path: pathlib.Path
) -> None:
    same = run(*WORK, "--output", copy, root=checkout)
    [digits] = pathlib.Path(guard["HOME"]).rglob("digits")
    data = shutil.copytree(digits, tmp_path / "data")
    assert same.record["run_id"] == first["run_id"]
    by_folder = run(*WORK, "--data-dir", digits, "--output", copy)
    moved = run(*WORK, "--data-dir", data, "--output", copy, root=checkout)
    assert moved.record["run_id"] == by_folder.record["run_id"]


def test_the_newest_run_is_the_last_one_whatever_its_clock_said(
    run: Any, first: Any, copy: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A former record named by a zone that was ahead, and one from before the clock was set back, come before."""
    for name, change in (("20991231-235959-aaaa", {"sequence": None}), ("20991231-235959-bbbb", {"sequence": 1})):
        folder = shutil.copytree(copy / "runs" / first["run_id"], copy / "runs" / name)
        row = json.loads((folder / "record.json").read_text())
        row["fingerprint"]["inputs"] = "others"
        (folder / "record.json").write_text(json.dumps(row | {"run_id": name} | change))
    path = copy / "runs" / first["run_id"] / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sequence": 2}))
    same = run(*WORK, "--output", copy, through=("env", "TZ=America/New_York"))
    assert same.record["run_id"] == first["run_id"]
    assert [line.split()[0][-4:] for line in command("pipeline.report", "--output", copy).splitlines()] == [
        "aaaa", "bbbb", first["run_id"][-4:],
    ]  # fmt: skip
    stopped = run(*WORK, "--train-steps", "5", "--output", copy, through=("env", "TZ=America/New_York"))
    assert (stopped.code, stopped.record["sequence"]) == (3, 3)
    assert stopped.record["created_at"].endswith("+00:00")
    assert stopped.record["run_id"].startswith(stopped.record["created_at"][:10].replace("-", ""))
    repeated = run(*WORK, "--train-steps", "5", "--output", copy, through=("env", "TZ=Asia/Tokyo"))
    assert repeated.record["run_id"] == stopped.record["run_id"]
    pruned = run("prune", "--keep", "1", "--output", copy)
    assert pruned.record["kept"]["runs"] == [first["run_id"], stopped.record["run_id"]]
