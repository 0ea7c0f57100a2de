# SPDX-License-Identifier: Apache-2.0
"""Pushed models and artifacts in ML Metadata. It needs ml_metadata, but neither TFX nor TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_metadata import errors
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2

from components.errors import BadInput
from pipeline import database as database_file

PUSHED_MODEL, ROLLBACK = "PushedModel", "Rollback"
_STATES = {
    metadata_store_pb2.Execution.COMPLETE: "done",
    metadata_store_pb2.Execution.CACHED: "cached",
    metadata_store_pb2.Execution.FAILED: "failed",
}
_DELETED = metadata_store_pb2.Artifact.DELETED
# More than the longest path in the graph, even of a model that was rolled back many times.
_HOPS = 60


class Push(NamedTuple):
    """One push or rollback: `path` is the version's path or URL; `provenance` is empty if it was not recorded."""

    artifact_id: int
    version: int
    path: str
    provenance: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """One stage that led to a model: an execution in the run `run_id`, and its outputs (key -> URI).

    `started_at` is in UTC, ISO 8601; `code_sha256` is None if it was not recorded.
    """

    stage: str
    run_id: str
    state: str
    started_at: str
    seconds: float
    code_sha256: str | None
    outputs: dict[str, str]


class MetadataError(Exception):
    """The metadata do not exist or cannot be read; the message is one sentence."""


def connect(database: pathlib.Path, *, write: bool = False) -> metadata_store.MetadataStore:
    """Opens the database of an output folder.

    Raises:
        MetadataError: it does not exist or cannot be read.
    """
    if not database.exists():
        raise MetadataError(f"There are no metadata in {database}.")
    try:
        database_file.check(database, write=write)
    except BadInput as error:
        raise _metadata_error(error) from None
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(database)
    modes = metadata_store_pb2.SqliteMetadataSourceConfig
    connection.sqlite.connection_mode = modes.READWRITE if write else modes.READONLY
    try:
        return metadata_store.MetadataStore(connection)
    except Exception as error:  # RuntimeError for another file, other errors for a damaged one
        reason = str(error).partition(" query:")[0]
        raise MetadataError(f"The metadata in {database} cannot be read: {' '.join(reason.split())}.") from None


@contextlib.contextmanager
def translate_errors(database: pathlib.Path) -> Iterator[None]:
    """Turns errors of an open database, such as another program's lock, into `MetadataError`."""
    try:
        yield
    except errors.StatusError as error:
        raise _metadata_error(database_file.refusal(database, str(error))) from None


def _metadata_error(error: BadInput) -> MetadataError:
    sentence = str(error)
    return MetadataError(f"{sentence[0].upper()}{sentence[1:]}.")


def read_pushes(store: metadata_store.MetadataStore) -> list[Push]:
    """Returns every push and rollback, the oldest first."""
    pushes = []
    for artifact in sorted(store.get_artifacts_by_type(PUSHED_MODEL), key=lambda artifact: artifact.id):
        properties = artifact.custom_properties
        if properties["pushed"].int_value:
            text = properties["provenance"].string_value
            pushes.append(
                Push(
                    artifact.id,
                    properties["version"].int_value,
                    properties["path"].string_value,
                    json.loads(text) if text else {},
                )
            )
    return pushes


def find_push(pushes: Iterable[Push], number: int, location: str, provenance: Mapping[str, Any]) -> Push | None:
    """Returns the push that made a version.

    Args:
        pushes: see `read_pushes`.
        number: the version.
        location: its path or URL.
        provenance: of the version. It identifies the push, even if the folder was moved or made again. If it is empty,
            the push is the last one to that location, or to the one before the folder was moved.
    """
    matches = [push for push in pushes if push.version == number]
    if provenance:
        keys = ("run_id", "pushed_at")
        matches = [push for push in matches if all(push.provenance.get(key) == provenance.get(key) for key in keys)]
    else:
        exact = [push for push in matches if push.path == location]
        matches = exact or [push for push in matches if push.path.split("/")[-2:] == location.split("/")[-2:]]
    return matches[-1] if matches else None


def read_steps(store: metadata_store.MetadataStore, artifact_id: int, output: pathlib.Path) -> list[Step]:
    """Returns the executions that made an artifact and its ancestors, in the order of time.

    Args:
        store: the metadata.
        artifact_id: of the artifact.
        output: the output folder at its present location; the outputs' URIs are below it.
    """
    graph = _upstream(store, artifact_id)
    roots = _old_outputs(graph.artifacts, output)
    uris = {artifact.id: _move_path(artifact.uri, roots, output) for artifact in graph.artifacts}
    producers: dict[int, tuple[int, str]] = {}  # artifact -> the first execution that made it, and the output's key
    for event in sorted(graph.events, key=lambda event: event.execution_id):
        if event.type == metadata_store_pb2.Event.OUTPUT:
            producers.setdefault(event.artifact_id, (event.execution_id, event.path.steps[0].key))
    outputs: dict[int, dict[str, str]] = {}
    for artifact, (execution, key) in producers.items():
        outputs.setdefault(execution, {})[key] = uris[artifact]
    return [
        _step(graph, execution, outputs[execution.id])
        for execution in sorted(graph.executions, key=lambda execution: execution.id)
        if execution.id in outputs
    ]


