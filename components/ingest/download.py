# SPDX-License-Identifier: Apache-2.0
"""Downloads the four MNIST files from the public mirrors into a cache folder.

A file gets its final name only when its decompressed contents have the SHA-256 of MNIST: whatever a mirror sends
instead (an error page, half a file, another file) never reaches the cache.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from components import network
from components.errors import BadInput
from components.ingest import idx

if TYPE_CHECKING:
    import httpx

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
# SHA-256 of the decompressed files: what the name MNIST stands for. The gzipped bytes differ between mirrors.
DIGESTS = {
    idx.TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    idx.TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    idx.TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    idx.TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
IMAGE_SHAPE = (28, 28)

# Bytes of the gzipped files, nearly: for the progress bar until a mirror says it exactly.
_USUAL_BYTES = {idx.TRAIN_IMAGES: 9912422, idx.TRAIN_LABELS: 28881, idx.TEST_IMAGES: 1648877, idx.TEST_LABELS: 4542}
# A mirror that sends less than this, on average after the first seconds, is given up.
MIN_BYTES_PER_SECOND, PATIENCE_SECONDS = 4096, 10.0

Progress = Callable[[int, int], None]  # bytes done, bytes in total, over all the files


class _MirrorFailedError(Exception):
    """Why one mirror did not deliver one file, in a few words."""


class _CancelledError(Exception):
    """Nobody waits for the download any longer."""


class _Transfer:
    """What one download keeps track of: bytes for the progress bar, and whether it is still wanted."""

    def __init__(self, names: Sequence[str], progress: Progress | None) -> None:
        self.cancelled = threading.Event()
        self.answered = threading.Event()
        self._progress = progress
        self._done = dict.fromkeys(names, 0)
        self._total = {name: _USUAL_BYTES[name] for name in names}

    def advance(self, name: str, done: int, total: int | None = None) -> None:
        if self.cancelled.is_set():
            raise _CancelledError
        self._done[name] = done
        self._total[name] = max(done, total or self._total[name])
        if self._progress:
            self._progress(sum(self._done.values()), sum(self._total.values()))


def fetch(
    folder: str | os.PathLike[str],
    *,
    mirrors: Sequence[str] = MIRRORS,
    timeout: float = 10.0,
    progress: Progress | None = None,
) -> None:
    """Brings the MNIST files into a folder; those that are there and right are kept.

    Args:
        folder: the cache folder, made where it is missing.
        mirrors: base URLs, each ending in "/"; tried in order, for each file the next where one fails.
        timeout: seconds that a mirror may stay silent.
        progress: called with the bytes done and in total.

    Raises:
        BadInput: a file could be had from none of the mirrors, or the folder cannot be written.
    """
    wanted = _missing(pathlib.Path(folder))
    _fetch(pathlib.Path(folder), wanted, mirrors, timeout, _Transfer(wanted, progress))


def fetch_within(
    folder: str | os.PathLike[str],
    *,
    mirrors: Sequence[str] = MIRRORS,
    answer_seconds: float = 3.0,
    total_seconds: float = 20.0,
    progress: Progress | None = None,
) -> str | None:
    """Like `fetch`, but gives up in time: also where the look-up of a name hangs, which no socket timeout ends.

    Args:
        answer_seconds: until a first mirror must have answered.
        total_seconds: until all the files must be there.

    Returns:
        None when the files are there, else in a few words why not.
    """
    wanted = _missing(pathlib.Path(folder))
    transfer = _Transfer(wanted, progress)
    failures: list[str] = []

    def work() -> None:
        try:
            _fetch(pathlib.Path(folder), wanted, mirrors, answer_seconds / max(len(mirrors), 1), transfer)
        except BadInput:
            failures.append(f"it could be had from no mirror{_environment(mirrors)}")
        except _CancelledError:
            pass
        except Exception as error:  # nobody sees what a thread raises
            failures.append(f"the download failed ({type(error).__name__})")
        finally:
            transfer.answered.set()

    thread = threading.Thread(target=work, daemon=True, name="mnist-download")
    start = time.monotonic()
    thread.start()
    if not transfer.answered.wait(answer_seconds):
        transfer.cancelled.set()
        return f"no mirror answered within {answer_seconds:g} seconds"
    thread.join(max(total_seconds - (time.monotonic() - start), 0))
    if thread.is_alive():
        transfer.cancelled.set()
        return f"the download would take longer than {total_seconds:g} seconds"
    return failures[0] if failures else None


def _missing(folder: pathlib.Path) -> list[str]:
    return [name for name in idx.FILES if not _is_right(folder / f"{name}.gz", name)]


def _is_right(path: pathlib.Path, name: str) -> bool:
    try:
        return _digest(path, name) == DIGESTS[name]
    except BadInput:
        return False


def _digest(path: pathlib.Path, name: str) -> str:
    labels = name in (idx.TRAIN_LABELS, idx.TEST_LABELS)
    return (idx.read_labels(path) if labels else idx.read_images(path, IMAGE_SHAPE)).sha256


def _fetch(
    folder: pathlib.Path, names: Sequence[str], mirrors: Sequence[str], timeout: float, transfer: _Transfer
) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
            order = list(mirrors)
            for name in names:
                _fetch_file(name, pathlib.Path(partial, f"{name}.gz"), order, timeout, transfer)
                pathlib.Path(partial, f"{name}.gz").replace(folder / f"{name}.gz")
    except OSError as error:
        raise BadInput(
            f"MNIST is downloaded into the cache folder; {folder} cannot be written ({error.strerror}). "
            "Set XDG_CACHE_HOME to a folder that can, or give --data-dir."
        ) from error


def _fetch_file(name: str, target: pathlib.Path, order: list[str], timeout: float, transfer: _Transfer) -> None:
    failures = []
    for mirror in list(order):
        try:
            _fetch_from(mirror, name, target, timeout, transfer)
            return
        except _MirrorFailedError as error:
            failures.append(f"{mirror} ({error})")
            # The next file is asked for last where this one failed.
            order.remove(mirror)
            order.append(mirror)
    raise BadInput(
        f"MNIST's {name}.gz could be had from no mirror: {'; '.join(failures)}. "
        "Give the four files with --data-dir DIR, or take --dataset digits, which needs no network."
    )


def _environment(mirrors: Sequence[str]) -> str:
    """Names the variable for which no mirror may deliver, as the end of a sentence; "" for none."""
    for mirror in mirrors:
        if fault := network.described(mirror):
            return f", as {fault}"
        if proxy := network.proxy(mirror):
            return f", through the proxy that {proxy.variable} names"
    return ""


def _connect(url: str, timeout: float) -> httpx.Client:
    """A client for one address. httpx's own reading of the proxies' variables raises on many that others take."""
    import httpx  # here, not at the top: it takes a third of a second, and a run on local files needs none of it

    proxy = network.proxy(url)
    try:
        return httpx.Client(
            verify=httpx.create_ssl_context(),
            proxy=proxy.address if proxy else None,
            trust_env=False,
            timeout=timeout,
            follow_redirects=True,
            headers={"Accept-Encoding": "identity"},
        )
    except Exception as error:  # a package that is missing, an address or a file that cannot be read, …
        fault = network.described(url) or f"no connection can be prepared: {type(error).__name__}"
        raise _MirrorFailedError(fault) from None


def _fetch_from(mirror: str, name: str, target: pathlib.Path, timeout: float, transfer: _Transfer) -> None:
    import httpx

    # No gzipped MNIST file is larger than its contents: what is, is not MNIST.
    limit = 2 * _USUAL_BYTES[name] + 4096
    done = 0
    url = f"{mirror}{name}.gz"
    try:
        with (
            target.open("wb") as file,
            _connect(url, timeout) as client,
            client.stream("GET", url) as response,
        ):
            transfer.answered.set()
            start = time.monotonic()
            if response.status_code != httpx.codes.OK:
                raise _MirrorFailedError(f"HTTP status {response.status_code}")
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() and int(length) <= limit else None
            # As they come: gathered into larger chunks, the bytes of a mirror that drips would not be seen for hours.
            for chunk in response.iter_raw():
                done += len(chunk)
                if done > limit:
                    raise _MirrorFailedError(f"more than {limit} bytes")
                file.write(chunk)
                transfer.advance(name, done, total)
                seconds = time.monotonic() - start
                if seconds > PATIENCE_SECONDS and done < seconds * MIN_BYTES_PER_SECOND:
                    raise _MirrorFailedError(f"only {done} bytes in {seconds:.0f} seconds")
    except httpx.TimeoutException:
        raise _MirrorFailedError(f"silent for {timeout:g} seconds") from None
    except httpx.HTTPError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, httpx.TransportError):
            proxy, fault = network.proxy(url), network.described(url)
            reason += f", through the proxy that {proxy.variable} names" if proxy else ""
            reason += f"; {fault}" if fault else ""
        raise _MirrorFailedError(reason) from None
    try:
        digest = _digest(target, name)
    except BadInput as error:
        raise _MirrorFailedError(str(error).removeprefix(f"{target}: ").partition(". ")[0]) from None
    if digest != DIGESTS[name]:
        raise _MirrorFailedError(f"contents with another SHA-256, {digest[:12]}…")
