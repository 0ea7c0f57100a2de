# SPDX-License-Identifier: Apache-2.0
"""What ML Metadata know of the models that were pushed. Needs ml_metadata alone, and neither TFX nor TensorFlow."""

from __future__ import annotations

import contextlib
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
# More steps than the longest way through the graph has, were a model rolled back ever so often.
_HOPS = 60


class Pushed(NamedTuple):
    """One push or rollback: `path` is the version's path or URL, `provenance` empty where it was not kept."""

    artifact_id: int
    version: int
    path: str
    provenance: dict[str, Any]


class Step(NamedTuple):
    """One stage on the way to a model: the execution that made `outputs` (key -> URI), in `run_id`."""

    stage: str
    run_id: str
    state: str
    began: str
    seconds: float
    code_sha256: str | None
    outputs: dict[str, str]


class LostError(Exception):
    """The metadata are not there or cannot be read; says so in one sentence."""


def connect(database: pathlib.Path, *, write: bool = False) -> metadata_store.MetadataStore:
    """Opens the database of an output folder.

    Raises:
        LostError: it is not there or not readable.
    """
    if not database.exists():
        raise LostError(f"There are no metadata in {database}.")
    try:
        database_file.check(database, write=write)
    except BadInput as error:
        raise _lost(error) from None
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(database)
    modes = metadata_store_pb2.SqliteMetadataSourceConfig
    connection.sqlite.connection_mode = modes.READWRITE if write else modes.READONLY
    try:
        return metadata_store.MetadataStore(connection)
    except Exception as error:  # RuntimeError for what is no database, others for one that is damaged
        reason = str(error).partition(" query:")[0]
        raise LostError(f"The metadata in {database} cannot be read: {' '.join(reason.split())}.") from None


@contextlib.contextmanager
def reading(database: pathlib.Path) -> Iterator[None]:
    """Turns what ML Metadata raise of an open database, such as another program's lock on it, into `LostError`."""
    try:
        yield
    except errors.StatusError as error:
        raise _lost(database_file.refusal(database, str(error))) from None


def _lost(error: BadInput) -> LostError:
    sentence = str(error)
    return LostError(f"{sentence[0].upper()}{sentence[1:]}.")


def pushed(store: metadata_store.MetadataStore) -> list[Pushed]:
    """Every push and rollback, oldest first."""
    found = []
    for artifact in sorted(store.get_artifacts_by_type(PUSHED_MODEL), key=lambda artifact: artifact.id):
        properties = artifact.custom_properties
        if properties["pushed"].int_value:
            text = properties["provenance"].string_value
            found.append(
                Pushed(
                    artifact.id,
                    properties["version"].int_value,
                    properties["path"].string_value,
                    json.loads(text) if text else {},
                )
            )
    return found


def matching(pushes: Iterable[Pushed], number: int, location: str, beside: Mapping[str, Any]) -> Pushed | None:
    """The push that made a version.

    Args:
        pushes: what `pushed` gave.
        number: the version.
        location: its path or URL.
        beside: the provenance that lies there; it tells which push it was, also when the folder was moved or made anew.
            Empty where there is none: then the last push to that place, or to where that was before it was moved.
    """
    of_number = [push for push in pushes if push.version == number]
    if beside:
        keys = ("run_id", "pushed_at")
        of_number = [push for push in of_number if all(push.provenance.get(key) == beside.get(key) for key in keys)]
    else:
        there = [push for push in of_number if push.path == location]
        moved = [push for push in of_number if push.path.split("/")[-2:] == location.split("/")[-2:]]
        of_number = there or moved
    return of_number[-1] if of_number else None


def steps(store: metadata_store.MetadataStore, artifact_id: int, output: pathlib.Path) -> list[Step]:
    """What came before an artifact, in the order of time: for each artifact on the way the execution that made it.

    Args:
        store: the metadata.
        artifact_id: of the artifact.
        output: the folder that they are of, wherever it was when the artifacts were made.
    """
    graph = _upstream(store, artifact_id)
    roots = _former_outputs(graph.artifacts, output)
    uris = {artifact.id: _moved(artifact.uri, roots, output) for artifact in graph.artifacts}
    made: dict[int, tuple[int, str]] = {}  # artifact -> the execution that made it first, and under which key
    for event in sorted(graph.events, key=lambda event: event.execution_id):
        if event.type == metadata_store_pb2.Event.OUTPUT:
            made.setdefault(event.artifact_id, (event.execution_id, event.path.steps[0].key))
    makers = {execution for execution, _ in made.values()}
    return [
        _step(graph, execution, {key: uris[id_] for id_, (maker, key) in made.items() if maker == execution.id})
        for execution in sorted(graph.executions, key=lambda execution: execution.id)
        if execution.id in makers
    ]


