# SPDX-License-Identifier: Apache-2.0
"""The rules of every test: no connection leaves the machine, and the user's folders are left alone."""

from __future__ import annotations

import ipaddress
import os
import pathlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from components import environment

# As every entry point does: a developer's own settings for Keras are not those of the tests.
environment.prepare()
# Read once, when TensorFlow is first imported: without it, it writes pages about the processor.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _is_here(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket's path
    if address[0] == "localhost":
        return True
    try:
        return ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
    except ValueError:  # a name
        return False


@pytest.fixture(scope="session", autouse=True)
def refuse_network() -> Iterator[None]:
    """Refuses every connection that Python code makes to anywhere but this machine."""

    def guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
        def to_here(self: socket.socket, address: Any) -> Any:
            if not _is_here(address):
                raise OSError(f"Tests connect to this machine only. Received {address}. Serve it on 127.0.0.1.")
            return connect(self, address)

        return to_here

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
        yield


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Gives the tests, and the processes that they start, a cache folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def mnist_dir() -> pathlib.Path:
    """The folder with the four files of the real MNIST, which MNIST_DATA_DIR names; without it the test is skipped."""
    folder = os.environ.get("MNIST_DATA_DIR")
    if not folder:
        pytest.skip("needs the MNIST files: MNIST_DATA_DIR=DIR")
    return pathlib.Path(folder)
