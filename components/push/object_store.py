# SPDX-License-Identifier: Apache-2.0
"""A destination in an object store, which can neither rename folders nor write two objects at once.

    .staging/ID/model/…    a staged model, under a name that no server loads; ID begins with the time in seconds
    .claims/3              {"staging": "ID"}: version 3 is the model that was staged there
    3/…                    its files, copied from there within the store; saved_model.pb last

The claim commits the push. It is created on the condition that it does not exist, so only one of two pushers gets the
number. A pusher that is killed before its claim leaves only its staging folder; the copies that one killed after its
claim did not make, the next pusher makes (`recover`). Without saved_model.pb the version does not exist for any server.
Claims are permanent, so version numbers are never reused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from components import paths, storage
from components.errors import BadInput
from components.push.destination import SAVED_MODEL, STALE_SECONDS, folder_names

STAGING, CLAIMS = ".staging", ".claims"


class ObjectStore:
    """`destination.Destination` for an s3:// or gs:// URL.

    Raises:
        BadInput: the store cannot be used; so does every method.
    """

    def __init__(self, url: str) -> None:
        self.url = storage.check(url, "the serving folder", *storage.OBJECT_STORES)
        self._fs, self._root = storage.connect(self.url)
        self._folders: dict[int, str] = {}  # number -> name of its folder, from the last call of `numbers`

    def location(self, number: int) -> str:
        return f"{self.url}/{self._folder(number)}"

    def numbers(self) -> dict[int, bool]:
        names = self._listing()
        folders = {name.partition("/")[0] for name in names if "/" in name}
        complete = {folder for folder in folders if f"{folder}/{SAVED_MODEL}" in names}
        self._folders = folder_names(folders, complete, self.url)
        return {
            **dict.fromkeys(_claimed(names), False),
            **{number: folder in complete for number, folder in self._folders.items()},
        }

    def digest(self, number: int) -> str:
        # The store's own checksums save reading every byte before and after each run.
        digest = hashlib.sha256()
        for name, info in sorted(self._below(f"{self._folder(number)}/").items()):
            checksum = info.get("ETag") or info.get("md5Hash") or info.get("crc32c")
            digest.update(f"{name}\0{info['size']}\0{checksum}\n".encode())
        return digest.hexdigest()

    def read(self, name: str, version: int | None = None) -> bytes | None:
        below = name if version is None else f"{self._folder(version)}/{name}"
        with storage.refusals(self.url):
            try:
                return bytes(self._fs.cat_file(self._path(below)))
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        with storage.refusals(self.url):
            self._fs.pipe_file(self._path(name), data)

    def fetch(self, number: int, folder: pathlib.Path) -> None:
        version = self._folder(number)
        for name in self._below(f"{version}/"):
            target = storage.inside(folder, name, self.location(number))
            with storage.refusals(self.location(number)):
                self._fs.get_file(self._path(f"{version}/{name}"), str(target))

    def remove(self, number: int) -> None:
        self.recover()
        self._remove(f"{self._folder(number)}/")

    @contextlib.contextmanager
    def stage(self, files: Mapping[str, pathlib.Path]) -> Iterator[_StagedObjects]:
        staged = _StagedObjects(self, _identity())
        try:
            self._refuse_without_conditions(f"{STAGING}/{staged.identity}/once")
            for name, path in files.items():
                with storage.refusals(self.url):
                    self._fs.put_file(str(path), self._path(f"{staged.folder}/{name}"))
            yield staged
        finally:
            if not staged.claimed:
                with contextlib.suppress(BadInput):
                    self._remove(f"{STAGING}/{staged.identity}/")

    def probe(self) -> None:
        prefix = f"{STAGING}/{_identity()}/"
        try:
            self._refuse_without_conditions(f"{prefix}once")
        except BadInput:
            with contextlib.suppress(BadInput):
                self._remove(prefix)
            raise
        self._remove(prefix)  # a push removes what it staged

    def recover(self) -> None:
        names = self._listing()
        claims = _claimed(names)
        # Only the highest can be incomplete: a pusher recovers before it claims a number.
        claim = self.read(f"{CLAIMS}/{max(claims)}") if claims else None
        if claim is not None:
            self._complete(max(claims), f"{STAGING}/{json.loads(claim)['staging']}/", names)
        for identity in _names_in(STAGING, names):
            since = identity.partition("-")[0]
            if since.isdecimal() and int(since) < time.time() - STALE_SECONDS:
                self._remove(f"{STAGING}/{identity}/")

    def _complete(self, number: int, staging: str, names: Collection[str]) -> None:
        """Copies a claimed model to its version unless that is complete, and removes the staged model."""
        model = f"{staging}model/"
        staged = [name.removeprefix(model) for name in names if name.startswith(model)]
        if SAVED_MODEL in staged and f"{number}/{SAVED_MODEL}" not in names:
            for name in sorted(staged, key=lambda name: (name == SAVED_MODEL, name)):
                self._copy(f"{model}{name}", f"{number}/{name}", number)
        if any(name.startswith(staging) for name in names):
            self._remove(staging)

    def create(self, name: str, data: bytes) -> bool:
        """Creates an object unless it exists; returns True if the object now has this content."""
        with storage.refusals(self.url):
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except Exception:  # the clients raise various errors for an object that exists
                # It may exist from a first try of this very request, whose response was lost.
                content = self.read(name)
                if content is None:
                    raise
                return content == data
        return True

    def _refuse_without_conditions(self, name: str) -> None:
        self.create(name, b"1")
        if self.create(name, b"2"):
            raise BadInput(
                f"{self.url}: expected a store that refuses to create an object twice (If-None-Match), found one that "
                "replaces it: two pushers would get the same version. Push to a newer store or a mounted volume."
            )

    def _copy(self, source: str, target: str, number: int) -> None:
        with storage.refusals(self.url):
            try:
                self._fs.cp_file(self._path(source), self._path(target))
            except FileNotFoundError:
                # Another pusher may have completed this and removed the source.
                if not self.numbers().get(number):
                    raise

    def _remove(self, prefix: str) -> None:
        """Removes all objects below a prefix, saved_model.pb first."""
        names = self._below(prefix)
        for name in sorted(names, key=lambda name: (not name.endswith(SAVED_MODEL), name)):
            with storage.refusals(self.url), contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._path(f"{prefix}{name}"))

    def _below(self, prefix: str) -> dict[str, dict[str, Any]]:
        listing = self._listing()
        return {name.removeprefix(prefix): info for name, info in listing.items() if name.startswith(prefix)}

    def _listing(self) -> dict[str, dict[str, Any]]:
        """Returns every object below this folder by its name in it, in the order of the names."""
        root = f"{self._root}/"
        with storage.refusals(self.url):
            objects = self._fs.find(self._root, detail=True)
        return {path.removeprefix(root): info for path, info in sorted(objects.items()) if path.startswith(root)}

    def _folder(self, number: int) -> str:
        return self._folders.get(number, str(number))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _names_in(folder: str, names: Collection[str]) -> set[str]:
    """Returns the names directly in a folder, from those of all objects."""
    return {name.split("/")[1] for name in names if name.startswith(f"{folder}/")}


def _claimed(names: Collection[str]) -> set[int]:
    """Returns the numbers that have a claim."""
    return {int(name) for name in _names_in(CLAIMS, names) if paths.version_number(name) is not None}


def _identity() -> str:
    """Returns a name for a staged model, which begins with the time in seconds."""
    return f"{int(time.time())}-{uuid.uuid4().hex}"


class _StagedObjects:
    def __init__(self, store: ObjectStore, identity: str) -> None:
        self.identity = identity
        self.folder = f"{STAGING}/{identity}/model"
        # Once there may be a claim, the objects that it names must stay.
        self.claimed = False
        self._store = store

    def commit(self, number: int, files: Mapping[str, bytes]) -> bool:
        for name, content in files.items():
            self._store.write(f"{self.folder}/{name}", content)
        self.claimed = True
        self.claimed = self._store.create(f"{CLAIMS}/{number}", json.dumps({"staging": self.identity}).encode())
        if self.claimed:
            self._store.recover()
        return self.claimed
