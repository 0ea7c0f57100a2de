# SPDX-License-Identifier: Apache-2.0
"""The target of pushes: the few operations that a folder and an object store have in common.

`versions.py`, above this, defines versions and production; `local_folder.py` and `object_store.py`, below, make each
change at once, so that no server ever loads half of a model.
"""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from components import paths
from components.errors import BadInput

SAVED_MODEL = "saved_model.pb"
# A model that has been staged for so many seconds is left over from a pusher that was killed.
STALE_SECONDS = 24 * 3600


class StagedModel(Protocol):
    """A model at the destination, under a name that no server loads."""

    def commit(self, number: int, files: Mapping[str, bytes]) -> bool:
        """Makes it a version, completely or not at all. Returns False if the number is in use.

        Args:
            number: the version's number.
            files: name in it -> content, of further files, which depend on the number.
        """


class Destination(Protocol):
    """The folder of one model: numbered versions, and labels beside them. Its methods raise BadInput or OSError."""

    @property
    def url(self) -> str:
        """Its path or URL."""

    def location(self, number: int) -> str:
        """Path or URL of a version."""

    def numbers(self) -> dict[int, bool]:
        """Maps every number that is or was in use, as far as is known, to True for a complete version."""

    def digest(self, number: int) -> str:
        """Returns a fingerprint of a version that changes with any byte of its files."""

    def read(self, name: str, version: int | None = None) -> bytes | None:
        """Reads a file by its name below this folder, or below a version's; None if it is missing."""

    def write(self, name: str, data: bytes) -> None:
        """Replaces a file beside the versions in one step."""

    def fetch(self, number: int, folder: pathlib.Path) -> None:
        """Copies the files of a version into a local folder, which is made where it is missing."""

    def remove(self, number: int) -> None:
        """Removes a version; no server sees half of it."""

    def stage(self, files: Mapping[str, pathlib.Path]) -> AbstractContextManager[StagedModel]:
        """Copies the files of a model, by their names in it, to a name that no server loads; removed on exit."""

    def probe(self) -> None:
        """Raises BadInput if no model can be pushed; leaves nothing behind."""

    def recover(self) -> None:
        """Completes a push that was killed after its commit, and removes stale staged models."""


def folder_names(names: Iterable[str], complete: Collection[str], url: str) -> dict[int, str]:
    """Maps numbers to the names of folders, which may begin with zeros: for TensorFlow Serving 00000003 is version 3.

    Args:
        names: of all entries of a model's folder.
        complete: those that hold a complete model.
        url: of the model's folder, for the message.

    Raises:
        BadInput: two complete models have the same number.
    """
    folders: dict[int, str] = {}
    for name in sorted(names):
        number = paths.version_number(name)
        if number is None:
            continue
        other = folders.get(number)
        if other in complete and name in complete:
            raise BadInput(
                f"a version has one folder, but {other} and {name} in {url} are both version {number}, and TensorFlow "
                "Serving may load either; remove or rename one"
            )
        if other is None or name in complete:
            folders[number] = name
    return folders
