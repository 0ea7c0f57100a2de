# SPDX-License-Identifier: Apache-2.0
"""Where models are pushed to: the few operations that a folder and an object store have in common.

What a version is, and which one is in production, is decided above this (`versions.py`); how a model gets there without
anybody seeing half of it, below (`local_folder.py`, `object_store.py`).
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

from components import paths, storage
from components.errors import BadInput

SAVED_MODEL = "saved_model.pb"
# After this many seconds, what a pusher has staged and not made a version is taken for that of one that was killed.
STALE_SECONDS = 24 * 3600


class Staged(Protocol):
    """A model that lies at the destination where no server looks."""

    def become(self, number: int, files: Mapping[str, bytes]) -> bool:
        """Makes it a version, whole or not at all. False where somebody else has taken the number.

        Args:
            number: the version's number.
            files: name in it -> content, of the files that tell of the number.
        """


class Destination(Protocol):
    """The folder of one model: numbered versions, and labels beside them. Its methods raise BadInput or OSError."""

    @property
    def url(self) -> str:
        """Its path or URL."""

    def location(self, number: int) -> str:
        """Path or URL of a version."""

    def numbers(self) -> dict[int, bool]:
        """Every number that was ever taken, as far as that is known, and whether it is a complete version."""

    def digest(self, number: int) -> str:
        """A fingerprint of a version that changes with any byte of its files."""

    def read(self, name: str, version: int | None = None) -> bytes | None:
        """A file by its name below this folder, or below a version's; None where there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Replaces a file beside the versions as a whole."""

    def fetch(self, number: int, folder: pathlib.Path) -> None:
        """Copies the files of a version into a local folder, which is made where it is missing."""

    def remove(self, number: int) -> None:
        """Removes a version, which nobody sees half of."""

    def staged(self, files: Mapping[str, pathlib.Path]) -> AbstractContextManager[Staged]:
        """Brings the files of a model, by their names in it, to where no server looks; removed in the end."""

    def probe(self) -> None:
        """Raises BadInput where a model could not be pushed; leaves nothing behind."""

    def settle(self) -> None:
        """Finishes a push that was decided and then killed, if there is one; removes what killed ones left long ago."""


def folder_names(names: Iterable[str], complete: Collection[str], url: str) -> dict[int, str]:
    """Number -> name of its folder, which may begin with zeros: TensorFlow Serving takes 00000003 for version 3.

    Args:
        names: of all that lies in a model's folder.
        complete: those that hold a whole model.
        url: of the model's folder, for the message.

    Raises:
        BadInput: two whole models have one number.
    """
    chosen: dict[int, str] = {}
    for name in sorted(names):
        number = paths.version_number(name)
        if number is None:
            continue
        other = chosen.get(number)
        if other in complete and name in complete:
            raise BadInput(
                f"a version has one folder, but {other} and {name} in {url} are both version {number}, of which "
                "TensorFlow Serving loads either; remove or rename one"
            )
        if other is None or name in complete:
            chosen[number] = name
    return chosen


DestinationLike: TypeAlias = str | os.PathLike[str] | Destination


def open_destination(where: DestinationLike) -> Destination:
    """The destination at a path or URL.

    Args:
        where: the model's folder, which holds its numbered versions.

    Raises:
        BadInput: a URL that is neither s3:// nor gs://.
    """
    if not isinstance(where, str | os.PathLike):
        return where
    if storage.is_url(where):
        from components.push.object_store import ObjectStore

        return ObjectStore(os.fspath(where))
    from components.push.local_folder import LocalFolder

    return LocalFolder(pathlib.Path(where))
