# SPDX-License-Identifier: Apache-2.0
"""Which stages a run would run, and the one reason why: the launcher's own questions, asked without launching."""

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

_LABELS = {"state": "what is in production"}
Outputs = dict[str, list[types.Artifact]]


class StagePlan(NamedTuple):
    """What would become of a stage: whether it `runs`, or its former result is used again, and the reason."""

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
    """Asks for each node, in the order in which they would run.

    Args:
        ir: the compiled graph.
        output: folder of the runs; nothing in it is changed.
        code: node id -> path of each file that its code is made of -> digest.
        code_digests: as for `stages.run`.
        fresh: whether the cache would be left aside.
    """
    answers: list[StagePlan] = []
    found: dict[str, Outputs] = {}
    with (
        _copy_of(output / "metadata.db") as connection,
        metadata.Metadata(connection) as handle,
        cache.by_content(output),
    ):
        pipeline_metadata.relocate(handle.store, output)
        for node in (one.pipeline_node for one in ir.nodes):
            name = node.node_info.id
            nodes.add_code_digest(node, code_digests[name])
            if fresh:
                answers.append(StagePlan(name, True, "--fresh runs every stage"))
                continue
            if name in nodes.NEVER_CACHED:
                answers.append(StagePlan(name, True, "it decides what is pushed, and so runs each time"))
                continue
            producers = {
                channel.producer_node_query.id: key
                for key, spec in node.inputs.inputs.items()
                for channel in spec.channels
            }
            above = next((answer.stage for answer in answers if answer.runs and answer.stage in producers), None)
            if above:
                answers.append(StagePlan(name, True, f"{above} runs, and this works on what comes out of it"))
                continue
            outputs = _cached(handle, ir, node, found)
            if outputs is None:
                answers.append(StagePlan(name, True, _reason(handle, ir, node, output, code[name])))
            else:
                found[name] = outputs
                answers.append(StagePlan(name, False, "nothing that it depends on has changed"))
    return answers


@contextlib.contextmanager
def _copy_of(file: pathlib.Path) -> Iterator[Any]:
    """A copy to ask: asking TFX for a cached result makes an entry."""
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


def _cached(
    handle: metadata.Metadata, ir: pipeline_pb2.Pipeline, node: pipeline_pb2.PipelineNode, found: Mapping[str, Outputs]
) -> Outputs | None:
    """The result that the launcher would use again, None without one."""
    inputs = {
        key: [
            artifact
            for channel in spec.channels
            for artifact in found[channel.producer_node_query.id][channel.output_key]
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
    """What is not as it was when this stage last came to its end."""
    former = _last(handle, ir, node)
    if former is None:
        return "it has not come to its end yet"
    for artifact in _outputs_of(handle, former):
        if fault := cache.fault(artifact):
            return f"its result in {artifact.uri} {fault}"
    was = {key: getattr(value, value.WhichOneof("value")) for key, value in former.custom_properties.items()}
    now = _parameters(node)
    if was.get("code_digest") != now["code_digest"]:
        return _changed_files(_files_of(handle, former, output), code)
    for key in sorted(now.keys() | was.keys()):
        if key in now and key not in cache.LOCATIONS and (difference := _difference(key, was.get(key), now[key])):
            return difference
    return "what it works on has changed"


def _last(
    handle: metadata.Metadata, ir: pipeline_pb2.Pipeline, node: pipeline_pb2.PipelineNode
) -> metadata_store_pb2.Execution | None:
    context = handle.store.get_context_by_type_and_name("node", f"{ir.pipeline_info.id}.{node.node_info.id}")
    executions = handle.store.get_executions_by_context(context.id) if context else []
    ended = [one for one in executions if one.last_known_state == metadata_store_pb2.Execution.COMPLETE]
    return max(ended, key=lambda one: one.id, default=None)


def _outputs_of(
    handle: metadata.Metadata, execution: metadata_store_pb2.Execution
) -> list[metadata_store_pb2.Artifact]:
    events = handle.store.get_events_by_execution_ids([execution.id])
    made = [event.artifact_id for event in events if event.type == metadata_store_pb2.Event.OUTPUT]
    artifacts: list[metadata_store_pb2.Artifact] = handle.store.get_artifacts_by_id(made)
    return artifacts


def _files_of(
    handle: metadata.Metadata, execution: metadata_store_pb2.Execution, output: pathlib.Path
) -> dict[str, str]:
    """The digests of the project's files in the run that an execution belongs to, empty where they are not known."""
    for context in handle.store.get_contexts_by_execution(execution.id):
        path = output / "runs" / context.name / run_record.RECORD_FILE
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # pruned, or damaged
            return dict((run_record.read_record(path.parent)["fingerprint"] or {}).get("files", {}))
    return {}


def _changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    if not before:
        return "its code has changed"
    changed = [path for path, digest in sorted(now.items()) if before.get(path) != digest]
    more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{changed[0]} changed{more}" if changed else "its code no longer uses a file that it used"


def _difference(name: str, before: Any, now: Any) -> str:
    """The first difference of two values, in words; JSON in strings is looked into."""
    if isinstance(now, str) and isinstance(before, str):
        with contextlib.suppress(ValueError):
            parsed = json.loads(before), json.loads(now)
            if all(isinstance(value, dict) for value in parsed):
                before, now = parsed
    if isinstance(now, dict) and isinstance(before, dict):
        keys = [key for key in sorted(now.keys() | before.keys()) if not key.endswith(("code_digest", "checkpoints"))]
        return next((said for key in keys if (said := _difference(key, before.get(key), now.get(key)))), "")
    if before == now or (before is None and now in ("", None)):
        return ""
    return f"{_LABELS.get(name, name)} changed from {_short(before)} to {_short(now)}"


def _short(value: Any) -> str:
    text = "nothing" if value in (None, "") else str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
