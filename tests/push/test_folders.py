# SPDX-License-Identifier: Apache-2.0
"""Serving folders as others made them, on file systems that can do less than the usual ones."""

from __future__ import annotations

import errno
import functools
import itertools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from components.errors import BadInput
from components.push import destination, history, labels, local_folder, publish, rollback, versions
from components.push.serving_dir import ServingDir, open_destination
from pipeline import lineage
from pipeline.local import housekeeping
from pipeline.settings import ModelLocation
from tests import mounts, object_stores

ROOT = pathlib.Path(__file__).parents[2]


def add(folder: pathlib.Path, name: str, accuracy: float = 0.9, complete: bool = True) -> None:
    (folder / name / "assets.extra").mkdir(parents=True)
    (folder / name / "variables").mkdir()
    (folder / name / "variables" / "variables.index").write_text(name)
    provenance = {"run_id": name, "dataset": {"name": "mnist"}, "metrics": {"accuracy": accuracy}}
    (folder / name / "assets.extra" / "provenance.json").write_text(json.dumps(provenance))
    if complete:
        (folder / name / "saved_model.pb").write_text(name)


def push(serving_dir: ServingDir, scratch: pathlib.Path, text: str = "new") -> versions.Version:
    (scratch / text / "variables").mkdir(parents=True)
    (scratch / text / "saved_model.pb").write_text(text)
    (scratch / text / "variables" / "variables.index").write_text(text)
    return publish.publish(scratch / text, serving_dir, {}, lambda number: {"version": number})


@pytest.fixture(scope="module")
def server() -> Iterator[object_stores.S3]:
    with object_stores.running() as running:
        yield running


