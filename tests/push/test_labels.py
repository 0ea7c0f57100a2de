# SPDX-License-Identifier: Apache-2.0
"""Labels: set, moved, removed, by several at once, and never so that nothing is left in production."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from components.errors import BadInput
from components.push import history, labels, versions
from components.push.serving_dir import open_destination

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    for number in (1, 2, 3):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "saved_model.pb").write_bytes(b"graph")
    return tmp_path


def production(folder: pathlib.Path) -> int | None:
    production = versions.production_version(folder)
    return production and production.number


def test_a_label_is_set_moved_and_removed_and_each_change_is_recorded(folder: pathlib.Path) -> None:
    assert labels.change(folder, 3, "canary")["production"] == [3, 2]
    assert production(folder) == 2
    assert labels.change(folder, 1, "blue")["production"] == [2, 2]
    assert json.loads((folder / "labels.json").read_text()) == {"blue": 1, "canary": 3}
    moved = labels.change(folder, 2, "canary")
    assert (moved["before"], moved["production"]) == (3, [2, 3])
    assert labels.change(folder, 2, "canary", remove=True)["removed"]
    assert versions.read_labels(folder) == {"blue": 1}
    lines = history.read(open_destination(folder))
    assert [(line["action"], line["version"], line["label"], line["removed"]) for line in lines] == [
        ("label", 3, "canary", False), ("label", 1, "blue", False), ("label", 2, "canary", False),
        ("label", 2, "canary", True),
    ]  # fmt: skip
    assert all("@" in line["by"] and line["at"].endswith("+00:00") for line in lines)


@pytest.mark.parametrize(
    ("number", "label", "remove", "message"),
    [
        (9, "canary", False, "9 is none. Available: 1, 2, 3"),
        (1, "no spaces", False, "not 'no spaces'"),
        (1, "../labels", False, "not '../labels'"),
        (1, "blue", True, "no version has it"),
        (2, "green", True, "version 1 has it"),
    ],
)
def test_a_wrong_label_is_refused_and_nothing_changes(
    folder: pathlib.Path, number: int, label: str, remove: bool, message: str
) -> None:
    labels.change(folder, 1, "green")
    before = (folder / "labels.json").read_bytes()
    with pytest.raises(BadInput, match=message):
        labels.change(folder, number, label, remove=remove)
    assert (folder / "labels.json").read_bytes() == before


def test_the_only_version_cannot_be_the_canary(tmp_path: pathlib.Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"graph")
    with pytest.raises(BadInput, match="push another first"):
        labels.change(tmp_path, 1, "canary")
    assert production(tmp_path) == 1


def test_a_label_comes_off_a_version_that_is_gone(folder: pathlib.Path) -> None:
    (folder / "labels.json").write_text('{"old": 8}')
    labels.change(folder, 8, "old", remove=True)
    assert versions.read_labels(folder) == {}


def test_no_change_of_several_at_once_is_lost(folder: pathlib.Path) -> None:
    program = "import sys; from components.push import labels; labels.change(sys.argv[1], 1, sys.argv[2])"
    names = [f"label-{number}" for number in range(8)]
    started = [subprocess.Popen([sys.executable, "-c", program, folder, name], cwd=ROOT) for name in names]
    assert [process.wait() for process in started] == [0] * 8
    assert versions.read_labels(folder) == dict.fromkeys(names, 1)
    assert len(history.read(open_destination(folder))) == 8
