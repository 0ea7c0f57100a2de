# SPDX-License-Identifier: Apache-2.0
import pytest
from tfx.orchestration import data_types, pipeline
from tfx.types import standard_artifacts

from components.ingest import component, executor


def parameters(tmp_path, **arguments):
    """The execution properties as the compiled pipeline has them."""
    from tfx.dsl.compiler import compiler

    node = component.ingest(**arguments)
    compiled = compiler.Compiler().compile(pipeline.Pipeline("p", str(tmp_path), components=[node]))
    return dict(compiled.nodes[0].pipeline_node.parameters.parameters.items())


def test_the_stage_emits_examples_and_runs_our_executor():
    node = component.ingest(data_dir="/data", dataset_name="mnist")

    assert node.outputs["examples"].type is standard_artifacts.Examples
    assert node.executor_spec.executor_class is executor.IngestExecutor
    assert not node.inputs


def test_arguments_become_execution_properties(tmp_path):
    properties = parameters(tmp_path, data_dir="/data", span=3, dataset_name="mnist", data_sha256="ab" * 32)

    assert properties["data_dir"].field_value.string_value == "/data"
    assert properties["span"].field_value.int_value == 3
    assert properties["dataset_name"].field_value.string_value == "mnist"
    assert properties["data_sha256"].field_value.string_value == "ab" * 32


def test_without_a_span_there_is_no_such_property(tmp_path):
    assert "span" not in parameters(tmp_path, data_dir="/data", dataset_name="mnist")


def test_folder_and_span_can_be_left_to_the_run(tmp_path):
    properties = parameters(
        tmp_path,
        data_dir=data_types.RuntimeParameter("data_dir", ptype=str),
        span=data_types.RuntimeParameter("span", ptype=int, default=-1),
        dataset_name="custom",
    )

    assert properties["data_dir"].runtime_parameter.name == "data_dir"
    assert properties["span"].runtime_parameter.name == "span"


def test_a_wrong_type_is_refused():
    with pytest.raises(TypeError, match="span"):
        component.ingest(data_dir="/data", dataset_name="mnist", span="3")
