# SPDX-License-Identifier: Apache-2.0
"""Commands that send something to the server: a package, a run of one, a schedule of runs."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from components.errors import BadInput
from pipeline import cli

if TYPE_CHECKING:
    from pipeline.kubeflow.client import Server

ROOT = "minio://mlpipeline/v2/artifacts"  # the server's own default
NEWEST: Mapping[str, Any] = {"page_size": 20, "sort_by": "created_at desc"}
_ROOT = re.compile(r"(gs|s3|minio)://[^/\s?#@*\[\\]+(/[^\s?#*\[\\]*)?")


def upload(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Uploads a package.

    A version's default name holds the package's SHA-256, so that no package becomes two. The server itself names the
    first version of a new pipeline, like the pipeline: there, the digest is in the description.
    """
    import yaml

    try:
        content = pathlib.Path(args.package).read_bytes()
        name = args.pipeline or str(next(yaml.safe_load_all(content))["pipelineInfo"]["name"])
    except OSError as error:
        raise BadInput(f"The package {args.package} cannot be read ({error.strerror}): `compile` writes one.") from None
    except (yaml.YAMLError, ValueError, StopIteration, KeyError, TypeError, RecursionError):
        raise BadInput(f"{args.package} is no pipeline package, which has a pipelineInfo with a name.") from None
    digest = hashlib.sha256(content).hexdigest()
    version, description = args.version or f"{name}-{digest[:12]}", f"SHA-256 of the package: {digest}"
    taken = (
        f"{server.host} has {name} {version} already, or a {name} that this account does not see: nothing is uploaded; "
        "give --version or --pipeline another name."
    )
    purpose, client, made = "take the package", server.kfp, None
    pipeline = _pipeline(server, name)
    if pipeline is None:
        options = (args.package, name, description, server.namespace or None)
        pipeline = server.call(purpose, lambda: client.upload_pipeline(*options), taken)
        made = _newest(server, pipeline.pipeline_id)
    elif not args.version and pipeline.description == description and _newest(server, pipeline.pipeline_id, name):
        raise BadInput(taken)
    if made is None or args.version not in (None, made.display_name):
        key = pipeline.pipeline_id
        made = server.call(
            purpose, lambda: client.upload_pipeline_version(args.package, version, pipeline_id=key), taken
        )
    url = f"{server.host}/#/pipelines/details/{made.pipeline_id}/version/{made.pipeline_version_id}"
    cli.print_lines(args.json, f"Uploaded {made.display_name} of {name}: {url}")
    keys = {"pipeline": name, "pipeline_id": made.pipeline_id, "version": made.display_name}
    return keys | {"version_id": made.pipeline_version_id, "url": url}


