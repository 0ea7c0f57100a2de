# SPDX-License-Identifier: Apache-2.0
"""Commands of runner_kfp.py beside `compile`: lint, upload, run, schedule, status, logs, terminate, list."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from components.errors import BadInput, ProjectError
from pipeline import answer

if TYPE_CHECKING:
    from pipeline.kubeflow.client import Server

PACKAGE = "pipeline.yaml"  # what `compile` writes by default
PIPELINE = "mnist-tfx"  # the name in the package
ROOT = "minio://mlpipeline/v2/artifacts"  # the server's own default
NEWEST: Mapping[str, Any] = {"page_size": 20, "sort_by": "created_at desc"}
_ROOT = re.compile(r"(gs|s3|minio)://[^/\s?#@]+(/[^\s?#]*)?")


def register(subparsers: Any) -> None:
    """Adds the commands to the runner's arguments; each sets `run`, which takes them and returns the exit code."""

    def command(name: str, run: Callable[[argparse.Namespace, Server], Any], does: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = subparsers.add_parser(name, help=does, description=does, allow_abbrev=False)
        parser.set_defaults(run=functools.partial(_connected, run))
        server = parser.add_argument_group("server")
        server.add_argument("--host", metavar="URL", help="of the user interface or the API; in a pod: its cluster's")
        server.add_argument("--namespace", metavar="NAME", help="the user's, on a server with users")
        server.add_argument("--token-file", metavar="FILE", help="holds the token; default: the variable KFP_TOKEN")
        answer.add_json(parser)
        return parser

    does = "Check a compiled package, of this or of another pipeline."
    parser: argparse.ArgumentParser = subparsers.add_parser("lint", help=does, description=does, allow_abbrev=False)
    parser.set_defaults(run=lint)
    parser.add_argument("package", metavar="FILE", help="a package in YAML or JSON")
    answer.add_json(parser)

    parser = command("upload", upload, "Make a package a pipeline, or a new version of the one with its name.")
    parser.add_argument("package", nargs="?", default=PACKAGE, metavar="FILE", help=f"default: {PACKAGE}")
    parser.add_argument("--pipeline", metavar="NAME", help="default: the name in the package")
    parser.add_argument("--version", metavar="NAME", help="default: made from the package's content")

    parser = command("run", run, "Start a run of an uploaded pipeline.")
    _add_run_arguments(parser)
    parser.add_argument("--wait", action="store_true", help="follow the run and exit as its verdict says")

    parser = command("schedule", schedule, "Run an uploaded pipeline again and again.")
    parser.add_argument("--cron", required=True, metavar="FIELDS", help='such as "0 0 3 * * *": daily at 3 o\'clock')
    parser.add_argument("--name", metavar="NAME", help="of the schedule; default: the pipeline's and the time")
    _add_run_arguments(parser)

    parser = command("status", status, "Show the tasks of a run and, once it has ended, its verdict.")
    parser.add_argument("run_id", metavar="RUN")
    parser.add_argument("--wait", action="store_true", help="follow the run and exit as its verdict says")

    parser = command("logs", logs, "Print the logs of a run's tasks.")
    parser.add_argument("run_id", metavar="RUN")
    parser.add_argument("--task", metavar="NAME", help="of this task only")

    parser = command("terminate", terminate, "End a run before it is done.")
    parser.add_argument("run_id", metavar="RUN")

    parser = command("list", list_all, "List the newest runs, schedules, or versions of a pipeline.")
    parser.add_argument("what", nargs="?", choices=("runs", "schedules", "versions"), default="runs")
    parser.add_argument("--pipeline", default=PIPELINE, metavar="NAME", help=f"of `versions`; default: {PIPELINE}")


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--pipeline", default=PIPELINE, metavar="NAME", help=f"default: {PIPELINE}")
    group.add_argument("--version", metavar="NAME", help="default: the newest")
    group.add_argument("--param", action="append", default=[], metavar="NAME=VALUE", help="in place of the default")
    group.add_argument("--pipeline-root", default=ROOT, metavar="URI", help=f"for the artifacts; default: {ROOT}")
    group.add_argument("--experiment", default="Default", metavar="NAME", help="default: Default")
    group.add_argument("--service-account", metavar="NAME", help="of the run's pods; default: the server's choice")


def _connected(command: Callable[[argparse.Namespace, Server], Any], args: argparse.Namespace) -> int:
    """Runs a command on the server; its result is a mapping, its exit code that of the verdict, if it waits for one."""
    from pipeline.kubeflow import client

    result = command(args, client.connect(args.host, args.namespace, args.token_file))
    answer.write(result, args.json)
    return int(result.get("exit_code", 0)) if getattr(args, "wait", False) else 0


def lint(args: argparse.Namespace) -> int:
    """Prints every finding of a package; exit code 2 where there is one."""
    from pipeline.kubeflow import checks

    try:
        text = pathlib.Path(args.package).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadInput(f"FILE must be a readable package; {args.package}: {reason}") from None
    findings = checks.check(text)
    answer.say(args.json, *([finding.sentence for finding in findings] or [f"{args.package}: no findings"]))
    answer.write([dataclasses.asdict(finding) for finding in findings], args.json)
    if findings:
        count = f"{len(findings)} finding{'s' if len(findings) > 1 else ''}"
        raise BadInput(f"{args.package} breaks rules of Kubeflow Pipelines: {count}")
    return 0


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
    answer.say(args.json, f"Uploaded {made.display_name} of {name}: {url}")
    keys = {"pipeline": name, "pipeline_id": made.pipeline_id, "version": made.display_name}
    return keys | {"version_id": made.pipeline_version_id, "url": url}


def run(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Starts a run and, if asked to, waits for its end."""
    version, options = _start(args, server)
    name = _dated(args.pipeline)
    started = server.call("start a run", lambda: server.kfp.run_pipeline(job_name=name, **options))
    url = f"{server.host}/#/runs/details/{started.run_id}"
    answer.say(args.json, f"Started run {started.run_id} of {version}: {url}")
    if args.wait:
        from pipeline.kubeflow import watch

        return watch.until_end(server, started.run_id, answer.stream(args.json))
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
    answer.say(args.json, f"Scheduled {version} at {cron}: {url}")
    return {"schedule_id": made.recurring_run_id, "name": name, "cron": cron, "version": version, "url": url}


def status(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Shows the tasks and, once the run has ended, the verdict."""
    from pipeline.kubeflow import watch, workflow

    if args.wait:
        return watch.until_end(server, args.run_id, answer.stream(args.json))
    found = workflow.get(server, args.run_id)
    state, argo, pipeline = workflow.state(found), workflow.fetch(server, args.run_id), workflow.spec(server, found)
    tasks = workflow.tasks(found, pipeline, argo)
    row = watch.verdict(server, found, pipeline, argo) if state in ("succeeded", "failed") else None
    answer.say(args.json, watch.table(tasks).plain, str(row["sentence"]) if row else f"The run is {state}.")
    listed = [{"name": task.name, "state": task.state, "seconds": task.seconds} for task in tasks]
    return {"run_id": args.run_id, "state": state, "tasks": listed, "record": row}


def logs(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Prints the log of each task's last attempt under the task's name, or why there is none.

    Raises:
        ProjectError: there is no log at all.
    """
    from pipeline.kubeflow import workflow

    found = workflow.get(server, args.run_id)
    argo, pipeline = workflow.fetch(server, args.run_id), workflow.spec(server, found)
    tasks = workflow.tasks(found, pipeline, argo)
    if args.task and args.task not in [task.name for task in tasks]:
        raise BadInput(f"The run {args.run_id} has no task {args.task}: `status` lists those it has.")
    texts: dict[str, str | None] = {}
    reasons = []
    for task in tasks:
        if task.name == args.task or (args.task is None and task.state not in ("waiting", "skipped")):
            texts[task.name], reason = workflow.log(server, found, argo, task)
            reasons += [f"{task.name}: {reason}"] if reason else []
            if args.json != answer.STDOUT:
                text = texts[task.name]
                answer.say(None, f"== {task.name} ==", *(f"({reason})" if text is None else text).splitlines())
    if all(text is None for text in texts.values()):
        raise ProjectError(f"there is no log of the run {args.run_id}: {'; '.join(reasons) or 'no task has begun'}")
    return texts


def terminate(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Ends a run.

    Raises:
        BadInput: it has ended, or is about to, or the cluster has lost its workflow.
    """
    from pipeline.kubeflow import workflow

    state = workflow.state(workflow.get(server, args.run_id))
    if state in workflow.ENDED:
        raise BadInput(f"The run {args.run_id} has ended already, as {state}.")
    if state == "canceling":
        raise BadInput(f"The run {args.run_id} is being terminated already; if that lasts, {workflow.GONE}.")
    try:
        server.call("terminate the run", lambda: server.kfp.terminate_run(args.run_id))
    except ProjectError as error:
        if "terminating its workflow" not in str(error):
            raise
        raise BadInput(f"The run {args.run_id} could not be terminated: {workflow.GONE}.") from None
    answer.say(args.json, f"The run {args.run_id} is being terminated.")
    return {"run_id": args.run_id}


def list_all(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Lists the newest twenty."""
    from pipeline.kubeflow import workflow

    options: dict[str, Any] = {"namespace": server.namespace or None, **NEWEST}
    rows: list[dict[str, str]] = []
    if args.what == "versions":
        key = _existing(server, args.pipeline)
        found = server.call("list versions", lambda: server.kfp.list_pipeline_versions(key, **NEWEST))
        for one in found.pipeline_versions or []:
            rows.append({"id": one.pipeline_version_id, "name": one.display_name, "created": str(one.created_at)})
    elif args.what == "schedules":
        found = server.call("list schedules", lambda: server.kfp.list_recurring_runs(**options))
        for one in found.recurring_runs or []:
            cron = str((one.trigger and one.trigger.cron_schedule and one.trigger.cron_schedule.cron) or "")
            keys = {"id": one.recurring_run_id, "name": one.display_name}
            rows.append(keys | {"status": str(one.status).lower(), "cron": cron})
    else:
        found = server.call("list runs", lambda: server.kfp.list_runs(**options))
        for one in found.runs or []:
            keys = {"id": one.run_id, "name": one.display_name}
            rows.append(keys | {"state": workflow.state(one), "created": str(one.created_at)})
    answer.say(args.json, *(["  ".join(row.values()) for row in rows] or [f"No {args.what}."]))
    return {args.what: rows}


def _start(args: argparse.Namespace, server: Server) -> tuple[str, dict[str, Any]]:
    """The version's name, and what a run, or each run of a schedule, starts with."""
    from pipeline.kubeflow import workflow

    if not _ROOT.fullmatch(args.pipeline_root):
        raise BadInput(
            f"--pipeline-root must be gs://, s3:// or minio:// with a bucket. Received {args.pipeline_root!r}."
        )
    key, client = _existing(server, args.pipeline), server.kfp
    found = _newest(server, key, args.version)
    if found is None:
        raise BadInput(
            f"{args.pipeline} has no version {args.version or 'at all'}: `list versions` shows those it has."
        )
    # The list may leave the specification out.
    version = server.call("give a version", lambda: client.get_pipeline_version(key, found.pipeline_version_id))
    parameters = typed(workflow.unwrapped(version.pipeline_spec), args.param)
    experiment = server.call(
        "make an experiment", lambda: client.create_experiment(args.experiment, namespace=server.namespace)
    )
    return version.display_name, {
        "experiment_id": experiment.experiment_id, "params": parameters, "pipeline_id": key,
        "version_id": version.pipeline_version_id, "pipeline_root": args.pipeline_root,
        "service_account": args.service_account,
    }  # fmt: skip


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
    found = server.call("list versions", lambda: server.kfp.list_pipeline_versions(pipeline_id, **options))
    return next(iter(found.pipeline_versions or []), None)


def _pipeline(server: Server, name: str) -> Any:
    options = {"filter": _named(name), "namespace": server.namespace or None}
    found = server.call("find a pipeline", lambda: server.kfp.list_pipelines(**options))
    return next(iter(found.pipelines or []), None)


def _existing(server: Server, name: str) -> str:
    pipeline = _pipeline(server, name)
    if pipeline is None:
        raise BadInput(f"{server.host} has no pipeline {name}: upload it first, or give --pipeline or --namespace.")
    return str(pipeline.pipeline_id)


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": 1, "key": "display_name", "stringValue": name}]})  # 1: equals
