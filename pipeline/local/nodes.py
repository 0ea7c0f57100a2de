# SPDX-License-Identifier: Apache-2.0
"""Runs the graph's nodes on this machine, two at a time where they do not wait for each other; reports their states.

TFX's LocalDagRunner says nothing between the first node and the last, and returns as if all were well when a node's
inputs cannot be resolved. This does what its `run_with_ir` does, node by node, and looks after each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

from ml_metadata import errors
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import compiler, constants
from tfx.dsl.components.base.base_node import BaseNode
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils
from tfx.proto.orchestration import pipeline_pb2

from components.errors import ProjectError
from pipeline import beam, database
from pipeline.local import cache

RUNNING, DONE, CACHED, FAILED, SKIPPED = "running", "done", "cached", "failed", "skipped"
# These look at what the cache key cannot cover: the serving folder as it is now.
NEVER_CACHED = frozenset({"push", "data-gate"})
_CORES = os.cpu_count() or 1
# ML Metadata's file takes one connection at a time.
_metadata_lock = threading.RLock()


@dataclasses.dataclass
class NodeRun:
    """One node in one run.

    Attributes:
        name: id of the node.
        state: one of the five above.
        seconds: wall time, once it has ended.
        outputs: output key -> its artifact, empty unless it is done or cached.
        error: why it failed.
    """

    name: str
    state: str = SKIPPED
    seconds: float = 0.0
    outputs: dict[str, metadata_store_pb2.Artifact] = dataclasses.field(default_factory=dict)
    error: Exception | None = None

    def uri(self, key: str) -> pathlib.Path:
        """The folder of an output."""
        return pathlib.Path(self.outputs[key].uri)

    def location(self, key: str) -> str:
        """The same, as the record names it."""
        return str(self.outputs[key].uri)

    def content_digest(self, key: str) -> str:
        """SHA-256 of all that an output's folder held when it was published."""
        return self.outputs[key].custom_properties[cache.CONTENT_DIGEST].string_value

    def property(self, key: str, name: str) -> Any:
        """A custom property of an output, None where it has none of that name."""
        if name not in self.outputs[key].custom_properties:
            return None
        value = self.outputs[key].custom_properties[name]
        return getattr(value, value.WhichOneof("value"))


def compile_graph(nodes: Sequence[BaseNode], output: pathlib.Path, beam_args: Sequence[str]) -> pipeline_pb2.Pipeline:
    """Compiles nodes for this machine: artifacts in `output/pipeline_root`, metadata in `output/metadata.db`."""
    connection = metadata_store_pb2.ConnectionConfig()  # by hand: TFX's function for it makes the folder
    connection.sqlite.filename_uri = str(output / "metadata.db")
    connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return compiler.Compiler().compile(
        tfx_pipeline.Pipeline(
            pipeline_name="mnist-tfx",
            pipeline_root=str(output / "pipeline_root"),
            metadata_connection_config=connection,
            components=list(nodes),
            enable_cache=True,
            beam_pipeline_args=beam.arguments(beam_args),
        )
    )


