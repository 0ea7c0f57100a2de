# SPDX-License-Identifier: Apache-2.0
"""Rollback: which version it goes back to, what is recorded, and what is left of one that is killed."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from components.errors import BadInput, GateStopped
from components.push import destination, history, labels, publish, rollback, versions
from components.push.serving_dir import ServingDir, open_destination
from tests import object_stores

ROOT = pathlib.Path(__file__).parents[2]


def push(folder: ServingDir, source: pathlib.Path, text: str) -> int:
    """Pushes a model that holds the text, which is its digest as well."""
    (source / text).mkdir(exist_ok=True, parents=True)
    (source / text / "saved_model.pb").write_text(text)
    provenance = {
        "run_id": f"run-{text}",
        "pushed_at": f"at-{text}",
        "model": {"sha256": text},
        "metrics": {"accuracy": 0.9},
    }
    return publish.publish(source / text, folder, {}, lambda number: {**provenance, "version": number}).number


@pytest.fixture(scope="module")
def server() -> Iterator[object_stores.S3]:
    with object_stores.running() as running:
        yield running


@pytest.fixture(params=["folder", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> destination.Destination:
    """Versions 1 to 3, of the models a, b and c."""
    if request.param == "store":
        request.getfixturevalue("server").bucket("models")
        destination = open_destination("s3://models/serving/mnist")
    else:
        destination = open_destination(tmp_path / "serving")
    for text in "abc":
        push(destination, tmp_path / "source", text)
    return destination


def files(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_older_model_is_in_production_under_the_next_number(
    folder: destination.Destination, tmp_path: pathlib.Path
) -> None:
    new = rollback.roll_back(folder, rollback.choose(folder, 1), "sevens")
    assert new.number == 4
    assert versions.serving_state(folder).startswith("4:")
    folder.fetch(1, tmp_path / "one")
    folder.fetch(4, tmp_path / "four")
    of_number = {f"assets.extra/{name}" for name in ("provenance.json", "model_card.json", "model_card.md")}
    first, four = files(tmp_path / "one"), files(tmp_path / "four")
    assert first.keys() == four.keys() == {"saved_model.pb", *of_number}
    assert {name for name in first if first[name] != four[name]} == of_number
    details = new.provenance["rollback"]
    assert (details["of"], details["origin"], details["pushed_at"], details["reason"]) == (1, 1, "at-a", "sevens")
    assert details["replaced"] == {"version": 3, "sha256": "c"}
    assert {**new.provenance, "rollback": None, "version": 1, "pushed_at": "at-a"} == {
        **versions.find_version(folder, 1).provenance, "rollback": None
    }  # fmt: skip
    assert json.loads(four["assets.extra/model_card.json"])["rollback"] == details
    [line] = history.read(folder)
    assert line == {**details, "action": "rollback", "version": 4}


def test_without_a_version_it_goes_back_one_and_then_further(folder: destination.Destination) -> None:
    for version, of, model in ((4, 2, "b"), (5, 1, "a")):
        new = rollback.roll_back(folder, rollback.choose(folder, None), None)
        assert (new.number, new.provenance["rollback"]["of"], new.provenance["model"]["sha256"]) == (version, of, model)
    with pytest.raises(BadInput, match="a rollback needs a version before 1"):
        rollback.choose(folder, None)
    # A rollback of a rollback leads to the version that the model was first pushed as.
    push_again = rollback.roll_back(folder, rollback.choose(folder, 4), None)
    assert (push_again.provenance["rollback"]["of"], push_again.provenance["rollback"]["origin"]) == (4, 2)


def test_a_canary_is_passed_over(folder: destination.Destination) -> None:
    labels.change(folder, 2, "canary")
    assert rollback.choose(folder, None).number == 1
    with pytest.raises(BadInput, match="version 2 is the canary"):
        rollback.choose(folder, 2)


def test_what_is_not_there_or_in_production_is_refused(folder: destination.Destination, tmp_path: pathlib.Path) -> None:
    with pytest.raises(BadInput, match=r"7 is none\. Available: 1, 2, 3"):
        rollback.choose(folder, 7)
    with pytest.raises(BadInput, match="is in production already, as version 3"):
        rollback.choose(folder, 3)
    rollback.roll_back(folder, rollback.choose(folder, 1), None)
    with pytest.raises(BadInput, match="version 1 or the same model is in production already, as version 4"):
        rollback.choose(folder, 1)
    with pytest.raises(BadInput, match="there is none in"):
        rollback.choose(tmp_path / "none", None)


def test_a_model_is_withdrawn_until_somebody_puts_it_back(folder: destination.Destination) -> None:
    rollback.roll_back(folder, rollback.choose(folder, 2), None)
    assert {digest: version.number for digest, version in rollback.withdrawn_models(folder).items()} == {"c": 4}
    with pytest.raises(GateStopped, match=r"This very model was version 3, which a rollback by \S+ took out"):
        rollback.refuse_withdrawn(folder, "c")
    rollback.refuse_withdrawn(folder, "a")
    rollback.roll_back(folder, rollback.choose(folder, 3), None)
    assert {digest: version.number for digest, version in rollback.withdrawn_models(folder).items()} == {"b": 5}


def test_a_push_in_between_is_not_undone(
    folder: destination.Destination, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = rollback.choose(folder, 2)
    fetch = type(folder).fetch

    def fetch_late(self: destination.Destination, number: int, to: pathlib.Path) -> None:
        fetch(self, number, to)
        monkeypatch.undo()
        push(folder, tmp_path / "source", "d")

    monkeypatch.setattr(type(folder), "fetch", fetch_late)
    with pytest.raises(GateStopped, match="that was version 3, now it is 4"):
        rollback.roll_back(folder, chosen, None)
    assert [version.number for version in versions.all_versions(folder)] == [1, 2, 3, 4]
    assert history.read(folder) == []


@pytest.mark.parametrize(
    ("module", "moment", "expected"),
    [("local_folder", "_flush", [1, 2]), ("local_folder", "_rename", [1, 2]), ("history", "append", [1, 2, 3])],
)
def test_killed_at_any_moment_it_is_done_or_not_done(
    tmp_path: pathlib.Path, module: str, moment: str, expected: list[int]
) -> None:
    serving = tmp_path / "serving"
    for text in "ab":
        push(serving, tmp_path / "source", text)
    before = files(serving)
    program = (
        "import os, signal, sys\n"
        f"from components.push import {module}, rollback\n"
        f"{module}.{moment} = lambda *_, **more: os.kill(os.getpid(), signal.SIGKILL)\n"
        "rollback.roll_back(sys.argv[1], rollback.choose(sys.argv[1], None), None)\n"
    )
    completed = subprocess.run([sys.executable, "-c", program, serving], cwd=ROOT, check=False)
    assert completed.returncode == -signal.SIGKILL
    assert [version.number for version in versions.all_versions(serving)] == expected
    current = {name: content for name, content in files(serving).items() if not name.startswith((".", "3/"))}
    assert current == before
    if 3 in expected:  # recorded in the version itself
        assert versions.find_version(serving, 3).provenance["rollback"]["of"] == 1
    # Nothing is held or half completed: going back to the other one goes through.
    other = 2 if 3 in expected else 1
    assert rollback.roll_back(serving, rollback.choose(serving, other), None).number == len(expected) + 1
