# SPDX-License-Identifier: Apache-2.0
"""Commands of runner_kfp.py: lint, upload, run, schedule, status, logs, terminate, list."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from components.errors import BadInput, ProjectError
from pipeline import cli, tables
from pipeline.kubeflow import runs
from pipeline.kubeflow.client import Conflict, Server, connect

Row = Mapping[str, Any]

PACKAGE = "pipeline.yaml"  # as `compile` names it
PIPELINE = "mnist-tfx"  # the name in the package
CANCELING_SECONDS = 600.0  # limit for a terminated run to end
NEWEST: dict[str, Any] = {"page_size": 20, "sort_by": "created_at desc"}
_ROOT = re.compile(r"(gs|s3|minio)://[^/\s?#@*\[\\]+(/[^\s?#*\[\\]*)?")
_MARKS = {"done": ("✓", "green"), "cached": ("=", "cyan"), "failed": ("✗", "red"), "running": ("…", "yellow")}


def register(subparsers: Any) -> None:
    """Adds the commands to the runner's arguments; each sets `run`, which takes them and returns the exit code."""
    summary = "Check a compiled package, of this or of another pipeline."
    parser = subparsers.add_parser("lint", help=summary, description=summary, allow_abbrev=False)
    parser.set_defaults(run=lint)
    parser.add_argument("package", metavar="FILE", help="a package in YAML or JSON")
    cli.add_json_argument(parser)
    parsers: dict[str, argparse.ArgumentParser] = {}
    for command, summary in {
        upload: "Upload a package as a pipeline, or as a new version of the one with its name.",
        run: "Start a run of an uploaded pipeline.",
        schedule: "Run an uploaded pipeline on a schedule.",
        status: "Show the tasks of a run and, once it has ended, its verdict.",
        logs: "Print the logs of a run's tasks.",
        terminate: "End a run early.",
        list_newest: "List the newest runs, schedules, or versions of a pipeline.",
    }.items():
        name = command.__name__.partition("_")[0]
        parsers[name] = subparsers.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        parsers[name].set_defaults(run=functools.partial(_run_on_server, command))
        add_server(parsers[name])

    add = parsers["upload"].add_argument
    add("package", nargs="?", default=PACKAGE, metavar="FILE", help=f"default: {PACKAGE}")
    add("--pipeline", metavar="NAME", help="default: the name in the package")
    add("--version", metavar="NAME", help="default: from the package's content")
    add = parsers["schedule"].add_argument
    add("--cron", required=True, type=_cron, metavar="FIELDS", help='such as "0 0 3 * * *": daily at 3 o\'clock')
    add("--name", metavar="NAME", help="of the schedule; default: the pipeline's and the time")
    for name in ("run", "schedule"):
        group = parsers[name].add_argument_group("run")
        group.add_argument("--pipeline", default=PIPELINE, metavar="NAME", help=f"default: {PIPELINE}")
        group.add_argument("--version", metavar="NAME", help="default: the newest")
        group.add_argument("--param", action="append", default=[], metavar="NAME=VALUE", help="in place of the default")
        group.add_argument("--experiment", default="Default", metavar="NAME", help="default: Default")
        add_pod_arguments(group)
    for name in ("status", "logs", "terminate"):
        parsers[name].add_argument("run_id", type=_run_id, metavar="RUN")
    for name in ("run", "status"):
        parsers[name].add_argument("--wait", action="store_true", help="follow the run; exit with its verdict's code")
    parsers["logs"].add_argument("--task", metavar="NAME", help="of this task only")
    add = parsers["list"].add_argument
    add("kind", nargs="?", choices=("runs", "schedules", "versions"), default="runs")
    add("--pipeline", default=PIPELINE, metavar="NAME", help=f"of `versions`; default: {PIPELINE}")


