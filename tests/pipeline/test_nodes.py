# SPDX-License-Identifier: Apache-2.0
"""The order of nodes: after their inputs, two at a time if independent, none after a failure."""

import pathlib
import time

import pytest
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import String

from components.errors import BadInput
from pipeline.local import nodes


@component
def Meet(folder: Parameter[str], name: Parameter[str], other: Parameter[str], met: OutputArtifact[String]) -> None:
    """Says that it is here and waits for the other; without another it does not wait."""
    (pathlib.Path(folder) / name).touch()
    late = time.monotonic() + 60
    while other and not (pathlib.Path(folder) / other).exists():
        if time.monotonic() > late:
            raise BadInput(f"{name} must meet {other}, which never came")
        time.sleep(0.01)
    met.value = name


@component
def Fail(folder: Parameter[str]) -> None:
    """Fails once the other is here."""
    while not (pathlib.Path(folder) / "other").exists():
        time.sleep(0.01)
    raise BadInput("told to fail")


@component
def Later(met: InputArtifact[String], folder: Parameter[str]) -> None:
    """Leaves a trace."""
    (pathlib.Path(folder) / "later").touch()


def run(components, output, side_by_side=True):
    states = []

    def append_state(stage):
        states.append((stage.name, stage.state))

    output.mkdir(exist_ok=True)
    ir = nodes.compile_graph(components, output, ())
    digests = {node.pipeline_node.node_info.id: "" for node in ir.nodes}
    try:
        return nodes.run_nodes(ir, "run", digests, False, append_state, side_by_side), states
    except nodes.StageFailed as failure:
        return failure, states


def meet(folder, name, other=""):
    return Meet(folder=str(folder), name=name, other=other).with_id(name)


def test_two_that_need_nothing_of_each_other_run_side_by_side(tmp_path):
    ended, _ = run([meet(tmp_path, "one", "other"), meet(tmp_path, "other", "one")], tmp_path / "output")
    assert [(stage.name, stage.state) for stage in ended] == [("one", "done"), ("other", "done")]
    assert all(stage.content_digest("met") for stage in ended)


@pytest.mark.parametrize(("cores", "side_by_side"), [(1, True), (2, False)], ids=["one core", "not here"])
def test_else_they_run_in_the_order_of_the_graph(cores, side_by_side, tmp_path, monkeypatch):
    monkeypatch.setattr(nodes, "_CORES", cores)
    _, states = run([meet(tmp_path, "one"), meet(tmp_path, "other")], tmp_path / "output", side_by_side)
    assert states == [("one", "running"), ("one", "done"), ("other", "running"), ("other", "done")]


def test_one_that_needs_another_waits_for_it(tmp_path):
    first = meet(tmp_path, "first")
    _, states = run(
        [first, Later(met=first.outputs["met"], folder=str(tmp_path)).with_id("later")], tmp_path / "output"
    )
    assert states == [("first", "running"), ("first", "done"), ("later", "running"), ("later", "done")]


def test_of_two_that_fail_side_by_side_the_first_of_the_graph_says_why(tmp_path):
    """The data gate stands before Transform, so that a Transform that fails on bad data does not hide what is wrong."""
    (tmp_path / "other").touch()
    gate = Fail(folder=str(tmp_path)).with_id("gate")
    failure, _ = run([gate, Fail(folder=str(tmp_path)).with_id("transform")], tmp_path / "output")
    assert {stage.name: stage.state for stage in failure.stages} == {"gate": "failed", "transform": "failed"}
    assert failure.stage.name == "gate"


@pytest.mark.parametrize("order", [1, -1])
def test_a_failure_waits_for_what_runs_beside_it_and_lets_nothing_else_begin(tmp_path, order):
    other = meet(tmp_path, "other")
    nodes = [Fail(folder=str(tmp_path)).with_id("fail"), other][::order]
    later = Later(met=other.outputs["met"], folder=str(tmp_path)).with_id("later")
    failure, _ = run([*nodes, later], tmp_path / "output")
    assert failure.stage.name == "fail"
    assert str(failure.__cause__) == "told to fail"
    assert {stage.name: stage.state for stage in failure.stages} == {
        "fail": "failed", "other": "done", "later": "skipped",
    }  # fmt: skip
    assert not (tmp_path / "later").exists()
