# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import pathlib
import socket

import platformdirs
import pytest


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("example.org", 80), ("2001:db8::1", 80, 0, 0)])
def test_connections_elsewhere_are_refused(address):
    family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
    with socket.socket(family) as client, pytest.raises(OSError, match="this machine only"):
        client.connect(address)
    with socket.socket(family) as client, pytest.raises(OSError, match="this machine only"):
        client.connect_ex(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_connections_to_this_machine_are_made(host):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect((host, server.getsockname()[1]))
        assert client.getpeername() == server.getsockname()


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname == "Darwin", reason="XDG folders are Linux's")
def test_the_cache_folder_is_the_tests_own():
    assert pathlib.Path.home() not in platformdirs.user_cache_path("mnist-tfx").parents
