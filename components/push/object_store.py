# SPDX-License-Identifier: Apache-2.0
"""A destination in an object store, which can neither rename a folder nor write two objects at once.

    .staging/ID/model/…    a model that is on its way, where no server looks; ID begins with the time in seconds
    .claims/3              {"staging": "ID"}: version 3 is the model that was staged there
    3/…                    its files, copied from there within the store; saved_model.pb last

The claim is the moment of the push. It is created on the condition that it is not there, so of two pushers one gets the
number, and the other sees that it did not. A pusher that is killed before it leaves but its staging folder; what one
that is killed after it has left to copy, the next pusher copies (`settle`). Until saved_model.pb is there, the version
is absent for everybody. Claims stay, so that a number never comes again.
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
from components.push import destination

STAGING, CLAIMS = ".staging", ".claims"


class ObjectStore:
    """`destination.Destination` for an s3:// or gs:// URL.

    Raises:
        BadInput: here and in every method, where the store cannot be used.
    """

    def __init__(self, url: str) -> None:
        self.url = storage.check(url, "the serving folder", *storage.OBJECT_STORES)
        self._fs, self._root = storage.connect(self.url)
        self._folders: dict[int, str] = {}  # number -> name of its folder, when `numbers` last looked

    def location(self, number: int) -> str:
        return f"{self.url}/{self._folder(number)}"

    def numbers(self) -> dict[int, bool]:
        names = self._listing()
        folders = {name.partition("/")[0] for name in names if "/" in name}
        complete = {folder for folder in folders if f"{folder}/{destination.SAVED_MODEL}" in names}
        self._folders = destination.folder_names(folders, complete, self.url)
        return {
            **dict.fromkeys(_claimed(names), False),
            **{number: folder in complete for number, folder in self._folders.items()},
        }

    def digest(self, number: int) -> str:
        # The store's own checksums: reading every byte again, before and after each run, would be for nothing.
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
        self.settle()
        self._remove(f"{self._folder(number)}/")

    @contextlib.contextmanager
    def staged(self, files: Mapping[str, pathlib.Path]) -> Iterator[_Staged]:
        staged = _Staged(self, _identity())
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

    def settle(self) -> None:
        names = self._listing()
        claims = _claimed(names)
        # Only the highest can be unfinished: whoever claims a number has settled the ones before.
        claim = self.read(f"{CLAIMS}/{max(claims)}") if claims else None
        if claim is not None:
            self._finish(max(claims), f"{STAGING}/{json.loads(claim)['staging']}/", names)
        for identity in _names_in(STAGING, names):
            since = identity.partition("-")[0]
            if since.isdecimal() and int(since) < time.time() - destination.STALE_SECONDS:
                self._remove(f"{STAGING}/{identity}/")

    def _finish(self, number: int, staging: str, names: Collection[str]) -> None:
        """Copies a claimed model to its version unless that is complete, and removes what was staged."""
        model = f"{staging}model/"
        staged = [name.removeprefix(model) for name in names if name.startswith(model)]
        if destination.SAVED_MODEL in staged and f"{number}/{destination.SAVED_MODEL}" not in names:
            for name in sorted(staged, key=lambda name: (name == destination.SAVED_MODEL, name)):
                self._copy(f"{model}{name}", f"{number}/{name}", number)
        if any(name.startswith(staging) for name in names):
            self._remove(staging)

    def create(self, name: str, data: bytes) -> bool:
        """Creates an object unless one is there; says whether the one that is there now has this content."""
        with storage.refusals(self.url):
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except Exception:  # the clients have several ways to say that it is there
                # It may also be there from a first try of this very request, whose answer got lost on the way.
                there = self.read(name)
                if there is None:
                    raise
                return there == data
        return True

    def _refuse_without_conditions(self, name: str) -> None:
        self.create(name, b"1")
        if self.create(name, b"2"):
            raise BadInput(
                f"{self.url}: expected a store that refuses to create an object twice (If-None-Match), found that this "
                "one replaces it: two pushers would get the same version. Push to a newer store or a mounted volume."
            )

    def _copy(self, source: str, target: str, number: int) -> None:
        with storage.refusals(self.url):
            try:
                self._fs.cp_file(self._path(source), self._path(target))
            except FileNotFoundError:
                # Another pusher may have finished this and tidied up.
                if not self.numbers().get(number):
                    raise

    def _remove(self, prefix: str) -> None:
        """Removes what is below a prefix, saved_model.pb first."""
        names = self._below(prefix)
        for name in sorted(names, key=lambda name: (not name.endswith(destination.SAVED_MODEL), name)):
            with storage.refusals(self.url), contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._path(f"{prefix}{name}"))

    def _below(self, prefix: str) -> dict[str, dict[str, Any]]:
        listing = self._listing()
        return {name.removeprefix(prefix): info for name, info in listing.items() if name.startswith(prefix)}

    def _listing(self) -> dict[str, dict[str, Any]]:
        """Every object below this folder, by its name in it, in the order of the names."""
        root = f"{self._root}/"
        with storage.refusals(self.url):
            found = self._fs.find(self._root, detail=True)
        return {path.removeprefix(root): info for path, info in sorted(found.items()) if path.startswith(root)}

    def _folder(self, number: int) -> str:
        return self._folders.get(number, str(number))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _names_in(folder: str, names: Collection[str]) -> set[str]:
    """What lies directly in a folder, of all that is below it."""
    return {name.split("/")[1] for name in names if name.startswith(f"{folder}/")}


def _claimed(names: Collection[str]) -> set[int]:
    """The numbers that there are claims of."""
    return {int(name) for name in _names_in(CLAIMS, names) if paths.version_number(name) is not None}


def _identity() -> str:
    """A name for what is staged, which begins with the time in seconds."""
    return f"{int(time.time())}-{uuid.uuid4().hex}"


class _Staged:
    def __init__(self, store: ObjectStore, identity: str) -> None:
        self.identity = identity
        self.folder = f"{STAGING}/{identity}/model"
        # From the moment on that there may be a claim, what it names must stay.
        self.claimed = False
        self._store = store

    def become(self, number: int, files: Mapping[str, bytes]) -> bool:
        for name, content in files.items():
            self._store.write(f"{self.folder}/{name}", content)
        self.claimed = True
        self.claimed = self._store.create(f"{CLAIMS}/{number}", json.dumps({"staging": self.identity}).encode())
        if self.claimed:
            self._store.settle()
        return self.claimed