def delete_unused(store: metadata_store.MetadataStore, run_ids: Iterable[str]) -> set[str]:
    """Marks the stages' artifacts that none of these runs used or made as deleted, so that no run reuses them.

    Their lineage remains.

    Returns:
        The other artifacts, each as `artifact_path`, which holds even if the output folder was moved.
    """
    contexts = [store.get_context_by_type_and_name("pipeline_run", run_id) for run_id in run_ids]
    executions = [
        execution.id
        for context in contexts
        if context is not None
        for execution in store.get_executions_by_context(context.id)
    ]
    used = {event.artifact_id for event in store.get_events_by_execution_ids(executions)} if executions else set()
    artifacts = [artifact for artifact in store.get_artifacts() if artifact_path(artifact.uri)]
    unused = [artifact for artifact in artifacts if artifact.id not in used and artifact.state != _DELETED]
    for artifact in unused:
        artifact.state = _DELETED
    if unused:
        store.put_artifacts(unused)
    return {artifact_path(artifact.uri) for artifact in artifacts if artifact.id in used}


def artifact_path(uri: str) -> str:
    """Returns the path of a stage's artifact in `pipeline_root`, `NODE/KEY/EXECUTION`; "" for another URI."""
    parts = pathlib.PurePath(uri).parts
    return "/".join(parts[-3:]) if parts[-4:-3] == ("pipeline_root",) else ""


def relocate(store: metadata_store.MetadataStore, output: pathlib.Path) -> None:
    """Makes the metadata of an output folder that was copied or moved refer to its own files only.

    Artifacts and versions have the same paths in the folder as before. A missing file is noticed when an artifact is
    reused, by the digest of its content.
    """
    artifacts = store.get_artifacts()
    roots = _old_outputs(artifacts, output)
    if not roots:
        return
    executions = store.get_executions()
    for artifact in artifacts:
        artifact.uri = _move_path(artifact.uri, roots, output)
    for name, rows in (("path", artifacts), ("serving_dir", executions)):
        for row in rows:
            if name in row.custom_properties:
                path = row.custom_properties[name]
                path.string_value = _move_path(path.string_value, roots, output)
    # Artifacts last: they tell whether there is anything to do, should this process be killed between the two.
    store.put_executions(executions)
    store.put_artifacts(artifacts)


def _old_outputs(artifacts: Iterable[metadata_store_pb2.Artifact], output: pathlib.Path) -> set[str]:
    """Returns the paths that an output folder had when stages made the artifacts, without its present one."""
    paths = ((artifact.uri, artifact_path(artifact.uri)) for artifact in artifacts)
    return {uri.removesuffix(f"/pipeline_root/{path}") for uri, path in paths if path} - {str(output)}


def _move_path(path: str, roots: Iterable[str], output: pathlib.Path) -> str:
    # Of nested folders, the innermost.
    root = max((root for root in (*roots, str(output)) if path.startswith(f"{root}/")), key=len, default=None)
    return path if root is None else f"{output}{path.removeprefix(root)}"


def record_rollback(
    store: metadata_store.MetadataStore, origin: Push | None, version: int, path: str, provenance: Mapping[str, Any]
) -> None:
    """Records that `version` has the model of an earlier push again, `origin`; None if that push is unknown."""
    execution = metadata_store_pb2.Execution(
        type_id=store.put_execution_type(metadata_store_pb2.ExecutionType(name=ROLLBACK), can_add_fields=True),
        last_known_state=metadata_store_pb2.Execution.COMPLETE,
    )
    artifact = metadata_store_pb2.Artifact(
        type_id=store.put_artifact_type(metadata_store_pb2.ArtifactType(name=PUSHED_MODEL), can_omit_fields=True),
        uri=path,
        state=metadata_store_pb2.Artifact.LIVE,
    )
    artifact.custom_properties["pushed"].int_value = 1
    artifact.custom_properties["version"].int_value = version
    artifact.custom_properties["path"].string_value = path
    artifact.custom_properties["provenance"].string_value = json.dumps(provenance)
    inputs = store.get_artifacts_by_id([origin.artifact_id]) if origin else []
    events = [(model, _event(metadata_store_pb2.Event.INPUT, "model")) for model in inputs]
    store.put_execution(execution, [*events, (artifact, _event(metadata_store_pb2.Event.OUTPUT, "pushed_model"))], [])


def _event(kind: Any, key: str) -> metadata_store_pb2.Event:
    event = metadata_store_pb2.Event(type=kind)
    event.path.steps.add(key=key)
    event.path.steps.add(index=0)
    return event


def _upstream(store: metadata_store.MetadataStore, artifact_id: int) -> metadata_store_pb2.LineageGraph:
    options = metadata_store_pb2.LineageSubgraphQueryOptions
    return store.get_lineage_subgraph(
        options(
            starting_artifacts=options.StartingNodes(filter_query=f"id = {artifact_id}"),
            max_num_hops=_HOPS,
            direction=options.UPSTREAM,
        )
    )


def _step(graph: metadata_store_pb2.LineageGraph, execution: Any, outputs: dict[str, str]) -> Step:
    contexts = {context.id: context for context in graph.contexts}
    names = {
        contexts[association.context_id].type: contexts[association.context_id].name
        for association in graph.associations
        if association.execution_id == execution.id and association.context_id in contexts
    }
    started, ended = (
        datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
        for milliseconds in (execution.create_time_since_epoch, execution.last_update_time_since_epoch)
    )
    code = execution.custom_properties
    return Step(
        # A node's context is named PIPELINE.NODE; a rollback has none.
        stage=names.get("node", f".{execution.type.lower()}").rpartition(".")[2],
        run_id=names.get("pipeline_run", ""),
        state=_STATES.get(execution.last_known_state, "unknown"),
        started_at=started.isoformat(timespec="seconds"),
        seconds=round(max((ended - started).total_seconds(), 0.0), 2),  # a clock may have been set back
        code_sha256=code["code_digest"].string_value or None if "code_digest" in code else None,
        outputs=dict(sorted(outputs.items())),
    )
