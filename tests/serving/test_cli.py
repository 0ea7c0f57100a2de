# SPDX-License-Identifier: Apache-2.0
"""Common behaviour of the commands: wrong usage and `--help`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.serving.servers import ROOT


@pytest.mark.parametrize(
    "arguments",
    [
        ["serving"],
        ["serving.predict"],
        ["serving.predict", "nothing.png"],
        ["serving.predict", "--index", "1", "--url", "http://127.0.0.1:9"],
        ["serving.predict", "--index", "1", "--url", "ftp://a"],
        ["serving.batch", "nothing", "--output", "x"],
        ["serving.drift", "nothing"],
        ["serving", "--port", "x"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_bad_usage_is_one_line_and_2(arguments, tmp_path):
    model = ["--model-dir", str(tmp_path)] if arguments == ["serving"] else []
    process = subprocess.run(
        [sys.executable, "-m", *arguments, *model], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert len(process.stderr.strip().splitlines()[-1]) > 20
    if arguments != ["serving", "--port", "x"]:  # argparse shows the usage too
        assert len(process.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["serving", "serving.predict", "serving.batch", "serving.drift"])
def test_help_imports_nothing_heavy(command):
    code = (
        "import runpy, sys\nsys.argv = ['x', '--help']\n"
        f"try: runpy.run_module({command!r}, run_name='__main__')\nexcept SystemExit: pass\n"
        "heavy = {'tensorflow', 'apache_beam', 'numpy', 'fastapi', 'pandas'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "usage" in process.stdout