@pytest.fixture(params=["folder", "store"])
def model(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> destination.Destination:
    """Versions 1, 2 and 3, with zeros before their numbers, and other things beside them."""
    folder = tmp_path / "mnist"
    for name, accuracy in (("00000001", 0.9), ("0002", 0.99), ("3", 0.95)):
        add(folder, name, accuracy)
    for name in ("²", "٣", "-7", "8.0", str(2**63), "latest"):
        add(folder, name)
    if request.param == "folder":
        return open_destination(folder)
    bucket = request.getfixturevalue("server").bucket("models")
    for path in (path for path in folder.rglob("*") if path.is_file()):
        bucket.upload_file(str(path), f"a[b]*c/mnist/{path.relative_to(folder)}")
    return open_destination("s3://models/a[b]*c/mnist")


def test_a_number_with_zeros_is_a_version_and_keeps_its_name(
    model: destination.Destination, tmp_path: pathlib.Path
) -> None:
    all_versions = versions.all_versions(model)
    assert [(version.number, version.location) for version in all_versions] == [
        (1, f"{model.url}/00000001"),
        (2, f"{model.url}/0002"),
        (3, f"{model.url}/3"),
    ]
    assert [version.provenance["run_id"] for version in all_versions] == ["00000001", "0002", "3"]
    labels.change(model, 3, "canary")
    production, best = versions.production_version(model), versions.best_version(model, "mnist")
    assert production is not None
    assert best is not None
    assert (production.number, best.number) == (2, 2)
    state = versions.serving_state(model)
    assert state.partition(":")[0] == "2"
    assert len(state) > 60
    model.fetch(1, tmp_path / "copy")
    assert (tmp_path / "copy" / "variables" / "variables.index").read_text() == "00000001"
    result = lineage.model_lineage(model, tmp_path / "metadata.db", 1)
    assert (result.location, result.card["run_id"]) == (f"{model.url}/00000001", "00000001")
    new = rollback.roll_back(model, rollback.choose(model, 1), None)
    assert (new.number, new.location) == (4, f"{model.url}/4")
    assert model.read("variables/variables.index", 4) == b"00000001"


def test_prune_removes_it_by_its_name(model: destination.Destination, tmp_path: pathlib.Path) -> None:
    result = housekeeping.prune(ModelLocation(tmp_path, model), 1)
    assert result["kept"]["versions"] == {2: "the best ever pushed", 3: "in production"}
    assert result["removed"]["versions"] == [1]
    assert [version.location for version in versions.all_versions(model)] == [f"{model.url}/0002", f"{model.url}/3"]
    assert model.read("saved_model.pb", 1) is None


def test_the_next_number_is_above_all_that_are_taken(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "mnist"
    add(folder, "0007", complete=False)
    (folder / "00012").touch()
    (folder / "15").symlink_to(tmp_path / "nothing")
    assert versions.production_version(folder) is None
    assert versions.next_number(folder) == 16
    assert push(folder, tmp_path).number == 16
    add(folder, str(2**63 - 1), complete=False)
    with pytest.raises(BadInput, match="rename or remove that one"):
        versions.next_number(folder)


def test_a_link_to_a_folder_and_number_0_are_versions(tmp_path: pathlib.Path) -> None:
    add(tmp_path / "elsewhere", "model")
    folder = tmp_path / "mnist"
    add(folder, "0")
    (folder / "001").symlink_to(tmp_path / "elsewhere" / "model")
    assert [version.number for version in versions.all_versions(folder)] == [0, 1]
    open_destination(folder).remove(1)
    assert [version.number for version in versions.all_versions(folder)] == [0]
    assert (tmp_path / "elsewhere" / "model" / "saved_model.pb").is_file()


def test_two_models_of_one_number_are_one_line_and_half_a_model_is_none(
    model: destination.Destination, tmp_path: pathlib.Path
) -> None:
    if not isinstance(model, local_folder.LocalFolder):
        pytest.skip("the rule is the same, and tested on folders")
    add(model.path, "01", complete=False)
    assert versions.all_versions(model)[0].location == f"{model.path}/00000001"
    (model.path / "01" / "saved_model.pb").touch()
    with pytest.raises(BadInput, match=r"00000001 and 01 in .* are both version 1.*remove or rename one") as refused:
        versions.all_versions(model)
    assert "\n" not in str(refused.value)


def test_a_version_that_cannot_be_looked_into_is_one_line(tmp_path: pathlib.Path) -> None:
    add(tmp_path / "mnist", "3")
    (tmp_path / "mnist" / "3").chmod(0o000)
    program = "import sys; from components.push import versions; versions.production_version(sys.argv[1])"
    # Root may look anyway, unless it gives up the capabilities that let it.
    through = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    completed = subprocess.run(
        [*through, sys.executable, "-c", program, tmp_path / "mnist"], cwd=ROOT, capture_output=True, text=True
    )
    (tmp_path / "mnist" / "3").chmod(0o755)
    assert completed.stderr.splitlines()[-1].startswith("components.errors.BadInput: the versions in ")
    assert "permission denied" in completed.stderr.splitlines()[-1]


def no_renaming(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Folders can no longer be renamed, as on an overlay."""
    rename = pathlib.Path.rename

    def only_files(self: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
        if self.is_dir():
            raise OSError(number, os.strerror(number), str(self))
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", only_files)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EBUSY, errno.ENOSYS])
def test_where_folders_cannot_be_renamed_no_half_of_a_version_is_ever_seen(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folder = tmp_path / "mnist"
    add(folder, "1")
    no_renaming(monkeypatch, number)
    snapshots: list[list[int]] = []

    def look() -> None:
        complete = [path for path in folder.glob("[0-9]*") if (path / "saved_model.pb").is_file()]
        assert all((path / "variables" / "variables.index").is_file() for path in complete)
        snapshots.append(sorted(int(path.name) for path in complete))

    def watched(function: Any) -> Any:
        @functools.wraps(function)
        def watching(*arguments: Any, **more: Any) -> Any:
            look()
            result = function(*arguments, **more)
            look()
            return result

        return watching

    for name in ("mkdir", "unlink", "rmdir", "open", "rename"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    assert push(folder, tmp_path).number == 2
    open_destination(folder).remove(1)
    changes = [after for before, after in itertools.pairwise(snapshots) if before != after]
    assert [snapshots[0], *changes] == [[1], [1, 2], [2]]
    assert (folder / "2" / "variables" / "variables.index").read_text() == "new"
    assert sorted(path.name for path in folder.iterdir()) == ["2"]


def test_a_number_that_somebody_else_takes_meanwhile_is_theirs_also_without_renaming(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_renaming(monkeypatch, errno.EXDEV)
    add(tmp_path / "source", "model")
    (tmp_path / "mnist").mkdir()
    with open_destination(tmp_path / "mnist").stage(
        {"saved_model.pb": tmp_path / "source/model/saved_model.pb"}
    ) as staged:
        add(tmp_path / "mnist", "1")
        assert staged.commit(1, {}) is False
    assert (tmp_path / "mnist" / "1" / "saved_model.pb").read_text() == "1"


def test_a_push_without_renaming_that_finds_the_disk_full_leaves_no_version(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_renaming(monkeypatch, errno.EXDEV)

    def full(*arguments: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(OSError, match="No space left"):
        push(tmp_path / "mnist", tmp_path)
    assert list((tmp_path / "mnist").iterdir()) == []


def test_an_overlay_whose_lower_layer_holds_the_versions_is_pruned(tmp_path: pathlib.Path) -> None:
    lower = tmp_path / "lower"
    for number in (1, 2, 3):
        add(lower / "mnist", str(number), accuracy=0.9 + number / 100)
    with mounts.overlay(lower, tmp_path) as output:
        with pytest.raises(OSError, match="Invalid cross-device link"):
            (output / "mnist" / "1").rename(output / "mnist" / "9")
        model = open_destination(output / "mnist")
        result = housekeeping.prune(ModelLocation(output, model), 1)
        assert result["removed"]["versions"] == [1, 2]
        assert result["freed"]["versions"] > 0
        assert sorted(path.name for path in (output / "mnist").iterdir() if not path.name.startswith(".")) == [
            "3", history.HISTORY_FILE
        ]  # fmt: skip
        assert push(model, tmp_path).number == 4
        assert rollback.roll_back(model, rollback.choose(model, 3), None).number == 5


def test_a_version_that_is_a_mount_is_removed(tmp_path: pathlib.Path) -> None:
    add(tmp_path / "elsewhere", "1")
    with mounts.mounted(tmp_path / "mnist" / "1", "--bind", str(tmp_path / "elsewhere" / "1")):
        open_destination(tmp_path / "mnist").remove(1)
        assert list((tmp_path / "mnist" / "1").iterdir()) == []
        assert versions.all_versions(tmp_path / "mnist") == []
        assert versions.next_number(tmp_path / "mnist") == 2


def test_a_folder_that_cannot_be_pushed_to_is_found_out_and_left_as_it_was(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    open_destination(tmp_path / "not" / "yet").probe()
    for name, reason in (("file", "not a directory"), ("file/mnist", "not a directory"), ("link", "leads nowhere")):
        with pytest.raises(BadInput, match=f"the serving folder must be writable.*{reason}.*--serving-dir"):
            open_destination(tmp_path / name).probe()
    with pytest.raises(BadInput, match="takes a path without"):
        open_destination(tmp_path / "b?").probe()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "mount"]
    add(tmp_path / "mount" / "mnist", "1")
    with mounts.read_only(tmp_path / "mount") as folder:
        for name in ("mnist", "new"):
            with pytest.raises(BadInput, match="read-only file system"):
                open_destination(folder / name).probe()
        with pytest.raises(BadInput, match=r"must be writable.*read-only file system"):
            labels.change(folder / "mnist", 1, "blue")


def test_a_store_is_written_to_and_left_as_it_was(server: object_stores.S3) -> None:
    bucket = server.bucket("models")
    store = open_destination("s3://models/mnist")
    store.probe()
    assert list(bucket.objects.all()) == []
    for refused in ("PUT", "DELETE"):

        def refuse(method: str, path: str, refused: str = refused) -> str | None:
            return object_stores.REFUSED if method == refused else None

        server.before = refuse
        with pytest.raises(BadInput, match="access to it is refused"):
            store.probe()
    server.reset()
    server.conditions = False
    with pytest.raises(BadInput, match="If-None-Match"):
        store.probe()
    server.reset()