def run_nodes(
    ir: pipeline_pb2.Pipeline,
    run_id: str,
    code_digests: Mapping[str, str],
    fresh: bool,
    changed: Callable[[NodeRun], None],
    side_by_side: bool,
) -> list[NodeRun]:
    """Runs every node until one fails; a second one runs in a thread beside the first where nothing keeps them apart.

    Args:
        ir: the compiled graph.
        run_id: becomes the run's name in ML Metadata.
        code_digests: node id -> digest of its code, which becomes part of its cache key.
        fresh: whether to leave the cache aside.
        changed: called when a stage's state changes, by the thread that it runs in, one at a time.
        side_by_side: whether nodes may run in another thread than this one.

    Returns:
        Every stage with its final state.

    Raises:
        StageFailed: a node failed; `stages` are those of the whole graph.
    """
    beam.let_workers_import()
    beam.hurry()
    runtime_parameter_utils.substitute_runtime_parameter(ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id})
    deployment = runner_utils.extract_local_deployment_config(ir)
    choice = deployment.metadata_connection_config
    connection = _Connection(getattr(choice, choice.WhichOneof("connection_config")))
    output = pathlib.Path(ir.runtime_spec.pipeline_root.field_value.string_value).parent
    cache.clear_away(connection, output)
    nodes = {node.pipeline_node.node_info.id: node.pipeline_node for node in ir.nodes}
    stages = {name: NodeRun(name) for name in nodes}
    for name, node in nodes.items():
        add_code_digest(node, code_digests[name])
        node.execution_options.caching_options.enable_cache = not fresh and name not in NEVER_CACHED

    telling = threading.Lock()

    def launch(name: str) -> None:
        stage = stages[name]
        tell(stage)
        started = time.monotonic()
        try:
            info = launcher.Launcher(
                pipeline_node=nodes[name],
                mlmd_connection=connection,
                pipeline_info=ir.pipeline_info,
                pipeline_runtime_spec=ir.runtime_spec,
                executor_spec=runner_utils.extract_executor_spec(deployment, name),
                custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, name),
            ).launch()
            if info is None or info.execution_id is None:
                raise ProjectError(f"the inputs of the stage {name} are missing; run with --fresh")
            stage.state, stage.outputs = _outcome(connection, info.execution_id)
            if stage.state == DONE:
                cache.seal(connection, stage.outputs.values())
            if stage.state == FAILED:
                raise ProjectError(f"the stage {name} could not be started: the log has the cause")
        except Exception as error:
            stage.state, stage.error = FAILED, error
        finally:
            stage.seconds = time.monotonic() - started
            tell(stage)

    def tell(stage: NodeRun) -> None:
        with telling:
            changed(stage)

    def start(name: str) -> str:
        stages[name].state = RUNNING
        return name

    def ready() -> list[str]:
        ended = {name for name, stage in stages.items() if stage.state in (DONE, CACHED)}
        waiting = (name for name, stage in stages.items() if stage.state == SKIPPED)
        return [name for name in waiting if ended.issuperset(nodes[name].upstream_nodes)]

    with cache.by_content(output), futures.ThreadPoolExecutor(1) as aside:
        beside: futures.Future[None] | None = None
        while not any(stage.state == FAILED for stage in stages.values()):
            found = ready()
            if found:
                first = start(found[0])
                if found[1:] and (beside is None or beside.done()) and side_by_side and _CORES > 1:
                    beside = aside.submit(launch, start(found[1]))
                launch(first)
            elif beside is not None:
                beside.result()
                beside = None
            else:
                break
    for stage in stages.values():
        if stage.error is not None:
            raise StageFailed(stage, list(stages.values()), stage.error) from stage.error
    return list(stages.values())


def add_code_digest(node: pipeline_pb2.PipelineNode, digest: str) -> None:
    """Makes the digest of a node's code a part of its cache key."""
    node.parameters.parameters["code_digest"].field_value.string_value = digest


class _Connection(metadata.Metadata):
    """ML Metadata, for one thread at a time, and while no other program has their file open."""

    def __enter__(self) -> metadata.Metadata:
        with contextlib.ExitStack() as undo, self._one_line():
            undo.enter_context(_metadata_lock)
            if not self._users:
                database.wait(self._file)
            # TFX would try ten times, and ML Metadata wait for half a minute in each.
            self._store = metadata_store.MetadataStore(self._connection_config)
            self._users += 1
            undo.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            _metadata_lock.release()
        with self._one_line():
            if isinstance(error[1], errors.StatusError):
                raise error[1]

    @property
    def _file(self) -> pathlib.Path:
        return pathlib.Path(self.connection_config.sqlite.filename_uri)

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        """Puts into words what ML Metadata raises where its file cannot be used any longer."""
        try:
            yield
        except (errors.StatusError, RuntimeError) as error:
            raise ProjectError(str(database.refusal(self._file, str(error)))) from error


class StageFailed(Exception):
    """A node failed; `__cause__` says why."""

    def __init__(self, stage: NodeRun, stages: list[NodeRun], error: Exception):
        super().__init__(f"{stage.name}: {error}")
        self.stage = stage
        self.stages = stages


def _outcome(connection: metadata.Metadata, execution_id: int) -> tuple[str, dict[str, metadata_store_pb2.Artifact]]:
    with connection as handle:
        [execution] = handle.store.get_executions_by_id([execution_id])
        events = handle.store.get_events_by_execution_ids([execution_id])
        made = {
            event.artifact_id: event.path.steps[0].key
            for event in events
            if event.type == metadata_store_pb2.Event.OUTPUT
        }
        artifacts = handle.store.get_artifacts_by_id(list(made))
    states = {metadata_store_pb2.Execution.COMPLETE: DONE, metadata_store_pb2.Execution.CACHED: CACHED}
    return states.get(execution.last_known_state, FAILED), {made[artifact.id]: artifact for artifact in artifacts}
