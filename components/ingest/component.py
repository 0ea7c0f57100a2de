# SPDX-License-Identifier: Apache-2.0
"""The graph's side of ingest: `IdxExampleGen`, an ExampleGen for IDX files, and its builder."""

from __future__ import annotations

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.orchestration import data_types
from tfx.types import component_spec, standard_artifacts
from tfx.types.channel import Channel

from components.findings import LABEL_OUT_OF_RANGE
from components.ingest import executor


class IdxExampleGenSpec(component_spec.ComponentSpec):
    """The interface of `IdxExampleGen`; `executor.IngestExecutor` describes its keys."""

    INPUTS: dict[str, component_spec.ChannelParameter] = {}
    OUTPUTS = {executor.EXAMPLES_KEY: component_spec.ChannelParameter(type=standard_artifacts.Examples)}
    PARAMETERS = {
        executor.DATA_DIR_KEY: component_spec.ExecutionParameter(type=str),
        executor.SPAN_KEY: component_spec.ExecutionParameter(type=int, optional=True),
        executor.DATASET_NAME_KEY: component_spec.ExecutionParameter(type=str),
        executor.DATA_SHA256_KEY: component_spec.ExecutionParameter(type=str),
        executor.ALLOW_KEY: component_spec.ExecutionParameter(type=str),
    }


class IdxExampleGen(base_beam_component.BaseBeamComponent):
    """Reads the four IDX files of a data set and emits Examples with the splits train, val and test.

    Not a `FileBasedExampleGen`: that one has a driver resolve spans and files, and on Kubeflow no driver runs. Here the
    executor does it, so one graph serves every orchestrator.
    """

    SPEC_CLASS = IdxExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.IngestExecutor)

    def __init__(
        self,
        data_dir: str | data_types.RuntimeParameter,
        dataset_name: str | data_types.RuntimeParameter,
        span: int | data_types.RuntimeParameter | None = None,
        data_sha256: str | data_types.RuntimeParameter = "",
        allow: str | data_types.RuntimeParameter = "",
    ) -> None:
        super().__init__(
            IdxExampleGenSpec(
                data_dir=data_dir,
                dataset_name=dataset_name,
                span=span,
                data_sha256=data_sha256,
                allow=allow,
                examples=Channel(type=standard_artifacts.Examples),
            )
        )


def ingest(
    *,
    data_dir: str | data_types.RuntimeParameter,
    dataset_name: str | data_types.RuntimeParameter,
    span: int | data_types.RuntimeParameter | None = None,
    data_sha256: str | data_types.RuntimeParameter = "",
    allow: str | data_types.RuntimeParameter = "",
) -> IdxExampleGen:
    """Builds the ingest stage.

    Args:
        data_dir: folder with the four IDX files or with spans, as the worker sees it, or its URL (`remote`).
        dataset_name: `mnist` or `digits`, which the contents must then be; or a name for contents that are neither.
        span: number of the span to read; None or a negative number: the newest.
        data_sha256: the SHA-256 that the data set must have (`source.Source.sha256`); empty: any.
        allow: comma-separated names of findings that are allowed; with `label-out-of-range` among them,
            images whose label is no class are left out.

    Returns:
        The component; its output `examples` is described at `executor.IngestExecutor`.
    """
    if isinstance(allow, str):  # no other finding changes the Examples, so none may invalidate their cache
        allow = ",".join({LABEL_OUT_OF_RANGE} & set(allow.split(",")))
    return IdxExampleGen(data_dir, dataset_name, span, data_sha256, allow)
