# SPDX-License-Identifier: Apache-2.0
"""The record of a run on Kubeflow, which its task `report` leaves at PIPELINE_ROOT/PIPELINE/RUN_ID/record.json."""

from __future__ import annotations

import json
import os
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import kfp_server_api

from components.errors import BadInput, ProjectError
from pipeline import record
from pipeline.kubeflow import watch
from pipeline.kubeflow.client_commands import ROOT

if TYPE_CHECKING:
    from pipeline.kubeflow.server import Server


def read(server: Server, run: Any) -> dict[str, Any]:
    """Fetches the record of a run that has ended.

    The user interface hands out artifacts, also from storage that only the cluster reaches and without its credentials;
    where it does not, the storage is read with those of this machine.

    Args:
        server: which has the run.
        run: from `watch.get`.

    Raises:
        ProjectError: it is in neither place.
    """
    spec = watch.spec(server, run)
    places = list(_places(server, run, str(spec.get("pipelineInfo", {}).get("name", ""))))
    for place in places:
        row = _parsed(_through_server(server, run, place)) or _parsed(_from_storage(place))
        if row:
            return row
    raise ProjectError(
        f"the run ended as {run.state} without a record at {places[0]}, neither through {server.host} nor with this "
        f"machine's access to the storage: `logs {run.run_id} --task report` says why"
    )


def _places(server: Server, run: Any, pipeline: str) -> Iterator[str]:
    """The URIs of the record; some servers put words before the name of a pipeline when it is uploaded."""
    root = ((run.runtime_config and run.runtime_config.pipeline_root) or ROOT).rstrip("/")
    for name in dict.fromkeys((pipeline, pipeline.rpartition("/")[2])):
        yield f"{root}/{name}/{run.run_id}/{record.RECORD_FILE}"


def _through_server(server: Server, run: Any, place: str) -> bytes | None:
    address = urllib.parse.urlsplit(place)
    query = {
        "source": {"gs": "gcs"}.get(address.scheme, address.scheme),
        "namespace": watch.namespace(server, run),
        "bucket": address.netloc,
        "key": address.path.lstrip("/"),
    }
    with server.asking("give the run's record"):
        try:
            return server.get("/artifacts/get", {name: value for name, value in query.items() if value})
        except kfp_server_api.ApiException:  # no user interface there, or not this storage, or nothing at this place
            return None


def _from_storage(place: str) -> bytes | None:
    if place.startswith("minio://"):
        if not os.environ.get("AWS_ENDPOINT_URL"):  # the name says nothing of where the server is
            return None
        place = place.replace("minio://", "s3://", 1)
    from components import storage

    try:
        file_system, path = storage.connect(place)
        with storage.refusals(place):
            return bytes(file_system.cat_file(path))
    except BadInput:  # no such file, or no access to it
        return None


def _parsed(content: bytes | None) -> dict[str, Any] | None:
    """A record, or None where it is none, such as the page that some proxies answer everything with."""
    try:
        row = json.loads(content or b"")
    except ValueError:
        return None
    return row if isinstance(row, dict) and row.get("verdict") in record.EXIT_CODES else None
