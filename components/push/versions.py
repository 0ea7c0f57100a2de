# SPDX-License-Identifier: Apache-2.0
"""The serving folder: numbered versions in TF Serving's layout, and which of them is in production.

    serving/NAME/1/saved_model.pb …             a version; its number never comes again
    serving/NAME/1/assets.extra/provenance.json where it came from, and beside it the statistics and schema of its data
    serving/NAME/labels.json                    {"canary": 3}: labels and the versions that bear them

Production is the highest version that is not labelled `canary`. A folder without `saved_model.pb` is no version.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

CANARY = "canary"
LABELS_FILE = "labels.json"
EXTRA, PROVENANCE_FILE = "assets.extra", "provenance.json"
TRAIN_STATS_FILE, SCHEMA_FILE = "train_stats.pb", "schema.pbtxt"


class Version(NamedTuple):
    """One version: its number, its folder, and what its provenance file says (empty where it has none)."""

    number: int
    path: pathlib.Path
    provenance: dict[str, Any]

    @property
    def dataset(self) -> str:
        """Name of the data set that it was trained on, empty where that is not known."""
        return str(self.provenance.get("dataset", {}).get("name", ""))

    @property
    def accuracy(self) -> float:
        """Test accuracy at the time of its push, -1 where that is not known."""
        return float((self.provenance.get("metrics") or {}).get("accuracy", -1.0))


def all_versions(serving_dir: pathlib.Path) -> list[Version]:
    """Every complete version, lowest first."""
    if not serving_dir.is_dir():
        return []
    folders = [path for path in serving_dir.iterdir() if path.name.isdecimal() and (path / "saved_model.pb").is_file()]
    return sorted(Version(int(path.name), path, _provenance(path)) for path in folders)


def production(serving_dir: pathlib.Path) -> Version | None:
    """The version in production, None without one."""
    canaries = {number for label, number in labels(serving_dir).items() if label == CANARY}
    candidates = [version for version in all_versions(serving_dir) if version.number not in canaries]
    return candidates[-1] if candidates else None


def best(serving_dir: pathlib.Path, dataset: str) -> Version | None:
    """The version with the highest recorded accuracy among those trained on that data set, None without one."""
    candidates = [
        version for version in all_versions(serving_dir) if version.dataset == dataset and version.accuracy >= 0
    ]
    return max(candidates, key=lambda version: (version.accuracy, version.number), default=None)


def next_number(serving_dir: pathlib.Path) -> int:
    """One more than the highest number that any folder or label has, complete or not: numbers only grow."""
    taken = [int(path.name) for path in serving_dir.iterdir() if path.name.isdecimal()] if serving_dir.is_dir() else []
    return max([*taken, *labels(serving_dir).values(), 0]) + 1


def labels(serving_dir: pathlib.Path) -> dict[str, int]:
    """The labels and their versions."""
    path = serving_dir / LABELS_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def tree_digest(folder: pathlib.Path) -> str:
    """SHA-256 over the relative path and the bytes of every file below a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def state(serving_dir: pathlib.Path) -> str:
    """What is in production, as `VERSION:SHA-256 of its files`; empty without a model."""
    version = production(serving_dir)
    return f"{version.number}:{tree_digest(version.path)}" if version else ""


def _provenance(path: pathlib.Path) -> dict[str, Any]:
    file = path / EXTRA / PROVENANCE_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
