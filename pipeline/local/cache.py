# SPDX-License-Identifier: Apache-2.0
"""The results of earlier runs: reuses those that are intact, and removes the leftovers of runs that were killed.

TFX reuses a cached result if its folder exists, whatever is in it. Here every published artifact has the digest of its
content as a property, and a result is reused only while its content has that digest.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.orchestration.portable import cache_utils

from components import paths
from pipeline.metadata import artifact_path, relocate

CONTENT_DIGEST = "content_sha256"
# Parameters that locate something whose content is in the cache key anyway.
LOCATIONS = frozenset({"data_dir", "schema_file"})
_log = logging.getLogger(__name__)


def seal(connection: metadata.Metadata, artifacts: Iterable[metadata_store_pb2.Artifact]) -> None:
    """Adds to artifacts the digest of their content.

    Args:
        connection: to ML Metadata.
        artifacts: as stored there; their folders are complete.
    """
    sealed = list(artifacts)
    for artifact in sealed:
        artifact.custom_properties[CONTENT_DIGEST].string_value = paths.tree_digest(pathlib.Path(artifact.uri))
    with connection as handle:
        handle.store.put_artifacts(sealed)


def fault(artifact: metadata_store_pb2.Artifact) -> str:
    """Returns the reason why an artifact cannot be reused, such as "was changed"; empty where it can."""
    folder = pathlib.Path(artifact.uri)
    if not folder.is_dir():
        return "is missing"
    if CONTENT_DIGEST not in artifact.custom_properties:
        return "was never completed"
    changed = artifact.custom_properties[CONTENT_DIGEST].string_value != paths.tree_digest(folder)
    return "was changed" if changed else ""


@contextlib.contextmanager
def by_content(output: pathlib.Path) -> Iterator[None]:
    """Makes TFX's launcher, within the block, reuse a result in any folder, but only with its original content.

    The launcher calls `verify_artifacts` with each candidate and takes the next where that raises; here it also
    compares digests. Its cache key has paths in it, so that no result would match in an output folder that was copied
    or moved, or from another checkout; here the key has none. The launcher has a parameter for neither.
    """
    verify, context = cache_utils.artifact_utils.verify_artifacts, cache_utils.get_cache_context

    def verify_content(artifacts: Any) -> None:
        verify(artifacts)
        for key, values in artifacts.items():
            for artifact in values:
                if reason := fault(artifact.mlmd_artifact):
                    _log.warning("the cached artifact %s in %s %s: its stage runs again", key, artifact.uri, reason)
                    raise RuntimeError(f"{key} in {artifact.uri} {reason}")

    def context_without_paths(**arguments: Any) -> metadata_store_pb2.Context:
        arguments["input_artifacts"] = {
            key: list(map(_without_uri, values)) for key, values in (arguments.get("input_artifacts") or {}).items()
        }
        arguments["parameters"] = {
            key: _without_output(value, output)
            for key, value in (arguments.get("parameters") or {}).items()
            if key not in LOCATIONS
        }
        return context(**arguments)

    cache_utils.artifact_utils.verify_artifacts = verify_content
    cache_utils.get_cache_context = context_without_paths
    try:
        yield
    finally:
        cache_utils.artifact_utils.verify_artifacts = verify
        cache_utils.get_cache_context = context


def _without_uri(artifact: Any) -> Any:
    """Returns a copy of an artifact of TFX with its id and its properties alone."""
    bare = copy.deepcopy(artifact)
    bare.uri = ""
    for field in ("create_time_since_epoch", "last_update_time_since_epoch"):
        bare.mlmd_artifact.ClearField(field)
    return bare


def _without_output(value: Any, output: pathlib.Path) -> Any:
    """Returns a parameter without the output folder's path; strings may hold JSON."""
    if isinstance(value, str):
        for path in (str(output), json.dumps(str(output))[1:-1]):
            value = value.replace(f"{path}/", "OUTPUT/")
    return value


def remove_leftovers(connection: metadata.Metadata, output: pathlib.Path) -> None:
    """Cancels the executions of a run that was killed, and removes folders that no artifact names.

    Args:
        connection: to ML Metadata.
        output: the output folder, in which nothing is running; it may have been copied or moved.
    """
    states, pipeline_root = metadata_store_pb2.Execution, output / "pipeline_root"
    with connection as handle:
        relocate(handle.store, output)
        active = (states.NEW, states.RUNNING)
        stale = [execution for execution in handle.store.get_executions() if execution.last_known_state in active]
        for execution in stale:
            execution.last_known_state = states.CANCELED
        handle.store.put_executions(stale)
        paths = {artifact_path(artifact.uri) for artifact in handle.store.get_artifacts()}
    # NODE/KEY/EXECUTION holds an artifact, NODE/.system/KIND/EXECUTION the working files of an execution.
    folders = [path for path in pipeline_root.glob("*/*/*") if path.parent.name != ".system"]
    orphans = [path for path in folders if path.relative_to(pipeline_root).as_posix() not in paths]
    for folder in [*orphans, *pipeline_root.glob("*/.system/*/*")]:
        _log.info("removing %s, which no finished stage has published", folder)
        shutil.rmtree(folder, ignore_errors=True)
