# SPDX-License-Identifier: Apache-2.0
"""The options of Beam's pipelines, and patches that keep its results."""

from __future__ import annotations

import os
import pathlib
import pickle
import subprocess
import sys

import apache_beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.runners.worker import statecache
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import core, userstate
from apache_beam.transforms.userstate import CombiningValueStateSpec
from apache_beam.utils.counters import CounterFactory

from pipeline import beam

ROOT = pathlib.Path(__file__).parents[2]
NO_PACKAGE = "--sdk_container_image=none"


@pytest.mark.parametrize(
    ("options", "args"),
    [
        ([], ["--runner=FnApiRunner", NO_PACKAGE]),
        (["--direct_num_workers=2"], ["--runner=FnApiRunner", "--direct_num_workers=2", NO_PACKAGE]),
        (["--runner=FnApiRunner"], ["--runner=FnApiRunner", NO_PACKAGE]),
        (["--runner", "DirectRunner"], ["--runner", "DirectRunner", NO_PACKAGE]),
        (
            ["--runner=FlinkRunner", "--environment_type", "LOOPBACK"],
            ["--runner=FlinkRunner", "--environment_type", "LOOPBACK", NO_PACKAGE],
        ),
        # Remote workers get TFX's package, unless an image is named that has it.
        (["--runner=FlinkRunner"], ["--runner=FlinkRunner"]),
        (
            ["--runner=DataflowRunner", "--sdk_container_image=registry.example/mnist:1"],
            ["--runner=DataflowRunner", "--sdk_container_image=registry.example/mnist:1"],
        ),
        (["--sdk_container_image=mine"], ["--runner=FnApiRunner", "--sdk_container_image=mine"]),
    ],
)
def test_arguments(options, args):
    assert beam.arguments(options) == args


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], True), (["--runner=DirectRunner"], True), (["--runner", "FlinkRunner"], False), (["--runner=Spark"], False)],
)
def test_has_no_job_server(options, expected):
    assert beam.has_no_job_server(options) is expected


def test_a_started_process_can_import_this_project_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for _ in range(2):
        beam.let_workers_import()
    assert os.environ["PYTHONPATH"] == f"{ROOT}{os.pathsep}{tmp_path}"
    subprocess.run([sys.executable, "-c", "import components.features"], cwd=tmp_path, check=True)


@pytest.fixture
def patched(monkeypatch):
    monkeypatch.setattr(PipelineOptions, "view_as", PipelineOptions.view_as)
    monkeypatch.setattr(core, "get_function_args_defaults", core.get_function_args_defaults)
    monkeypatch.setattr(StateSampler, "__init__", StateSampler.__init__)
    monkeypatch.setattr(worker_handlers, "STATE_CACHE_SIZE_MB", worker_handlers.STATE_CACHE_SIZE_MB)
    beam.patch()
    once = PipelineOptions.view_as
    beam.patch()
    assert PipelineOptions.view_as is once


def test_a_view_is_made_once_and_all_share_their_values(patched):
    options, unrelated = PipelineOptions(["--runner=A"]), PipelineOptions(["--runner=B"])
    view = options.view_as(StandardOptions)
    assert options.view_as(StandardOptions) is view
    assert isinstance(options.view_as(SetupOptions), SetupOptions)
    assert (view.runner, unrelated.view_as(StandardOptions).runner) == ("A", "B")
    options.view_as(StandardOptions).streaming = True
    assert view.view_as(SetupOptions).view_as(StandardOptions).streaming is True
    assert unrelated.view_as(StandardOptions).streaming is False


def test_pickled_options_keep_their_values(patched):
    options = PipelineOptions(["--runner=A"])
    options.view_as(StandardOptions).streaming = True
    copy = pickle.loads(pickle.dumps(options))
    assert (copy.view_as(StandardOptions).runner, copy.view_as(StandardOptions).streaming) == ("A", True)
    copy.view_as(StandardOptions).streaming = False
    assert options.view_as(StandardOptions).streaming is True


COUNT = apache_beam.DoFn.StateParam(CombiningValueStateSpec("count", sum))


class Stateful(apache_beam.DoFn):
    def process(self, element, count=COUNT):
        yield element


def test_the_signature_of_a_method_is_read_once_and_that_of_a_function_each_time(patched, monkeypatch):
    inspected = []
    signature = core.get_signature

    def inspect(f):
        inspected.append(f)
        return signature(f)

    monkeypatch.setattr(core, "get_signature", inspect)
    first, second = Stateful(), Stateful()
    assert [do_fn.get_function_arguments("process")[0] for do_fn in (first, second)] == [["element", "count"]] * 2
    assert inspected == [first.process]
    first.get_function_arguments("process")[0].clear()  # a caller that changes a result changes its own copy
    assert first.get_function_arguments("process")[0] == ["element", "count"]
    assert core.get_function_args_defaults(lambda x, y=2: x) == (["x", "y"], [2])


def test_state_specs_of_a_do_fn_with_cached_arguments(patched):
    for _ in range(2):
        assert [spec.name for spec in userstate.get_dofn_specs(Stateful())[0]] == ["count"]
        assert not userstate.is_stateful_dofn(apache_beam.DoFn())


def test_a_bundle_waits_for_its_sampler_for_some_milliseconds(patched):
    sampler = StateSampler("a stage", CounterFactory())
    assert sampler.sampling_period_ms == 10
    sampler.start()
    sampler.stop()


def test_side_inputs_are_unchanged_and_not_weighed(patched, monkeypatch):
    def weigh(*args):
        raise AssertionError(args)

    monkeypatch.setattr(statecache, "get_deep_size", weigh)
    with apache_beam.Pipeline("FnApiRunner") as pipeline:
        numbers = pipeline | "numbers" >> apache_beam.Create([1, 2])
        factor = apache_beam.pvalue.AsSingleton(pipeline | "factor" >> apache_beam.Create([3]))
        products = numbers | apache_beam.Map(
            lambda x, y, z: (x * y, sorted(z)), factor, apache_beam.pvalue.AsList(numbers)
        )
        assert_that(products, equal_to([(3, [1, 2]), (6, [1, 2])]))
