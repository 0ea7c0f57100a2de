# SPDX-License-Identifier: Apache-2.0
"""Predicts the stages that a run would run, each with the reason, by the launcher's own look-ups in the cache."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.orchestration import data_types_utils, metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import cache_utils, inputs_utils, outputs_utils
from tfx.proto.orchestration import pipeline_pb2

from pipeline import database, run_record
from pipeline import metadata as pipeline_metadata
from pipeline.local import cache, nodes

_LABELS = {"state": "the version in production"}
Outputs = dict[str, list[types.Artifact]]


class StagePlan(NamedTuple):
    """The prediction for a stage: whether it `runs` or its former result is reused, and the reason."""

    stage: str
    runs: bool
    reason: str


def explain(
    ir: pipeline_pb2.Pipeline,
    output: pathlib.Path,
    code: Mapping[str, Mapping[str, str]],
    code_digests: Mapping[str, str],
    fresh: bool,
) -> list[StagePlan]:
    """Plans each node, in the order in which they would run.

    Args:
        ir: the compiled graph.
        output: folder of the runs; nothing in it is changed.
        code: node id -> path of each file of its code -> digest.
        code_digests: as of `nodes.run_nodes`.
        fresh: whether the run would bypass the cache.
    """
    plans: list[StagePlan] = []
    cached: dict[str, Outputs] = {}
    with (
        _copy_of(output / "metadata.db") as connection,
        metadata.Metadata(connection) as handle,
        cache.by_content(output),
    ):
        pipeline_metadata.relocate(handle.store, output)
        for node in (entry.pipeline_node for entry in ir.nodes):
            name = node.node_info.id
            nodes.add_code_digest(node, code_digests[name])
            if fresh:
                plans.append(StagePlan(name, True, "--fresh runs every stage"))
                continue
            if name in nodes.NEVER_CACHED:
                plans.append(StagePlan(name, True, "it decides what is pushed, and so runs each time"))
                continue
            producers = {
                channel.producer_node_query.id: key
                for key, spec in node.inputs.inputs.items()
                for channel in spec.channels
            }
            upstream = next((plan.stage for plan in plans if plan.runs and plan.stage in producers), None)
            if upstream:
                plans.append(StagePlan(name, True, f"{upstream} runs, and this stage reads its results"))
                continue
            outputs = _cached_outputs(handle, ir, node, cached)
            if outputs is None:
                plans.append(StagePlan(name, True, _reason(handle, ir, node, output, code[name])))
            else:
                cached[name] = outputs
                plans.append(StagePlan(name, False, "nothing that it depends on has changed"))
    return plans


@contextlib.contextmanager
def _copy_of(file: pathlib.Path) -> Iterator[Any]:
    """Yields the connection to a copy, as TFX's look-up of a cached result adds an entry."""
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "metadata.db"
        try:
            if file.exists():
                with (
                    contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as source,
                    contextlib.closing(sqlite3.connect(copy)) as target,
                ):
                    source.backup(target)
        except sqlite3.Error as error:
            raise database.refusal(file, str(error)) from None
        yield metadata.sqlite_metadata_connection_config(str(copy))


def _parameters(node: pipeline_pb2.PipelineNode) -> dict[str, Any]:
    return data_types_utils.build_parsed_value_dict(
        inputs_utils.resolve_parameters_with_schema(node_parameters=node.parameters)
    )


def _cached_outputs(
    handle: metadata.Metadata, ir: pipeline_pb2.Pipeline, node: pipeline_pb2.PipelineNode, cached: Mapping[str, Outputs]
) -> Outputs | None:
    """Returns the result that the launcher would reuse, None without one."""
    inputs = {
        key: [
            artifact
            for channel in spec.channels
            for artifact in cached[channel.producer_node_query.id][channel.output_key]
        ]
        for key, spec in node.inputs.inputs.items()
    }
    resolver = outputs_utils.OutputsResolver(node, ir.pipeline_info, ir.runtime_spec)
    context = cache_utils.get_cache_context(
        metadata_handle=handle,
        pipeline_node=node,
        pipeline_info=ir.pipeline_info,
        executor_spec=runner_utils.extract_executor_spec(
            runner_utils.extract_local_deployment_config(ir), node.node_info.id
        ),
        input_artifacts=inputs,
        output_artifacts=resolver.generate_output_artifacts(0),
        parameters=_parameters(node),
    )
    outputs: Outputs | None = cache_utils.get_cached_outputs(handle, context)
    return outputs