def run(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Starts a run and, if asked to, waits for its end."""
    version, options = _start(args, server)
    name = _dated(args.pipeline)
    started = server.call("start a run", lambda: server.kfp.run_pipeline(job_name=name, **options))
    url = f"{server.host}/#/runs/details/{started.run_id}"
    cli.print_lines(args.json, f"Started run {started.run_id} of {version}: {url}")
    if args.wait:
        from pipeline.kubeflow import watch

        return watch.until_end(server, started.run_id, cli.message_stream(args.json))
    return {"run_id": started.run_id, "name": name, "version": version, "url": url}


def schedule(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Starts runs again and again, one at a time, without making up for missed ones, by the server's clock."""
    fields = args.cron.split()
    if len(fields) not in (5, 6):
        raise BadInput(f"--cron must be six fields, seconds first, or the usual five. Received {args.cron!r}.")
    cron = " ".join(["0", *fields][-6:])
    version, options = _start(args, server)
    name = args.name or _dated(args.pipeline)
    options |= {"cron_expression": cron, "max_concurrency": 1, "no_catchup": True}
    taken = f"{server.host} has a schedule {name!r} already: give another --name."
    made = server.call("make a schedule", lambda: server.kfp.create_recurring_run(job_name=name, **options), taken)
    url = f"{server.host}/#/recurringrun/details/{made.recurring_run_id}"
    cli.print_lines(args.json, f"Scheduled {version} at {cron}: {url}")
    return {"schedule_id": made.recurring_run_id, "name": name, "cron": cron, "version": version, "url": url}


def _start(args: argparse.Namespace, server: Server) -> tuple[str, dict[str, Any]]:
    """The version's name, and what a run, or each run of a schedule, starts with."""
    from pipeline.kubeflow import workflow

    check_root(args.pipeline_root)
    key, client = existing(server, args.pipeline), server.kfp
    newest = _newest(server, key, args.version)
    if newest is None:
        raise BadInput(
            f"{args.pipeline} has no version {args.version or 'at all'}: `list versions` shows those it has."
        )
    # The list may leave the specification out.
    version = server.call("give a version", lambda: client.get_pipeline_version(key, newest.pipeline_version_id))
    parameters = typed(workflow.unwrapped(version.pipeline_spec), args.param)
    experiment = server.call(
        "make an experiment", lambda: client.create_experiment(args.experiment, namespace=server.namespace)
    )
    return version.display_name, {
        "experiment_id": experiment.experiment_id, "params": parameters, "pipeline_id": key,
        "version_id": version.pipeline_version_id, "pipeline_root": args.pipeline_root,
        "service_account": args.service_account,
    }  # fmt: skip


def check_root(root: str) -> None:
    """Refuses a pipeline root that the server or TensorFlow cannot use.

    Raises:
        BadInput: it is one.
    """
    if not _ROOT.fullmatch(root):
        raise BadInput(
            "--pipeline-root must be gs://, s3:// or minio:// with a bucket, and without the characters of patterns "
            f"(* ? [ \\). Received {root!r}."
        )


def _dated(pipeline: str) -> str:
    return f"{pipeline} {datetime.now():%Y-%m-%d %H-%M-%S}"


def typed(spec: Mapping[str, Any], parameters: Sequence[str]) -> dict[str, Any]:
    """Reads NAME=VALUE texts as the types of a pipeline's parameters; the server checks the rest.

    Raises:
        BadInput: no parameter of this name, or a value that is not of its type.
    """
    known = spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    readers: Mapping[str, Callable[[str], Any]] = {"NUMBER_INTEGER": int, "NUMBER_DOUBLE": _finite, "STRING": str}
    values: dict[str, Any] = {}
    for parameter in parameters:
        name, equals, text = parameter.partition("=")
        if not equals or name not in known or name in values:
            names = ", ".join(sorted(known)) or "none at all"
            raise BadInput(f"--param must be NAME=VALUE, each NAME once, of: {names}. Received {parameter!r}.")
        kind = str(known[name].get("parameterType", "STRING"))
        try:
            values[name] = readers.get(kind, json.loads)(text)
        except ValueError:
            raise BadInput(f"The parameter {name} is of the type {kind}. Received {text!r}.") from None
    return values


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


def _newest(server: Server, pipeline_id: str, version: str | None = None) -> Any:
    options = {"page_size": 1, "sort_by": NEWEST["sort_by"], "filter": _named(version) if version else ""}
    response = server.call("list versions", lambda: server.kfp.list_pipeline_versions(pipeline_id, **options))
    return next(iter(response.pipeline_versions or []), None)


def _pipeline(server: Server, name: str) -> Any:
    options = {"filter": _named(name), "namespace": server.namespace or None}
    response = server.call("find a pipeline", lambda: server.kfp.list_pipelines(**options))
    return next(iter(response.pipelines or []), None)


def existing(server: Server, name: str) -> str:
    """Returns the id of a pipeline.

    Raises:
        BadInput: there is none of this name.
    """
    pipeline = _pipeline(server, name)
    if pipeline is None:
        raise BadInput(f"{server.host} has no pipeline {name}: upload it first, or give --pipeline or --namespace.")
    return str(pipeline.pipeline_id)


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": 1, "key": "display_name", "stringValue": name}]})  # 1: equals