def add_server(parser: argparse.ArgumentParser) -> None:
    """Adds the server, the account, and `--json`."""
    group = parser.add_argument_group("server")
    group.add_argument("--host", metavar="URL", help="of the user interface or the API; default: KF_PIPELINES_ENDPOINT")
    group.add_argument("--namespace", metavar="NAME", help="the user's, on a server with users")
    group.add_argument("--token-file", metavar="FILE", help="holds the token; default: the variable KFP_TOKEN")
    cli.add_json_argument(parser)


def add_pod_arguments(group: argparse._ArgumentGroup) -> None:
    """Adds where a run's artifacts go, and the account of its pods."""
    group.add_argument(
        "--pipeline-root",
        default=runs.ROOT,
        type=_pipeline_root,
        metavar="URI",
        help=f"for artifacts; default: {runs.ROOT}",
    )
    group.add_argument("--service-account", metavar="NAME", help="of the run's pods; default: the server's choice")


def run_name(pipeline: str) -> str:
    """Returns a name with the time, in UTC."""
    return f"{pipeline} {datetime.now(UTC):%Y-%m-%d %H-%M-%S}"


def lint(args: argparse.Namespace) -> int:
    """Prints every finding in a package; exit code 2 where there is one."""
    from pipeline.kubeflow import checks

    try:
        text = pathlib.Path(args.package).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise BadInput(f"FILE must be a readable package; {args.package}: {reason}") from None
    findings = checks.check(text)
    cli.print_lines(args.json, *([finding.sentence for finding in findings] or [f"{args.package}: no findings"]))
    cli.write_json([dataclasses.asdict(finding) for finding in findings], args.json)
    if findings:
        count = f"{len(findings)} finding{'s' if len(findings) > 1 else ''}"
        raise BadInput(f"{args.package} breaks rules of Kubeflow Pipelines: {count}")
    return 0


def upload(args: argparse.Namespace, server: Server) -> Row:
    """Uploads a package.

    A version's default name holds the package's SHA-256, so that no package becomes two versions. The server itself
    names the first version of a new pipeline, like the pipeline: there, the digest is in the description.
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
    version_name, description = args.version or f"{name}-{digest[:12]}", f"SHA-256 of the package: {digest}"
    purpose, api, version = "accept the package", server.kfp, None
    pipeline = _find_pipeline(server, name)
    is_same = pipeline is not None and not args.version and pipeline.description == description
    try:
        if is_same and _find_version(server, pipeline.pipeline_id, name):
            raise Conflict
        if pipeline is None:
            options = (args.package, name, description, server.namespace or None)
            pipeline = server.call(purpose, api.upload_pipeline, *options)
            version = _find_version(server, pipeline.pipeline_id)
        if version is None or args.version not in (None, version.display_name):
            keys = {"pipeline_id": pipeline.pipeline_id}
            version = server.call(purpose, api.upload_pipeline_version, args.package, version_name, **keys)
    except Conflict:
        raise BadInput(
            f"{server.host} has {name} {version_name} already, or a {name} that this account does not see: nothing is "
            "uploaded; give --version or --pipeline another name."
        ) from None
    url = f"{server.host}/#/pipelines/details/{version.pipeline_id}/version/{version.pipeline_version_id}"
    cli.print_lines(args.json, f"Uploaded {version.display_name} of {name}: {url}")
    return {
        "pipeline": name, "pipeline_id": version.pipeline_id, "version": version.display_name,
        "version_id": version.pipeline_version_id, "url": url,
    }  # fmt: skip


def run(args: argparse.Namespace, server: Server) -> Row:
    """Starts a run and, with --wait, waits for its end."""
    version, options = _prepare(args, server)
    name = run_name(args.pipeline)
    response = server.call("start a run", server.kfp.run_pipeline, job_name=name, **options)
    url = f"{server.host}/#/runs/details/{response.run_id}"
    cli.print_lines(args.json, f"Started run {response.run_id} of {version}: {url}")
    if args.wait:
        return wait(args, server, response.run_id)
    return {"run_id": response.run_id, "name": name, "version": version, "url": url}


def schedule(args: argparse.Namespace, server: Server) -> Row:
    """Starts runs by the server's clock, one at a time, without making up for missed ones."""
    version, options = _prepare(args, server)
    name = args.name or run_name(args.pipeline)
    # The server accepts two schedules of one name, which then run side by side.
    query = {"filter": _name_filter(name), "namespace": server.namespace or None}
    if server.call("list schedules", server.kfp.list_recurring_runs, **query).recurring_runs:
        raise BadInput(f"{server.host} has a schedule {name!r} already: give another --name.")
    options |= {"cron_expression": args.cron, "max_concurrency": 1, "no_catchup": True}
    response = server.call("make a schedule", server.kfp.create_recurring_run, job_name=name, **options)
    key = response.recurring_run_id
    url = f"{server.host}/#/recurringrun/details/{key}"
    cli.print_lines(args.json, f"Scheduled {version} at {args.cron}: {url}")
    return {"schedule_id": key, "name": name, "cron": args.cron, "version": version, "url": url}


