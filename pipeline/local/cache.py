# SPDX-License-Identifier: Apache-2.0
"""What earlier runs left behind: results that may be used again, and what a killed run did not clear away.

TFX takes a cached result if its folder is there, whatever is in it. Here every published artifact bears the digest of
its content, and only a result that still has it is used again.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.orchestration.portable import cache_utils

from components.push import versions
from pipeline.metadata import place_of

CONTENT_DIGEST = "content_sha256"
_log = logging.getLogger(__name__)


def seal(connection: Any, artifacts: Iterable[metadata_store_pb2.Artifact]) -> None:
    """Gives artifacts the digest of their content.

    Args:
        connection: of ML Metadata.
        artifacts: as stored there; their folders are complete.
    """
    sealed = list(artifacts)
    for artifact in sealed:
        artifact.custom_properties[CONTENT_DIGEST].string_value = versions.tree_digest(pathlib.Path(artifact.uri))
    with metadata.Metadata(connection) as handle:
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
def intact_only() -> Iterator[None]:
    """While it lasts, TFX's launcher reuses only results that still have the content that they were published with.

    It asks `verify_artifacts` of each candidate and goes on to the next where that raises, which is the place for a
    better check; the launcher has no parameter for one.
    """
    verify = cache_utils.artifact_utils.verify_artifacts

    def verify_content(artifacts: Any) -> None:
        verify(artifacts)
        for key, ones in artifacts.items():
            for one in ones:
                if reason := fault(one.mlmd_artifact):
                    _log.warning("the cached artifact %s in %s %s: its stage runs again", key, one.uri, reason)
                    raise RuntimeError(f"{key} in {one.uri} {reason}")

    cache_utils.artifact_utils.verify_artifacts = verify_content
    try:
        yield
    finally:
        cache_utils.artifact_utils.verify_artifacts = verify


def clear_away(connection: Any, pipeline_root: pathlib.Path) -> None:
    """Removes what a killed or failed run left: executions that still "run", and folders that no artifact names.

    Args:
        connection: of ML Metadata.
        pipeline_root: of the only pipeline that uses it; nothing is running in it.
    """
    states = metadata_store_pb2.Execution
    with metadata.Metadata(connection) as handle:
        stale = [one for one in handle.store.get_executions() if one.last_known_state in (states.NEW, states.RUNNING)]
        for execution in stale:
            execution.last_known_state = states.CANCELED
        handle.store.put_executions(stale)
        # By its place in there, not its whole path: the output folder may have been moved, or named through a link.
        known = {place_of(artifact.uri) for artifact in handle.store.get_artifacts()}
    # NODE/KEY/EXECUTION holds an artifact, NODE/.system/WHAT/EXECUTION what lives only as long as its execution.
    published = [path for path in pipeline_root.glob("*/*/*") if path.parent.name != ".system"]
    orphans = [path for path in published if path.relative_to(pipeline_root).as_posix() not in known]
    for folder in [*orphans, *pipeline_root.glob("*/.system/*/*")]:
        _log.info("removing %s, which no finished stage has published", folder)
        shutil.rmtree(folder, ignore_errors=True)