def keep_only(store: metadata_store.MetadataStore, run_ids: Iterable[str]) -> set[str]:
    """Marks every artifact of a stage as deleted that none of these runs used or made; returns those that stay.

    Artifacts that are marked are no cached results any longer. What led to them stays known.

    Returns:
        For each its place in `pipeline_root`, as `NODE/KEY/EXECUTION`: true also where the output folder was moved.
    """
    contexts = [store.get_context_by_type_and_name("pipeline_run", run_id) for run_id in run_ids]
    executions = [
        execution.id
        for context in contexts
        if context is not None
        for execution in store.get_executions_by_context(context.id)
    ]
    kept = {event.artifact_id for event in store.get_events_by_execution_ids(executions)} if executions else set()
    staged = [artifact for artifact in store.get_artifacts() if place_of(artifact.uri)]
    gone = [artifact for artifact in staged if artifact.id not in kept and artifact.state != _DELETED]
    for artifact in gone:
        artifact.state = _DELETED
    if gone:
        store.put_artifacts(gone)
    return {place_of(artifact.uri) for artifact in staged if artifact.id in kept}


def place_of(uri: str) -> str:
    """`NODE/KEY/EXECUTION` of an artifact that a stage made, empty for another."""
    parts = pathlib.PurePath(uri).parts
    return "/".join(parts[-3:]) if parts[-4:-3] == ("pipeline_root",) else ""


def relocate(store: metadata_store.MetadataStore, output: pathlib.Path) -> None:
    """Lets the metadata of an output folder that was copied or moved name its own files, and no others.

    What stages made lies at the same place in `pipeline_root`, and what was pushed into the folder is in it again. A
    file that is not there is missed when it is looked for: each artifact bears the digest of its content.
    """
    artifacts = store.get_artifacts()
    roots = _former_outputs(artifacts, output)
    if not roots:
        return
    executions = store.get_executions()
    for artifact in artifacts:
        artifact.uri = _moved(artifact.uri, roots, output)
    for name, rows in (("path", artifacts), ("serving_dir", executions)):
        for row in rows:
            if name in row.custom_properties:
                path = row.custom_properties[name]
                path.string_value = _moved(path.string_value, roots, output)
    # In this order: should this process be killed between the two, the next one does both again.
    store.put_executions(executions)
    store.put_artifacts(artifacts)


def _former_outputs(artifacts: Iterable[metadata_store_pb2.Artifact], output: pathlib.Path) -> set[str]:
    """The paths that an output folder had when the stages' artifacts were made, without the one that it has now."""
    places = ((artifact.uri, place_of(artifact.uri)) for artifact in artifacts)
    return {uri.removesuffix(f"/pipeline_root/{place}") for uri, place in places if place} - {str(output)}


def _moved(path: str, roots: Iterable[str], output: pathlib.Path) -> str:
    # Of two folders, one in the other, the inner one.
    root = max((root for root in (*roots, str(output)) if path.startswith(f"{root}/")), key=len, default=None)
    return path if root is None else f"{output}{path.removeprefix(root)}"


def record_rollback(
    store: metadata_store.MetadataStore, origin: Pushed | None, version: int, path: str, provenance: Mapping[str, Any]
) -> None:
    """Notes that `version` is the model of an earlier push, `origin`, again; None where that is not known."""
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
    given = store.get_artifacts_by_id([origin.artifact_id]) if origin else []
    events = [(one, _event(metadata_store_pb2.Event.INPUT, "model")) for one in given]
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
    began, ended = (
        datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
        for milliseconds in (execution.create_time_since_epoch, execution.last_update_time_since_epoch)
    )
    code = execution.custom_properties
    return Step(
        # A node's context is named PIPELINE.NODE; a rollback has none.
        stage=names.get("node", f".{execution.type.lower()}").rpartition(".")[2],
        run_id=names.get("pipeline_run", ""),
        state=_STATES.get(execution.last_known_state, "unknown"),
        began=began.isoformat(timespec="seconds"),
        seconds=round(max((ended - began).total_seconds(), 0.0), 2),  # a clock may have been set back
        code_sha256=code["code_digest"].string_value or None if "code_digest" in code else None,
        outputs=dict(sorted(outputs.items())),
    )