def status(args: argparse.Namespace, server: Server) -> Row:
    """Shows the tasks and, once the run has ended, the verdict."""
    if args.wait:
        return wait(args, server, args.run_id)
    run = runs.Run(server, args.run_id)
    tasks, row = run.tasks, run.verdict() if run.state in ("succeeded", "failed") else None
    cli.print_lines(args.json, format_tasks(tasks).plain, str(row["sentence"]) if row else f"The run is {run.state}.")
    return {"run_id": run.id, "state": run.state, "tasks": [dataclasses.asdict(task) for task in tasks], "record": row}


def wait(args: argparse.Namespace, server: Server, run_id: str) -> Row:
    """Follows a run to its end: a table on a terminal, elsewhere a line for each task that ends.

    Returns:
        its verdict.

    Raises:
        ProjectError: the run was terminated, or failed after its verdict; or the server does not respond for a minute.
    """
    console = Console(file=cli.message_stream(args.json), highlight=False)
    run = runs.Run(server, run_id)
    printed: set[str] = set()
    active = time.monotonic()  # the last time that the run was not being terminated
    live = Live(console=console, redirect_stdout=False, redirect_stderr=False) if console.is_terminal else None
    try:
        with live or contextlib.nullcontext():
            while True:
                if live:
                    live.update(format_tasks(run.tasks), refresh=True)
                elif tasks := [task for task in run.tasks if task.has_ended and task.name not in printed]:
                    console.print(format_tasks(tasks), soft_wrap=True)
                    printed |= {task.name for task in tasks}
                if run.state in runs.ENDED:
                    break
                active = active if run.state == "canceling" else time.monotonic()
                if time.monotonic() - active > CANCELING_SECONDS:
                    raise ProjectError(f"the run {run_id} is being terminated and does not end: {runs.LOST}")
                run.poll()
    except KeyboardInterrupt:
        raise ProjectError(
            f"no longer watched, the run goes on: `status {run_id} --wait` watches again, `terminate {run_id}` ends it"
        ) from None
    if run.state not in ("succeeded", "failed"):
        raise ProjectError(f"the run {run_id} was {run.state}")
    row = run.verdict()
    console.print(Text(row["sentence"], style="bold red" if row["exit_code"] else "bold green"), soft_wrap=True)
    if run.state == "failed" and not row["exit_code"]:
        raise ProjectError(f"the run {run_id} failed after its verdict: `logs {run_id}` has the reason")
    return row


