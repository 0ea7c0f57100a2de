# SPDX-License-Identifier: Apache-2.0
"""The options of Beam's pipelines."""

from __future__ import annotations

import os
import pathlib
import pickle
import subprocess
import sys

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions

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


@pytest.fixture
def remembered(monkeypatch):
    monkeypatch.setattr(PipelineOptions, "view_as", PipelineOptions.view_as)
    for _ in range(2):
        beam.remember_views()


def test_a_view_is_made_once_and_all_share_their_values(remembered):
    options, others = PipelineOptions(["--runner=A"]), PipelineOptions(["--runner=B"])
    view = options.view_as(StandardOptions)
    assert options.view_as(StandardOptions) is view
    assert isinstance(options.view_as(SetupOptions), SetupOptions)
    assert (view.runner, others.view_as(StandardOptions).runner) == ("A", "B")
    options.view_as(StandardOptions).streaming = True
    assert view.view_as(SetupOptions).view_as(StandardOptions).streaming is True
    assert others.view_as(StandardOptions).streaming is False


def test_options_that_travel_keep_their_values(remembered):
    options = PipelineOptions(["--runner=A"])
    options.view_as(StandardOptions).streaming = True
    copy = pickle.loads(pickle.dumps(options))
    assert (copy.view_as(StandardOptions).runner, copy.view_as(StandardOptions).streaming) == ("A", True)
    copy.view_as(StandardOptions).streaming = False
    assert options.view_as(StandardOptions).streaming is True