def _reason(
    handle: metadata.Metadata,
    ir: pipeline_pb2.Pipeline,
    node: pipeline_pb2.PipelineNode,
    output: pathlib.Path,
    code: Mapping[str, str],
) -> str:
    """Returns the first difference from the last time that this stage was done."""
    former = _last_execution(handle, ir, node)
    if former is None:
        return "it has not been completed yet"
    for artifact in _outputs_of(handle, former):
        if fault := cache.fault(artifact):
            return f"its result in {artifact.uri} {fault}"
    before = {key: getattr(value, value.WhichOneof("value")) for key, value in former.custom_properties.items()}
    now = _parameters(node)
    if before.get("code_digest") != now["code_digest"]:
        return _changed_files(_files_of(handle, former, output), code)
    for key in sorted(now):
        if key not in cache.LOCATIONS and (difference := _difference(key, before.get(key), now[key])):
            return difference
    return "its inputs have changed"


def _last_execution(
    handle: metadata.Metadata, ir: pipeline_pb2.Pipeline, node: pipeline_pb2.PipelineNode
) -> metadata_store_pb2.Execution | None:
    context = handle.store.get_context_by_type_and_name("node", f"{ir.pipeline_info.id}.{node.node_info.id}")
    executions = handle.store.get_executions_by_context(context.id) if context else []
    complete = metadata_store_pb2.Execution.COMPLETE
    ended = [execution for execution in executions if execution.last_known_state == complete]
    return max(ended, key=lambda execution: execution.id, default=None)


def _outputs_of(
    handle: metadata.Metadata, execution: metadata_store_pb2.Execution
) -> list[metadata_store_pb2.Artifact]:
    events = handle.store.get_events_by_execution_ids([execution.id])
    ids = [event.artifact_id for event in events if event.type == metadata_store_pb2.Event.OUTPUT]
    artifacts: list[metadata_store_pb2.Artifact] = handle.store.get_artifacts_by_id(ids)
    return artifacts


def _files_of(
    handle: metadata.Metadata, execution: metadata_store_pb2.Execution, output: pathlib.Path
) -> dict[str, str]:
    """Returns the digests of the project's files in the run of an execution, empty without a record of it."""
    for context in handle.store.get_contexts_by_execution(execution.id):
        with contextlib.suppress(OSError, ValueError):  # pruned, or damaged
            record = run_record.read_record(run_record.run_folder(output, context.name))
            return record.fingerprint.files if record.fingerprint else {}
    return {}


def _changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    if not before:
        return "its code has changed"
    changed = [path for path, digest in sorted(now.items()) if before.get(path) != digest]
    more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{changed[0]} changed{more}" if changed else "its code no longer uses a file that it used"


def _difference(name: str, before: Any, now: Any) -> str:
    """Returns the first difference of two values, in words, also inside strings of JSON; empty without one."""
    if isinstance(now, str) and isinstance(before, str):
        with contextlib.suppress(ValueError):
            parsed = json.loads(before), json.loads(now)
            if all(isinstance(value, dict) for value in parsed):
                before, now = parsed
    if isinstance(now, dict) and isinstance(before, dict):
        keys = [key for key in sorted(now.keys() | before.keys()) if not key.endswith(("code_digest", "checkpoints"))]
        differences = (_difference(key, before.get(key), now.get(key)) for key in keys)
        return next(filter(None, differences), "")
    if before == now or (before is None and now in ("", None)):
        return ""
    return f"{_LABELS.get(name, name)} changed from {_short(before)} to {_short(now)}"


def _short(value: Any) -> str:
    text = "nothing" if value in (None, "") else str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
