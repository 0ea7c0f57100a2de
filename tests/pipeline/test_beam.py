# SPDX-License-Identifier: Apache-2.0
"""The options of Beam's pipelines."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from pipeline import beam

ROOT = pathlib.Path(__file__).parents[2]
NO_PACKAGE = "--sdk_container_image=none"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], ["--runner=FnApiRunner", NO_PACKAGE]),
        (["--direct_num_workers=2"], ["--runner=FnApiRunner", "--direct_num_workers=2", NO_PACKAGE]),
        (["--runner=FnApiRunner"], ["--runner=FnApiRunner", NO_PACKAGE]),
        (["--runner", "DirectRunner"], ["--runner", "DirectRunner", NO_PACKAGE]),
        (
            ["--runner=FlinkRunner", "--environment_type", "LOOPBACK"],
            ["--runner=FlinkRunner", "--environment_type", "LOOPBACK", NO_PACKAGE],
        ),
        # Workers elsewhere get TFX's package, unless somebody says that they have all that they need.
        (["--runner=FlinkRunner"], ["--runner=FlinkRunner"]),
        (
            ["--runner=DataflowRunner", "--sdk_container_image=registry.example/mnist:1"],
            ["--runner=DataflowRunner", "--sdk_container_image=registry.example/mnist:1"],
        ),
        (["--sdk_container_image=mine"], ["--runner=FnApiRunner", "--sdk_container_image=mine"]),
    ],
)
def test_arguments(given, told):
    assert beam.arguments(given) == told


def test_a_started_process_can_import_this_project_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for _ in range(2):
        beam.let_workers_import()
    assert os.environ["PYTHONPATH"] == f"{ROOT}{os.pathsep}{tmp_path}"
    subprocess.run([sys.executable, "-c", "import components.features"], cwd=tmp_path, check=True)