def logs(args: argparse.Namespace, server: Server) -> Row:
    """Prints the log of each task's last attempt under the task's name, or the reason why it has none.

    Raises:
        ProjectError: there is no log at all.
    """
    run = runs.Run(server, args.run_id)
    tasks = [task for task in run.tasks if args.task in (None, task.name)]
    if args.task and not tasks:
        raise BadInput(f"The run {run.id} has no task {args.task}: `status` lists its tasks.")
    texts: dict[str, str | None] = {}
    reasons = []
    for task in tasks:
        if args.task is None and task.state in ("waiting", "skipped"):
            continue
        try:
            text = texts[task.name] = run.log(task)
        except ProjectError as error:
            texts[task.name], text = None, f"({error})"
            reasons.append(f"{task.name}: {error}")
        if args.json != cli.STDOUT:
            cli.print_lines(None, f"== {task.name} ==", *text.splitlines())
    if len(reasons) == len(texts):
        raise ProjectError(f"there is no log of the run {run.id}: {'; '.join(reasons) or 'no task has started'}")
    return texts


def terminate(args: argparse.Namespace, server: Server) -> Row:
    """Ends a run.

    Raises:
        BadInput: it has ended, or is about to, or the cluster has lost its workflow.
    """
    run = runs.Run(server, args.run_id)
    if run.state in runs.ENDED:
        raise BadInput(f"The run {run.id} has ended already, as {run.state}.")
    if run.state == "canceling":
        raise BadInput(f"The run {run.id} is being terminated already; if that lasts, {runs.LOST}.")
    try:
        server.call("terminate the run", server.kfp.terminate_run, run.id)
    except ProjectError as error:
        if "terminating its workflow" not in str(error):
            raise
        raise BadInput(f"The run {run.id} could not be terminated: {runs.LOST}.") from None
    cli.print_lines(args.json, f"The run {run.id} is being terminated.")
    return {"run_id": run.id}


def list_newest(args: argparse.Namespace, server: Server) -> Row:
    """Lists the newest twenty runs, schedules or versions."""
    api, options = server.kfp, NEWEST | {"namespace": server.namespace or None}
    if args.kind == "versions":
        key = _pipeline_id(server, args.pipeline)
        versions = server.call("list versions", api.list_pipeline_versions, key, **NEWEST).pipeline_versions
        rows = [_row(item.pipeline_version_id, item, created=item.created_at) for item in versions or ()]
    elif args.kind == "schedules":
        schedules = server.call("list schedules", api.list_recurring_runs, **options).recurring_runs
        rows = [
            _row(item.recurring_run_id, item, status=str(item.status).lower(), cron=_schedule_cron(item))
            for item in schedules or ()
        ]
    else:
        items = server.call("list runs", api.list_runs, **options).runs
        rows = [_row(item.run_id, item, state=runs.state(item), created=item.created_at) for item in items or ()]
    terminal = Console(file=cli.message_stream(args.json), highlight=False)
    tables.show(terminal, [list(row.values()) for row in rows] or [[f"No {args.kind}."]], gap=2)
    return {args.kind: rows}


def format_tasks(tasks: Sequence[runs.Task]) -> Text:
    """Returns a line for each task: its name, state and seconds."""
    lines = []
    for task in tasks:
        mark, style = _MARKS.get(task.state, ("-", "dim"))
        seconds = "" if task.seconds is None else f"{task.seconds:9.1f} s"
        lines.append(Text.assemble((f"{mark} {task.name:<16}", style), f" {task.state:<10}{seconds}".rstrip()))
    return Text("\n").join(lines)


def parse_parameters(spec: Row, texts: Sequence[str]) -> dict[str, Any]:
    """Reads NAME=VALUE texts as the types of a pipeline's parameters; the server checks the rest.

    Raises:
        BadInput: no parameter has this name, or a value is not of its type.
    """
    declared = spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    readers: Mapping[str, Callable[[str], Any]] = {"NUMBER_INTEGER": int, "NUMBER_DOUBLE": _finite, "STRING": str}
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in declared or name in values:
            names = ", ".join(sorted(declared)) or "none at all"
            raise BadInput(f"--param must be NAME=VALUE, each NAME once, of: {names}. Received {text!r}.")
        kind = str(declared[name].get("parameterType", "STRING"))
        try:
            values[name] = readers.get(kind, json.loads)(value)
        except ValueError:
            raise BadInput(f"The parameter {name} is of the type {kind}. Received {value!r}.") from None
    return values


