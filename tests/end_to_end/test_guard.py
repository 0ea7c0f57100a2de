# SPDX-License-Identifier: Apache-2.0
"""The guard of the whole runs guards: it would see a connection."""

import os
import pathlib
import shutil
import subprocess
import sys


def test_a_connection_to_another_machine_is_refused_and_noted(tmp_path: pathlib.Path) -> None:
    guard, notes = tmp_path / "guard.so", tmp_path / "refused"
    source = pathlib.Path(__file__).parent / "refuse_connections.c"
    subprocess.run([shutil.which("cc") or "g++", "-shared", "-fPIC", "-o", guard, source, "-ldl"], check=True)
    program = (
        "import socket\n"
        "listening = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(listening.getsockname())\n"
        "for address in ('192.0.2.1', '2001:db8::1'):\n"  # for documentation, RFC 5737 and 3849: nobody's
        "    family = socket.AF_INET6 if ':' in address else socket.AF_INET\n"
        "    print(socket.socket(family).connect_ex((address, 9)))\n"
    )
    env = os.environ | {"LD_PRELOAD": str(guard), "REFUSED_CONNECTIONS": str(notes)}
    completed = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert completed.stdout.split() == ["111", "111"]
    assert len(notes.read_text().splitlines()) == 2
