# SPDX-License-Identifier: Apache-2.0
"""Copies the IDX files of an object store or a web server into a temporary folder.

No more of a file is fetched than the reader accepts (`idx.MAX_BYTES`).
"""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from components import storage
from components.errors import BadInput
from components.ingest import download, idx

_NAMES = tuple(name + suffix for name in idx.FILES for suffix in (".gz", ""))
_CHUNK_BYTES = 2**22


def check_url(url: str) -> str:
    """Returns the URL of a data folder without trailing slashes; raises `BadInput` for any other."""
    return storage.check(url, "--data-dir", *storage.OBJECT_STORES, *storage.WEB)


def entries(url: str) -> list[str] | None:
    """Returns the names directly below a URL from `check_url`; None where the server has no listing.

    Raises:
        BadInput: the URL does not exist or cannot be reached.
    """
    if url.startswith(storage.WEB):
        return None
    files, root = storage.connect(url)
    return sorted(_listing(files, root, url))


def _listing(files: Any, root: str, url: str) -> dict[str, bool]:
    """Maps each name directly below a path of a store to True for a folder."""
    with storage.refusals(url):
        entries = files.ls(root, detail=True)
    return {entry["name"].rstrip("/").rpartition("/")[2]: entry["type"] == "directory" for entry in entries}


@contextlib.contextmanager
def local_copy(url: str) -> Iterator[pathlib.Path]:
    """Yields a temporary folder with the IDX files of a URL from `check_url`.

    Errors raised within name the URL instead of the folder.

    Raises:
        BadInput: they cannot be fetched, or one is larger than an IDX file may be.
    """
    with tempfile.TemporaryDirectory(prefix="idx-") as temporary:
        _fetch(url, pathlib.Path(temporary))
        try:
            yield pathlib.Path(temporary)
        except BadInput as error:
            raise type(error)(str(error).replace(temporary, url)) from None


def _fetch(url: str, folder: pathlib.Path) -> None:
    files, root = storage.connect(url)
    listed = None if url.startswith(storage.WEB) else _listing(files, root, url)
    if listed is not None:
        folders: dict[str, dict[str, bool]] = {"": listed}

        def below(path: str) -> list[str] | None:
            parent, _, name = path.rpartition("/")
            if not folders[parent].get(name):
                return None
            folders[path] = _listing(files, f"{root}/{path}", f"{url}/{path}")
            return sorted(folders[path])

        for name in idx.FILES:
            idx.present(url, name, listed, below)
    for name in _NAMES if listed is None else set(_NAMES) & set(listed):
        # A web server has no listing: each name is requested, the plain one only if there is no gzipped one.
        if listed is None and (folder / f"{name}.gz").exists():
            continue
        file = _open(files, f"{root}/{name}", f"{url}/{name}", listed is None)
        if file is not None:
            with contextlib.closing(file):
                _copy(file, f"{url}/{name}", folder / name)


def _open(files: Any, path: str, url: str, web: bool) -> Any:
    """Opens a file; None where a web server has none of that name."""
    if not web:
        with storage.refusals(url):
            return files.open(path, "rb", block_size=_CHUNK_BYTES)
    with storage.refusals(url):
        try:
            # As a stream: without a size, fsspec would request it first, and a server may not state it.
            file = files.open(path, "rb", block_size=0, size=1, headers={"Accept-Encoding": "identity"})
        except FileNotFoundError:
            return None
    schemes = {str(response.url.scheme) for response in (*file.r.history, file.r)}
    if url.startswith("https:") and schemes != {"https"}:
        file.close()
        raise BadInput(f"{url}: expected https throughout, found a redirect to http. Give the final address.")
    return file


def _copy(file: Any, url: str, target: pathlib.Path) -> None:
    start, received = time.monotonic(), 0
    with target.open("wb") as copy:
        while True:
            with storage.refusals(url):
                chunk = file.read(_CHUNK_BYTES)
            if not chunk:
                return
            received += len(chunk)
            if received > idx.MAX_BYTES:
                idx.refuse(url, "size", f"at most {idx.MAX_BYTES} bytes", "more", "Check the address.")
            copy.write(chunk)
            seconds = time.monotonic() - start
            if seconds > download.PATIENCE_SECONDS and received < seconds * download.MIN_BYTES_PER_SECOND:
                speed = f"only {received} bytes in {seconds:.0f} s"
                idx.refuse(
                    url, "speed", f"{download.MIN_BYTES_PER_SECOND} bytes a second", speed, "Try another server."
                )