def _row(key: str, item: Any, **cells: Any) -> dict[str, str]:
    return {"id": key, "name": item.display_name} | {name: str(value) for name, value in cells.items()}


def _schedule_cron(item: Any) -> str:
    return str((item.trigger and item.trigger.cron_schedule and item.trigger.cron_schedule.cron) or "")


def _run_on_server(command: Callable[[argparse.Namespace, Server], Row], args: argparse.Namespace) -> int:
    """Runs a command and writes its result; the exit code is the verdict's, with --wait."""
    result = command(args, connect(args.host, args.namespace, args.token_file))
    cli.write_json(result, args.json)
    return int(result.get("exit_code", 0)) if getattr(args, "wait", False) else 0


def _prepare(args: argparse.Namespace, server: Server) -> tuple[str, dict[str, Any]]:
    """Returns the name of the version, and the options of a run or a schedule of it."""
    key, api = _pipeline_id(server, args.pipeline), server.kfp
    newest = _find_version(server, key, args.version)
    if newest is None:
        raise BadInput(
            f"{args.pipeline} has no version {args.version or 'at all'}: `list versions` shows its versions."
        )
    # The list may leave the specification out.
    version = server.call("return a version", api.get_pipeline_version, key, newest.pipeline_version_id)
    parameters = parse_parameters(runs.unwrap(version.pipeline_spec), args.param)
    options = {"namespace": server.namespace}
    experiment = server.call("make an experiment", api.create_experiment, args.experiment, **options)
    return version.display_name, {
        "experiment_id": experiment.experiment_id, "params": parameters, "pipeline_id": key,
        "version_id": version.pipeline_version_id, "pipeline_root": args.pipeline_root,
        "service_account": args.service_account,
    }  # fmt: skip


def _find_version(server: Server, pipeline_id: str, name: str | None = None) -> Any:
    """Returns the newest version, of this name if it is given; None where there is none."""
    options = {"page_size": 1, "sort_by": NEWEST["sort_by"], "filter": _name_filter(name) if name else ""}
    response = server.call("list versions", server.kfp.list_pipeline_versions, pipeline_id, **options)
    return next(iter(response.pipeline_versions or ()), None)


def _find_pipeline(server: Server, name: str) -> Any:
    options = {"filter": _name_filter(name), "namespace": server.namespace or None}
    return next(iter(server.call("find a pipeline", server.kfp.list_pipelines, **options).pipelines or ()), None)


def _pipeline_id(server: Server, name: str) -> str:
    pipeline = _find_pipeline(server, name)
    if pipeline is None:
        raise BadInput(f"{server.host} has no pipeline {name}: upload it first, or give --pipeline or --namespace.")
    return str(pipeline.pipeline_id)


def _name_filter(name: str) -> str:
    return json.dumps({"predicates": [{"operation": 1, "key": "display_name", "stringValue": name}]})  # 1: equals


def _pipeline_root(uri: str) -> str:
    if not _ROOT.fullmatch(uri):
        raise BadInput(
            "--pipeline-root must be gs://, s3:// or minio:// with a bucket, and without the characters of patterns "
            f"(* ? [ \\). Received {uri!r}."
        )
    return uri


def _cron(text: str) -> str:
    fields = text.split()
    if len(fields) not in (5, 6):
        raise BadInput(f"--cron must be six fields, seconds first, or the usual five. Received {text!r}.")
    return " ".join(["0", *fields][-6:])


def _run_id(text: str) -> str:
    if not text.replace("-", "").isalnum():
        raise BadInput(f"RUN must be the id of a run, which `list` shows. Received {text!r}.")
    return text


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number
