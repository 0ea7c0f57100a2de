# SPDX-License-Identifier: Apache-2.0
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable

import pytest

from pipeline import code_digest


@pytest.fixture
def edit(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Works on a copy of the code; returns a function that adds a line to a file of it."""
    for name in ("components", "pipeline"):
        shutil.copytree(code_digest.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    lock = tmp_path / "requirements/run.lock"
    lock.parent.mkdir()
    shutil.copy(code_digest.LOCK, lock)
    monkeypatch.setattr(code_digest, "ROOT", tmp_path)
    monkeypatch.setattr(code_digest, "LOCK", lock)
    code_digest._mentions.cache_clear()

    def add_line(name: str) -> None:
        with (tmp_path / name).open("a") as file:
            file.write("\n# edited\n")

    return add_line


def digests() -> dict[str, str]:
    return {
        room: code_digest.of_module(f"components.{room}.component") for room in ("ingest", "transform", "train", "push")
    }


@pytest.mark.parametrize(
    ("edited", "rooms"),
    [
        ("components/train/models.py", {"train"}),  # by way of the dotted path of run_fn, then imports
        ("components/transform/preprocessing.py", {"transform"}),  # by its dotted path alone
        ("components/ingest/idx.py", {"ingest"}),
        ("components/push/publish.py", {"push"}),  # imported inside a function
        ("components/features.py", {"ingest", "transform", "train", "push"}),
        ("pipeline/graph.py", set()),
        ("requirements/run.lock", {"ingest", "transform", "train", "push"}),
    ],
)
def test_an_edit_changes_the_digests_of_the_rooms_that_use_the_file(
    edit: Callable[[str], None], edited: str, rooms: set[str]
) -> None:
    before = digests()
    edit(edited)
    after = digests()
    assert {room for room in before if before[room] != after[room]} == rooms


@pytest.mark.parametrize(
    "edited",
    ["pipeline/graph.py", "pipeline/profiles/mnist.toml", "pipeline/profiles/mnist.pbtxt", "requirements/run.lock"],
)
def test_the_whole_project_has_a_digest_of_all_that_a_run_uses(edit: Callable[[str], None], edited: str) -> None:
    before = code_digest.of_project()
    edit(edited)
    assert code_digest.of_project() != before


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_says_whether_files_differ_from_it(edit: Callable[[str], None], tmp_path: pathlib.Path) -> None:
    assert code_digest.provenance()["git_commit"] is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=n@example.com"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*git, *command], check=True)
    commit = code_digest.provenance()["git_commit"] or ""
    assert re.fullmatch("[0-9a-f]{40}", commit)
    edit("pipeline/graph.py")
    assert code_digest.provenance()["git_commit"] == f"{commit}-dirty"
