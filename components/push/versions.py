# SPDX-License-Identifier: Apache-2.0
"""The serving folder: numbered versions in TF Serving's layout, and which of them is in production.

    serving/NAME/1/saved_model.pb …             a version; its number never comes again
    serving/NAME/1/assets.extra/provenance.json where it came from, and beside it the statistics and schema of its data
    serving/NAME/labels.json                    {"canary": 3}: labels and the versions that bear them
    serving/NAME/history.jsonl                  who has set labels, gone back to an older model or removed versions

Production is the highest version that is not labelled `canary`. A folder without `saved_model.pb` is no version. A name
with zeros before the number, such as 00000001, is that number, as for TensorFlow Serving, and stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

from components.errors import BadInput
from components.push import destination
from components.push.destination import DestinationLike

CANARY = "canary"
LABELS_FILE = "labels.json"
EXTRA, PROVENANCE_FILE = "assets.extra", "provenance.json"
TRAIN_STATS_FILE, SCHEMA_FILE = "train_stats.pb", "schema.pbtxt"


class Version(NamedTuple):
    """One version: its number, its path or URL, and what its provenance file says (empty where it has none)."""

    number: int
    location: str
    provenance: dict[str, Any]

    @property
    def path(self) -> pathlib.Path:
        """Its folder, where it lies in one."""
        return pathlib.Path(self.location)

    @property
    def dataset(self) -> str:
        """Name of the data set that it was trained on, empty where that is not known."""
        return str(self.provenance.get("dataset", {}).get("name", ""))

    @property
    def accuracy(self) -> float:
        """Test accuracy at the time of its push, -1 where that is not known."""
        return float((self.provenance.get("metrics") or {}).get("accuracy", -1.0))


def all_versions(where: DestinationLike) -> list[Version]:
    """Every complete version, lowest first.

    Args:
        where: the model's folder, here as in the other functions.
    """
    folder = destination.open_destination(where)
    return [find_version(folder, number) for number, complete in sorted(folder.numbers().items()) if complete]


def find_version(where: DestinationLike, number: int) -> Version:
    """One version, which must be there.

    Raises:
        BadInput: its provenance file is damaged.
    """
    folder = destination.open_destination(where)
    return Version(number, folder.location(number), _read_object(folder, f"{EXTRA}/{PROVENANCE_FILE}", number))


def production_version(where: DestinationLike) -> Version | None:
    """The version in production, None without one."""
    folder = destination.open_destination(where)
    number = _production(folder)
    return None if number is None else find_version(folder, number)


def best_version(where: DestinationLike, dataset: str) -> Version | None:
    """The version with the highest recorded accuracy among those trained on that data set, None without one."""
    candidates = [version for version in all_versions(where) if version.dataset == dataset and version.accuracy >= 0]
    return max(candidates, key=lambda version: (version.accuracy, version.number), default=None)


def next_number(where: DestinationLike) -> int:
    """One more than the highest number that any folder or label has, complete or not: numbers only grow.

    Raises:
        BadInput: there is none: a version's number has 63 bits.
    """
    folder = destination.open_destination(where)
    number = max([*folder.numbers(), *read_labels(folder).values(), 0]) + 1
    if number >= 2**63:
        raise BadInput(
            f"the next version has a number above all others, up to {2**63 - 1}, but {folder.url} has {number - 1}; "
            "rename or remove that one"
        )
    return number


def read_labels(where: DestinationLike) -> dict[str, int]:
    """The labels and their versions.

    Raises:
        BadInput: their file is damaged.
    """
    folder = destination.open_destination(where)
    found = _read_object(folder, LABELS_FILE)
    if not all(type(number) is int for number in found.values()):
        raise _damaged(folder, LABELS_FILE, " of labels and version numbers")
    return found


def serving_state(where: DestinationLike) -> str:
    """What is in production, as `VERSION:FINGERPRINT of its files`; empty without a model."""
    folder = destination.open_destination(where)
    number = _production(folder)
    return "" if number is None else f"{number}:{folder.digest(number)}"


def _production(folder: destination.Destination) -> int | None:
    canaries = {number for label, number in read_labels(folder).items() if label == CANARY}
    return max((n for n, complete in folder.numbers().items() if complete and n not in canaries), default=None)


def _read_object(folder: destination.Destination, name: str, version: int | None = None) -> dict[str, Any]:
    """A JSON object beside or in a version, empty where there is no such file."""
    text = folder.read(name, version)
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise _damaged(folder, name, version=version)
    return content


def _damaged(folder: destination.Destination, name: str, what: str = "", version: int | None = None) -> BadInput:
    parent = folder.url if version is None else folder.location(version)
    return BadInput(f"{parent}/{name} must hold a JSON object{what}, and does not: put back a copy, or remove it")


def tree_digest(folder: pathlib.Path) -> str:
    """SHA-256 over the relative path and the bytes of every file below a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()
