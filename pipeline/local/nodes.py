# SPDX-License-Identifier: Apache-2.0
"""Runs the graph's nodes on this machine, two at a time where they do not wait for each other; reports their states.

TFX's LocalDagRunner reports nothing between the first node and the last, and returns as if all were well when the
inputs of a node cannot be resolved. This takes the steps of its `run_with_ir` node by node.
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
from pipeline.run_record import State

# Their results depend on the serving folder's present state, which is not in the cache key.
NEVER_CACHED = frozenset({"push", "data-gate"})
_CORES = os.cpu_count() or 1
# ML Metadata's file takes one connection at a time.
_metadata_lock = threading.RLock()


@dataclasses.dataclass
class NodeRun:
    """One node in one run.

    Attributes:
        name: id of the node.
        state: until the node starts, SKIPPED.
        seconds: wall time, once it has ended.
        outputs: output key -> its artifact, empty unless it is done or cached.
        error: the cause of its failure.
    """

    name: str
    state: State = State.SKIPPED
    seconds: float = 0.0
    outputs: dict[str, metadata_store_pb2.Artifact] = dataclasses.field(default_factory=dict)
    error: Exception | None = None

    def uri(self, key: str) -> pathlib.Path:
        """Returns the folder of an output."""
        return pathlib.Path(self.outputs[key].uri)

    def location(self, key: str) -> str:
        """Returns the folder of an output as the record has it."""
        return str(self.outputs[key].uri)

    def content_digest(self, key: str) -> str:
        """Returns the SHA-256 of an output's content when it was published."""
        return self.outputs[key].custom_properties[cache.CONTENT_DIGEST].string_value

    def property(self, key: str, name: str) -> Any:
        """Returns a custom property of an output, None where it has none of that name."""
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
    on_change: Callable[[NodeRun], None],
    concurrent: bool,
) -> list[NodeRun]:
    """Runs every node until one fails; a second one runs in a thread beside the first where neither waits for it.

    Args:
        ir: the compiled graph.
        run_id: becomes the run's name in ML Metadata.
        code_digests: node id -> digest of its code, which becomes part of its cache key.
        fresh: whether to bypass the cache.
        on_change: called when a stage's state changes, in the stage's thread, never by two threads at once.
        concurrent: whether nodes may run in another thread than this one.

    Returns:
        Every stage with its final state.

    Raises:
        StageFailed: a node failed; `stages` are those of the graph.
    """
    beam.let_workers_import()
    beam.patch()
    runtime_parameter_utils.substitute_runtime_parameter(ir, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id})
    deployment = runner_utils.extract_local_deployment_config(ir)
    choice = deployment.metadata_connection_config
    connection = _Connection(getattr(choice, choice.WhichOneof("connection_config")))
    output = pathlib.Path(ir.runtime_spec.pipeline_root.field_value.string_value).parent
    cache.remove_leftovers(connection, output)
    nodes = {node.pipeline_node.node_info.id: node.pipeline_node for node in ir.nodes}
    stages = {name: NodeRun(name) for name in nodes}
    for name, node in nodes.items():
        add_code_digest(node, code_digests[name])
        node.execution_options.caching_options.enable_cache = not fresh and name not in NEVER_CACHED

    report_lock = threading.Lock()

    def launch(name: str) -> None:
        stage = stages[name]
        report(stage)
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
            stage.state, stage.outputs = _read_results(connection, info.execution_id)
            if stage.state == State.DONE:
                cache.seal(connection, stage.outputs.values())
            if stage.state == State.FAILED:
                raise ProjectError(f"the stage {name} could not be started: the log has the cause")
        except Exception as error:
            stage.state, stage.error = State.FAILED, error
        finally:
            stage.seconds = time.monotonic() - started
            report(stage)

    def report(stage: NodeRun) -> None:
        with report_lock:
            on_change(stage)

    def start(name: str) -> str:
        stages[name].state = State.RUNNING
        return name

    def ready_nodes() -> list[str]:
        ended = {name for name, stage in stages.items() if stage.state in (State.DONE, State.CACHED)}
        waiting = (name for name, stage in stages.items() if stage.state == State.SKIPPED)
        return [name for name in waiting if ended.issuperset(nodes[name].upstream_nodes)]

    with cache.by_content(output), futures.ThreadPoolExecutor(1) as executor:
        second: futures.Future[None] | None = None
        while not any(stage.state == State.FAILED for stage in stages.values()):
            if ready := ready_nodes():
                first = start(ready[0])
                if ready[1:] and (second is None or second.done()) and concurrent and _CORES > 1:
                    second = executor.submit(launch, start(ready[1]))
                launch(first)
            elif second is not None:
                second.result()
                second = None
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
    """A connection to ML Metadata for one thread at a time, opened once no other program has their file open."""

    def __enter__(self) -> metadata.Metadata:
        with contextlib.ExitStack() as undo, self._readable_errors():
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
        with self._readable_errors():
            if isinstance(error[1], errors.StatusError):
                raise error[1]

    @property
    def _file(self) -> pathlib.Path:
        return pathlib.Path(self.connection_config.sqlite.filename_uri)

    @contextlib.contextmanager
    def _readable_errors(self) -> Iterator[None]:
        """Makes one sentence of the errors that ML Metadata raises where its file cannot be used any longer."""
        try:
            yield
        except (errors.StatusError, RuntimeError) as error:
            raise ProjectError(str(database.refusal(self._file, str(error)))) from error


class StageFailed(Exception):
    """A node failed; `__cause__` is its error."""

    def __init__(self, stage: NodeRun, stages: list[NodeRun], error: Exception):
        super().__init__(f"{stage.name}: {error}")
        self.stage = stage
        self.stages = stages


def _read_results(
    connection: metadata.Metadata, execution_id: int
) -> tuple[State, dict[str, metadata_store_pb2.Artifact]]:
    """Returns the state of an execution, and output key -> artifact."""
    with connection as handle:
        [execution] = handle.store.get_executions_by_id([execution_id])
        events = handle.store.get_events_by_execution_ids([execution_id])
        keys = {
            event.artifact_id: event.path.steps[0].key
            for event in events
            if event.type == metadata_store_pb2.Event.OUTPUT
        }
        artifacts = handle.store.get_artifacts_by_id(list(keys))
    states = {metadata_store_pb2.Execution.COMPLETE: State.DONE, metadata_store_pb2.Execution.CACHED: State.CACHED}
    return states.get(execution.last_known_state, State.FAILED), {keys[artifact.id]: artifact for artifact in artifacts}
