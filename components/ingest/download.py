# SPDX-License-Identifier: Apache-2.0
"""Downloads the four MNIST files from the public mirrors into a cache folder.

A file gets its final name only when its decompressed contents have the SHA-256 of MNIST: an error page, half a file or
another file never reaches the cache.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
# SHA-256 of the decompressed files: the definition of MNIST here. The gzipped bytes differ between mirrors.
DIGESTS = {
    idx.TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    idx.TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    idx.TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    idx.TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
IMAGE_SHAPE = (28, 28)

# Bytes of the gzipped files, approximately: for the progress bar until a mirror states them.
_USUAL_BYTES = {idx.TRAIN_IMAGES: 9912422, idx.TRAIN_LABELS: 28881, idx.TEST_IMAGES: 1648877, idx.TEST_LABELS: 4542}
# A mirror that sends less than this, on average after the first seconds, is dropped.
MIN_BYTES_PER_SECOND, PATIENCE_SECONDS = 4096, 10.0
# Seconds within which a mirror must accept a connection and begin to respond.
RESPONSE_SECONDS = 5.0

Progress = Callable[[int, int], None]  # bytes received, bytes in total, over all the files


class MirrorsFailedError(BadInput):
    """No mirror delivers a file.

    Attributes:
        reasons: the mirrors, each with its failure, as a part of a sentence.
    """

    def __init__(self, name: str, failures: Mapping[str, str]) -> None:
        self.reasons = "; ".join(f"{mirror} ({reason})" for mirror, reason in failures.items())
        super().__init__(
            f"No mirror delivers MNIST's {name}.gz: {self.reasons}. "
            "Give the four files with --data-dir DIR, or take --dataset digits, which needs no network."
        )


class _MirrorError(Exception):
    """The reason why one mirror does not deliver one file, in a few words."""


class _Counter:
    """Adds up the bytes of several files for the progress bar."""

    def __init__(self, names: Sequence[str], progress: Progress | None) -> None:
        self._progress = progress
        self._received = dict.fromkeys(names, 0)
        self._total = {name: _USUAL_BYTES[name] for name in names}

    def update(self, name: str, received: int, total: int | None) -> None:
        self._received[name] = received
        self._total[name] = max(received, total or self._total[name])
        if self._progress:
            self._progress(sum(self._received.values()), sum(self._total.values()))


def fetch(
    directory: str | os.PathLike[str],
    *,
    mirrors: Sequence[str] = MIRRORS,
    timeout: float = 10.0,
    progress: Progress | None = None,
) -> None:
    """Downloads the MNIST files that a folder lacks.

    Args:
        directory: the cache folder, made where it is missing.
        mirrors: base URLs, each ending in "/"; tried in order, for each file the next where one fails.
        timeout: seconds that a mirror may stay silent.
        progress: called with the bytes received and in total.

    Raises:
        MirrorsFailedError: no mirror delivers a file.
        BadInput: the folder cannot be written.
    """
    folder = pathlib.Path(directory)
    missing = [name for name in idx.FILES if not _is_mnist(folder / f"{name}.gz", name)]
    counter = _Counter(missing, progress)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
            order = list(mirrors)
            for name in missing:
                _fetch_file(name, pathlib.Path(partial, f"{name}.gz"), order, timeout, counter)
                pathlib.Path(partial, f"{name}.gz").replace(folder / f"{name}.gz")
    except OSError as error:
        raise BadInput(
            f"MNIST is downloaded into the cache folder; {folder} cannot be written ({error.strerror}). "
            "Set XDG_CACHE_HOME to a folder that can, or give --data-dir."
        ) from error


def order_mirrors(mirrors: Sequence[str] = MIRRORS, seconds: float = RESPONSE_SECONDS) -> list[str]:
    """Returns the mirrors with the first one to respond at their head.

    All are tried at once, each in a thread of its own, as no socket timeout ends a name look-up that hangs.

    Args:
        mirrors: base URLs, each ending in "/".
        seconds: time for the connection and the first response.

    Raises:
        MirrorsFailedError: none responds in time.
    """
    name = idx.TEST_LABELS  # the smallest file
    failures = {mirror: f"no response within {seconds:g} s{_route(mirror)}" for mirror in mirrors}
    responses: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()

    def probe(mirror: str) -> None:
        try:
            _probe(mirror, name, seconds)
            responses.put((mirror, None))
        except _MirrorError as error:
            responses.put((mirror, str(error)))
        except Exception as error:  # an error in a thread would be lost
            responses.put((mirror, type(error).__name__))

    for mirror in mirrors:
        threading.Thread(target=probe, args=(mirror,), daemon=True, name="mnist-mirror").start()
    deadline = time.monotonic() + seconds
    for _ in mirrors:
        try:
            mirror, failure = responses.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            break
        if failure is None:
            return [mirror, *(other for other in mirrors if other != mirror)]
        failures[mirror] = failure
    raise MirrorsFailedError(name, failures)


def _is_mnist(path: pathlib.Path, name: str) -> bool:
    try:
        return _digest(path, name) == DIGESTS[name]
    except BadInput:
        return False


def _digest(path: pathlib.Path, name: str) -> str:
    labels = name in (idx.TRAIN_LABELS, idx.TEST_LABELS)
    return (idx.read_labels(path) if labels else idx.read_images(path, IMAGE_SHAPE)).sha256


def _fetch_file(name: str, target: pathlib.Path, order: list[str], timeout: float, counter: _Counter) -> None:
    failures = {}
    for mirror in list(order):
        try:
            _fetch_from(mirror, name, target, timeout, counter)
            return
        except _MirrorError as error:
            failures[mirror] = str(error)
            # This mirror comes last for the next file.
            order.remove(mirror)
            order.append(mirror)
    raise MirrorsFailedError(name, failures)


def _route(url: str) -> str:
    """Names the environment variables that a connection depends on, as the end of a sentence; "" for none."""
    proxy, fault = network.proxy(url), network.described(url)
    return (f", through the proxy that {proxy.variable} names" if proxy else "") + (f"; {fault}" if fault else "")


def _connect(url: str, timeout: float) -> httpx.Client:
    """Returns a client for one address. httpx itself raises on proxy variables that other clients accept."""
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
        raise _MirrorError(fault) from None


@contextlib.contextmanager
def _response(mirror: str, name: str, timeout: float) -> Iterator[httpx.Response]:
    """Requests a file; its body is read from the response.

    Raises:
        _MirrorError: the mirror has no such file, or the connection fails, also while the body is read.
    """
    import httpx

    url = f"{mirror}{name}.gz"
    try:
        with _connect(url, timeout) as client, client.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK:
                raise _MirrorError(f"HTTP status {response.status_code}{_route(url)}")
            yield response
    except httpx.TimeoutException:
        raise _MirrorError(f"silent for {timeout:g} s{_route(url)}") from None
    except httpx.HTTPError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _MirrorError(reason + (_route(url) if isinstance(error, httpx.TransportError) else "")) from None


def _probe(mirror: str, name: str, timeout: float) -> None:
    with _response(mirror, name, timeout):
        pass


def _fetch_from(mirror: str, name: str, target: pathlib.Path, timeout: float, counter: _Counter) -> None:
    # No gzipped MNIST file is larger than its contents.
    limit = 2 * _USUAL_BYTES[name] + 4096
    received = 0
    with target.open("wb") as file, _response(mirror, name, timeout) as response:
        start = time.monotonic()
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() and int(length) <= limit else None
        # Chunks of any size: if they were gathered, the bytes of a slow mirror would go unnoticed for hours.
        for chunk in response.iter_raw():
            received += len(chunk)
            if received > limit:
                raise _MirrorError(f"more than {limit} bytes")
            file.write(chunk)
            counter.update(name, received, total)
            seconds = time.monotonic() - start
            if seconds > PATIENCE_SECONDS and received < seconds * MIN_BYTES_PER_SECOND:
                raise _MirrorError(f"only {received} bytes in {seconds:.0f} s")
    try:
        digest = _digest(target, name)
    except BadInput as error:
        raise _MirrorError(str(error).removeprefix(f"{target}: ").partition(". ")[0]) from None
    if digest != DIGESTS[name]:
        raise _MirrorError(f"contents with another SHA-256, {digest[:12]}…")
