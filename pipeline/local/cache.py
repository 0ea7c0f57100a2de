# SPDX-License-Identifier: Apache-2.0
"""What earlier runs left behind: results that may be used again, and what a killed run did not clear away.

TFX takes a cached result if its folder is there, whatever is in it. Here every published artifact bears the digest of
its content, and only a result that still has it is used again.
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

from components.push import versions
from pipeline.metadata import place_of, relocate

CONTENT_DIGEST = "content_sha256"
# Parameters that say where something lies whose content is in the cache key anyway.
LOCATIONS = frozenset({"data_dir", "schema_file"})
_log = logging.getLogger(__name__)


def seal(connection: metadata.Metadata, artifacts: Iterable[metadata_store_pb2.Artifact]) -> None:
    """Gives artifacts the digest of their content.

    Args:
        connection: to ML Metadata.
        artifacts: as stored there; their folders are complete.
    """
    sealed = list(artifacts)
    for artifact in sealed:
        artifact.custom_properties[CONTENT_DIGEST].string_value = versions.tree_digest(pathlib.Path(artifact.uri))
    with connection as handle:
        handle.store.put_artifacts(sealed)


def fault(artifact: metadata_store_pb2.Artifact) -> str:
    """Why an artifact cannot be used again, such as "was changed"; empty where it can."""
    folder = pathlib.Path(artifact.uri)
    if not folder.is_dir():
        return "is gone"
    if CONTENT_DIGEST not in artifact.custom_properties:
        return "was never completed"
    changed = artifact.custom_properties[CONTENT_DIGEST].string_value != versions.tree_digest(folder)
    return "was changed" if changed else ""


@contextlib.contextmanager
def by_content(output: pathlib.Path) -> Iterator[None]:
    """While it lasts, TFX's launcher reuses results wherever they lie, but only with the content they were made with.

    It asks `verify_artifacts` of each candidate and goes on to the next where that raises, which is the place for a
    better check; and its cache key has paths in it, so that no result would be found again in an output folder that
    was copied or moved, or from another checkout. The launcher has no parameter for either.
    """
    verify, context = cache_utils.artifact_utils.verify_artifacts, cache_utils.get_cache_context

    def verify_content(artifacts: Any) -> None:
        verify(artifacts)
        for key, ones in artifacts.items():
            for one in ones:
                if reason := fault(one.mlmd_artifact):
                    _log.warning("the cached artifact %s in %s %s: its stage runs again", key, one.uri, reason)
                    raise RuntimeError(f"{key} in {one.uri} {reason}")

    def context_without_paths(**arguments: Any) -> metadata_store_pb2.Context:
        arguments["input_artifacts"] = {
            key: list(map(_without_uri, ones)) for key, ones in (arguments.get("input_artifacts") or {}).items()
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
    """A copy of an artifact of TFX that is known by its id and its properties alone."""
    known = copy.deepcopy(artifact)
    known.uri = ""
    for field in ("create_time_since_epoch", "last_update_time_since_epoch"):
        known.mlmd_artifact.ClearField(field)
    return known


def _without_output(value: Any, output: pathlib.Path) -> Any:
    """A parameter in which the output folder is not named; strings may hold JSON."""
    if isinstance(value, str):
        for path in (str(output), json.dumps(str(output))[1:-1]):
            value = value.replace(f"{path}/", "OUTPUT/")
    return value


def clear_away(connection: metadata.Metadata, output: pathlib.Path) -> None:
    """Removes what a killed or failed run left: executions that still "run", and folders that no artifact names.

    Args:
        connection: to ML Metadata.
        output: the output folder, in which nothing is running; it may have been copied or moved.
    """
    states, pipeline_root = metadata_store_pb2.Execution, output / "pipeline_root"
    with connection as handle:
        relocate(handle.store, output)
        stale = [one for one in handle.store.get_executions() if one.last_known_state in (states.NEW, states.RUNNING)]
        for execution in stale:
            execution.last_known_state = states.CANCELED
        handle.store.put_executions(stale)
        known = {place_of(artifact.uri) for artifact in handle.store.get_artifacts()}
    # NODE/KEY/EXECUTION holds an artifact, NODE/.system/WHAT/EXECUTION what lives only as long as its execution.
    published = [path for path in pipeline_root.glob("*/*/*") if path.parent.name != ".system"]
    orphans = [path for path in published if path.relative_to(pipeline_root).as_posix() not in known]
    for folder in [*orphans, *pipeline_root.glob("*/.system/*/*")]:
        _log.info("removing %s, which no finished stage has published", folder)
        shutil.rmtree(folder, ignore_errors=True)
