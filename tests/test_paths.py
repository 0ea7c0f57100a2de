# SPDX-License-Identifier: Apache-2.0
"""The checks of paths, folders and files before any work."""

from __future__ import annotations

import os
import pathlib

import pytest

from components import paths
from components.errors import BadInput
from tests import mounts


def tree(folder: pathlib.Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize("path", ["a\0b", "a\udcffb", "~nobody-of-this-name/x"])
def test_what_no_file_can_be_is_one_line(path: str) -> None:
    with pytest.raises(BadInput, match=r"^output takes a path.*received '") as refused:
        paths.absolute(path, "output")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("path", ["a b/", "a%20b", "a#b", "é", "a'b\"", "-a", "a:b", "a\nb", "./~a", "{a,b}", "a@2"])
def test_odd_names_stay_as_they_are(path: str) -> None:
    result = paths.absolute(path, "output")
    assert result == pathlib.Path(path).absolute()
    paths.refuse_patterns(result, "output")


@pytest.mark.parametrize("name", ["b*", "b?", "b[1]", "b\\1"])
def test_a_pattern_anywhere_in_a_path_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=r"output takes a path without \* \? \[ \\"):
        paths.refuse_patterns(pathlib.Path("/tmp") / name / "output", "output")


def test_a_folder_that_can_be_written_to_is_left_as_it_was(tmp_path: pathlib.Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    assert paths.fault(tmp_path) == paths.fault(tmp_path / "not" / "yet") == ""
    assert (tree(tmp_path), tmp_path.stat().st_mtime_ns) == ([], before)


def test_what_is_in_the_way_of_a_folder_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    assert paths.fault(tmp_path / "file") == f"{tmp_path}/file: not a directory"
    assert paths.fault(tmp_path / "file" / "in" / "it") == f"{tmp_path}/file/in/it: not a directory in {tmp_path}/file"
    assert paths.fault(tmp_path / "link" / "in") == f"{tmp_path}/link: the link leads nowhere"
    assert "file name too long" in paths.fault(tmp_path / ("a" * 300))


def test_a_read_only_mount_is_found_out_also_by_root(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount" / "file").write_text("text")
    with mounts.read_only(tmp_path / "mount") as folder:
        assert paths.fault(folder) == f"{folder}: read-only file system"
        assert paths.fault(folder / "new") == f"{folder}/new: read-only file system in {folder}"
        assert paths.file_fault(folder / "file") == "read-only file system"
        assert "read-only file system" in paths.file_fault(folder / "new")


def test_a_full_disk_counts_where_room_is_needed(tmp_path: pathlib.Path) -> None:
    with mounts.mounted(tmp_path / "full", "-t", "tmpfs", "-o", "size=4k", "tmpfs") as folder:
        (folder / "file").write_bytes(bytes(4096))
        assert paths.fault(folder) == f"{folder}: no space left on device"
        assert paths.fault(folder, room=False) == ""


def test_a_file_keeps_its_content(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "new")
    os.mkfifo(tmp_path / "pipe")  # nobody reads it: opening it would wait
    for name in ("file", "link", "pipe", "new"):
        assert paths.file_fault(tmp_path / name) == ""
    assert paths.file_fault(pathlib.Path("/dev/null")) == ""
    assert (tmp_path / "file").read_text() == "text"
    assert not (tmp_path / "new").exists()
    assert paths.file_fault(tmp_path) == "it is a folder"
    assert paths.file_fault(tmp_path / "none" / "file") == f"{tmp_path}/none is no folder"
    assert paths.file_fault(tmp_path / "file" / "file") == f"{tmp_path}/file is no folder"


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("3", 3),
        ("00000003", 3),
        ("0", 0),
        (str(2**63 - 1), 2**63 - 1),
        *((name, None) for name in (str(2**63), "", "-1", "+1", "1.0", " 1", "1_0", "²", "٣", "one", ".1")),
    ],
)
def test_version_number(name: str, number: int | None) -> None:
    assert paths.version_number(name) == number
