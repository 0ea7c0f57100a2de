# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import pytest

from requirements import lane


@pytest.mark.parametrize(
    ("python", "system", "machine", "glibc", "expected"),
    [
        ((3, 11), "Linux", "x86_64", (2, 36), lane.COMPATIBLE),
        ((3, 11), "Linux", "x86_64", (2, 27), lane.COMPATIBLE),
        ((3, 11), "Linux", "x86_64", (2, 41), lane.COMPATIBLE),
        ((3, 12), "Linux", "x86_64", (2, 39), lane.OFFICIAL),
        ((3, 13), "Linux", "x86_64", (2, 41), lane.OFFICIAL),
        ((3, 11), "Darwin", "arm64", None, lane.OFFICIAL),
        ((3, 13), "Darwin", "arm64", None, lane.OFFICIAL),
    ],
)
def test_lane(python, system, machine, glibc, expected):
    assert lane.lane(python, system, machine, glibc) == expected


@pytest.mark.parametrize(
    ("python", "system", "machine", "glibc", "message"),
    [
        ((3, 10), "Linux", "x86_64", (2, 36), "Python 3.11, 3.12 or 3.13 is needed"),
        ((3, 14), "Linux", "x86_64", (2, 41), "Python 3.11, 3.12 or 3.13 is needed"),
        ((3, 14), "Darwin", "arm64", None, "Python 3.11, 3.12 or 3.13 is needed"),
        ((3, 12), "Linux", "x86_64", (2, 38), "Python 3.12 needs glibc 2.39 .* has 2.38. Name Python 3.11"),
        ((3, 13), "Linux", "x86_64", (2, 36), "Python 3.13 needs glibc 2.39 .* has 2.36. Name Python 3.11"),
        ((3, 11), "Linux", "x86_64", (2, 26), "glibc 2.27 or newer is needed"),
        ((3, 11), "Linux", "x86_64", None, "glibc 2.27 or newer is needed. This machine has another C library"),
        ((3, 11), "Linux", "aarch64", (2, 36), "This is Linux on aarch64"),
        ((3, 11), "Darwin", "x86_64", None, "This is Darwin on x86_64"),
    ],
)
def test_refused_in_one_line(python, system, machine, glibc, message):
    with pytest.raises(lane.UnsupportedError, match=message) as raised:
        lane.lane(python, system, machine, glibc)
    assert "\n" not in str(raised.value)


def test_main_prints_the_lane_of_this_environment():
    finished = subprocess.run([sys.executable, lane.__file__], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == (
        "compatible\n" if sys.version_info < (3, 12) and sys.platform == "linux" else "official\n"
    )


def test_main_refuses_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert lane.main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "riscv64" in err
    assert err.count("\n") == 1


def test_missing_tools_are_named_with_their_packages(monkeypatch, tmp_path, capsys):
    assert lane.missing_tools() == []
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    missing = lane.missing_tools()
    assert [name.rpartition("(")[2] for name in missing] == ["python3-venv)", "python3-dev)", "g++)"]
    assert lane.main() == 2
    assert "python3-dev" in capsys.readouterr().err
