# SPDX-License-Identifier: Apache-2.0
"""Pages in a real browser, headless Chromium, with the network cut off."""

from __future__ import annotations

import html
import pathlib
import re
import shutil
import subprocess
from typing import NamedTuple

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Shown(NamedTuple):
    """The page after its scripts ran, and what the browser's console said."""

    dom: str
    console: list[str]

    def section(self, name: str) -> str:
        match = re.search(rf'<section id="{name}"[^>]*>(.*?)</section>', self.dom, re.DOTALL)
        return match[1] if match else ""


def words(text: str) -> str:
    """The text that a reader sees."""
    shown = re.sub(r"<script.*?</script>|<style.*?</style>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", shown)).split())


def show(path: pathlib.Path, profile: pathlib.Path) -> Shown:
    """Opens a page without a network: no name is resolved, and a refused request is a line on the console."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    process = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}", "--window-size=1100,900", "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr", "--v=0", "--virtual-time-budget=10000", "--dump-dom", path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )  # fmt: skip
    return Shown(process.stdout, [line for line in process.stderr.splitlines() if "CONSOLE" in line])
