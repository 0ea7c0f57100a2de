# SPDX-License-Identifier: Apache-2.0
"""What a batch prediction reads: files by their kind."""

from __future__ import annotations

import dataclasses
import pathlib
import struct

from components.errors import BadInput

_PICTURES = (".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class Items:
    """The files of an input, by kind, each in order of their names.

    Attributes:
        pictures: PNG and JPEG files.
        idx: IDX files of images.
        records: files of TFRecords of tf.Examples.
        others: files that are none of these.
        count: images in all of them, None where that is not known before they are read.
    """

    pictures: tuple[pathlib.Path, ...]
    idx: tuple[pathlib.Path, ...]
    records: tuple[pathlib.Path, ...]
    others: tuple[pathlib.Path, ...]

    @property
    def count(self) -> int | None:
        if self.records or any(path.name.endswith(".gz") for path in self.idx):
            return None
        return len(self.pictures) + sum(_idx_count(path) for path in self.idx)


def find_items(path: pathlib.Path) -> Items:
    """Finds the files of a folder, and of those in it, or takes a single one.

    Raises:
        BadInput: there is nothing there that can be read.
    """
    if path.is_dir():
        files = sorted(found for found in path.rglob("*") if found.is_file() and not found.name.startswith("."))
    elif path.is_file():
        files = [path]
    else:
        raise BadInput(f"INPUT takes a file or folder; {path} does not exist")
    kinds: dict[str, list[pathlib.Path]] = {"pictures": [], "idx": [], "records": [], "others": []}
    for file in files:
        kind = _kind(file)
        if kind:
            kinds[kind].append(file.absolute())
    items = Items(**{kind: tuple(found) for kind, found in kinds.items()})
    if not (items.pictures or items.idx or items.records):
        raise BadInput(f"INPUT takes PNG or JPEG pictures, IDX files (…-idx3-ubyte) or TFRecords; {path} holds none")
    return items


def _kind(path: pathlib.Path) -> str:
    """The kind of a file; empty for the labels that stand beside IDX images."""
    name = path.name.lower()
    if name.endswith(_PICTURES):
        return "pictures"
    if "idx3-ubyte" in name:
        return "idx"
    if "idx1-ubyte" in name:
        return ""
    if ".tfrecord" in name or "tfrecord-" in name:
        return "records"
    return "others"


def _idx_count(path: pathlib.Path) -> int:
    with path.open("rb") as file:
        head = file.read(8)
    return struct.unpack(">I", head[4:])[0] if len(head) == 8 else 0
