# SPDX-License-Identifier: Apache-2.0
"""The serving folder: numbered versions in TF Serving's layout, and which of them is in production.

    serving/NAME/1/saved_model.pb …             a version; its number is never reused
    serving/NAME/1/assets.extra/provenance.json its provenance, beside the statistics and the schema of its data
    serving/NAME/labels.json                    {"canary": 3}: labels and their versions
    serving/NAME/history.jsonl                  the changes that people made: labels, rollbacks, removals

Production is the highest version that is not labelled `canary`. A folder without `saved_model.pb` is no version. A
name with leading zeros, such as 00000001, counts as that number, as for TensorFlow Serving, and is not changed.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

from components.errors import BadInput
from components.push.destination import Destination
from components.push.serving_dir import ServingDir, open_destination

CANARY = "canary"
LABELS_FILE = "labels.json"
EXTRA, PROVENANCE_FILE = "assets.extra", "provenance.json"
TRAIN_STATS_FILE, SCHEMA_FILE = "train_stats.pb", "schema.pbtxt"


class Version(NamedTuple):
    """One version: its number, its path or URL, and the content of its provenance file (empty where it has none)."""

    number: int
    location: str
    provenance: dict[str, Any]

    @property
    def path(self) -> pathlib.Path:
        """Its folder, if the destination is one."""
        return pathlib.Path(self.location)

    @property
    def dataset(self) -> str:
        """Name of the data set that it was trained on, empty if unknown."""
        return str(self.provenance.get("dataset", {}).get("name", ""))

    @property
    def accuracy(self) -> float:
        """Test accuracy at the time of its push, -1 if unknown."""
        return float((self.provenance.get("metrics") or {}).get("accuracy", -1.0))


def all_versions(serving_dir: ServingDir) -> list[Version]:
    """Returns every complete version, lowest first.

    Args:
        serving_dir: the model's folder, here and in the other functions.
    """
    destination = open_destination(serving_dir)
    return [find_version(destination, number) for number, complete in sorted(destination.numbers().items()) if complete]


def find_version(serving_dir: ServingDir, number: int) -> Version:
    """Returns one version, which must exist.

    Raises:
        BadInput: its provenance file is damaged.
    """
    destination = open_destination(serving_dir)
    return Version(
        number, destination.location(number), _read_object(destination, f"{EXTRA}/{PROVENANCE_FILE}", number)
    )


def production_version(serving_dir: ServingDir) -> Version | None:
    """Returns the version in production, None without one."""
    destination = open_destination(serving_dir)
    number = _production(destination)
    return None if number is None else find_version(destination, number)


def best_version(serving_dir: ServingDir, dataset: str) -> Version | None:
    """Returns the version with the highest recorded accuracy among those trained on that data set, None without one."""
    candidates = [
        version for version in all_versions(serving_dir) if version.dataset == dataset and version.accuracy >= 0
    ]
    return max(candidates, key=lambda version: (version.accuracy, version.number), default=None)


def next_number(serving_dir: ServingDir) -> int:
    """Returns one more than the highest number of any folder or label, complete or not: numbers are never reused.

    Raises:
        BadInput: no number is free: a version's number has 63 bits.
    """
    destination = open_destination(serving_dir)
    number = max([*destination.numbers(), *read_labels(destination).values(), 0]) + 1
    if number >= 2**63:
        raise BadInput(
            f"the next version has a number above all others, up to {2**63 - 1}, but {destination.url} has "
            f"{number - 1}; rename or remove that one"
        )
    return number


def read_labels(serving_dir: ServingDir) -> dict[str, int]:
    """Returns the labels and their versions.

    Raises:
        BadInput: their file is damaged.
    """
    destination = open_destination(serving_dir)
    labels = _read_object(destination, LABELS_FILE)
    if not all(type(number) is int for number in labels.values()):
        raise _damaged(destination, LABELS_FILE, " of labels and version numbers")
    return labels


def serving_state(serving_dir: ServingDir) -> str:
    """Returns the state of production, as `VERSION:FINGERPRINT of its files`; empty without a model."""
    destination = open_destination(serving_dir)
    number = _production(destination)
    return "" if number is None else f"{number}:{destination.digest(number)}"


def _production(destination: Destination) -> int | None:
    canaries = {number for label, number in read_labels(destination).items() if label == CANARY}
    return max((n for n, complete in destination.numbers().items() if complete and n not in canaries), default=None)


def _read_object(destination: Destination, name: str, version: int | None = None) -> dict[str, Any]:
    """Reads a JSON object beside or in a version; empty if the file is missing."""
    text = destination.read(name, version)
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise _damaged(destination, name, version=version)
    return content


def _damaged(destination: Destination, name: str, content: str = "", version: int | None = None) -> BadInput:
    parent = destination.url if version is None else destination.location(version)
    return BadInput(f"{parent}/{name} must hold a JSON object{content}, and does not: restore a copy, or remove it")
