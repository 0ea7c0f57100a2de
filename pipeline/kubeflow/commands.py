# SPDX-License-Identifier: Apache-2.0
"""Commands of runner_kfp.py beside `compile`: lint, upload, run, schedule, status, logs, terminate, list."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from components.errors import BadInput, ProjectError
from pipeline import cli
from pipeline.kubeflow import submit

if TYPE_CHECKING:
    from pipeline.kubeflow.client import Server

PACKAGE = "pipeline.yaml"  # what `compile` writes by default
PIPELINE = "mnist-tfx"  # the name in the package


def register(subparsers: Any) -> None:
    """Adds the commands to the runner's arguments; each sets `run`, which takes them and returns the exit code."""

    def command(name: str, run: Callable[[argparse.Namespace, Server], Any], does: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = subparsers.add_parser(name, help=does, description=does, allow_abbrev=False)
        parser.set_defaults(run=functools.partial(_connected, run))
        add_server(parser)
        return parser

    does = "Check a compiled package, of this or of another pipeline."
    parser: argparse.ArgumentParser = subparsers.add_parser("lint", help=does, description=does, allow_abbrev=False)
    parser.set_defaults(run=lint)
    parser.add_argument("package", metavar="FILE", help="a package in YAML or JSON")
    cli.add_json_argument(parser)

    parser = command("upload", submit.upload, "Make a package a pipeline, or a new version of the one with its name.")
    parser.add_argument("package", nargs="?", default=PACKAGE, metavar="FILE", help=f"default: {PACKAGE}")
    parser.add_argument("--pipeline", metavar="NAME", help="default: the name in the package")
    parser.add_argument("--version", metavar="NAME", help="default: made from the package's content")

    parser = command("run", submit.run, "Start a run of an uploaded pipeline.")
    _add_run_arguments(parser)
    parser.add_argument("--wait", action="store_true", help="follow the run and exit as its verdict says")

    parser = command("schedule", submit.schedule, "Run an uploaded pipeline again and again.")
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


def add_server(parser: argparse.ArgumentParser) -> None:
    """Adds the server, who asks it, and `--json`."""
    server = parser.add_argument_group("server")
    server.add_argument(
        "--host", metavar="URL", help="of the user interface or the API; default: KF_PIPELINES_ENDPOINT"
    )
    server.add_argument("--namespace", metavar="NAME", help="the user's, on a server with users")
    server.add_argument("--token-file", metavar="FILE", help="holds the token; default: the variable KFP_TOKEN")
    cli.add_json_argument(parser)


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--pipeline", default=PIPELINE, metavar="NAME", help=f"default: {PIPELINE}")
    group.add_argument("--version", metavar="NAME", help="default: the newest")
    group.add_argument("--param", action="append", default=[], metavar="NAME=VALUE", help="in place of the default")
    group.add_argument(
        "--pipeline-root", default=submit.ROOT, metavar="URI", help=f"for the artifacts; default: {submit.ROOT}"
    )
    group.add_argument("--experiment", default="Default", metavar="NAME", help="default: Default")
    group.add_argument("--service-account", metavar="NAME", help="of the run's pods; default: the server's choice")


def _connected(command: Callable[[argparse.Namespace, Server], Any], args: argparse.Namespace) -> int:
    """Runs a command on the server; its result is a mapping, its exit code that of the verdict, if it waits for one."""
    from pipeline.kubeflow import client

    result = command(args, client.connect(args.host, args.namespace, args.token_file))
    cli.write_json(result, args.json)
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
    cli.print_lines(args.json, *([finding.sentence for finding in findings] or [f"{args.package}: no findings"]))
    cli.write_json([dataclasses.asdict(finding) for finding in findings], args.json)
    if findings:
        count = f"{len(findings)} finding{'s' if len(findings) > 1 else ''}"
        raise BadInput(f"{args.package} breaks rules of Kubeflow Pipelines: {count}")
    return 0


def status(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Shows the tasks and, once the run has ended, the verdict."""
    from pipeline.kubeflow import watch, workflow

    if args.wait:
        return watch.until_end(server, args.run_id, cli.message_stream(args.json))
    run = workflow.get(server, args.run_id)
    state, argo, pipeline = workflow.state(run), workflow.fetch(server, args.run_id), workflow.spec(server, run)
    tasks = workflow.tasks(run, pipeline, argo)
    row = watch.verdict(server, run, pipeline, argo) if state in ("succeeded", "failed") else None
    cli.print_lines(args.json, watch.table(tasks).plain, str(row["sentence"]) if row else f"The run is {state}.")
    listed = [dataclasses.asdict(task) for task in tasks]
    return {"run_id": args.run_id, "state": state, "tasks": listed, "record": row}


def logs(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Prints the log of each task's last attempt under the task's name, or why there is none.

    Raises:
        ProjectError: there is no log at all.
    """
    from pipeline.kubeflow import workflow

    run = workflow.get(server, args.run_id)
    argo, pipeline = workflow.fetch(server, args.run_id), workflow.spec(server, run)
    tasks = workflow.tasks(run, pipeline, argo)
    if args.task and args.task not in [task.name for task in tasks]:
        raise BadInput(f"The run {args.run_id} has no task {args.task}: `status` lists those it has.")
    texts: dict[str, str | None] = {}
    reasons = []
    for task in tasks:
        if task.name == args.task or (args.task is None and task.state not in ("waiting", "skipped")):
            texts[task.name], reason = workflow.log(server, run, argo, task)
            reasons += [f"{task.name}: {reason}"] if reason else []
            if args.json != cli.STDOUT:
                text = texts[task.name]
                cli.print_lines(None, f"== {task.name} ==", *(f"({reason})" if text is None else text).splitlines())
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
    cli.print_lines(args.json, f"The run {args.run_id} is being terminated.")
    return {"run_id": args.run_id}


def list_all(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Lists the newest twenty."""
    from pipeline.kubeflow import workflow

    options: dict[str, Any] = {"namespace": server.namespace or None, **submit.NEWEST}
    rows: list[dict[str, str]] = []
    if args.what == "versions":
        key = submit.existing(server, args.pipeline)
        response = server.call("list versions", lambda: server.kfp.list_pipeline_versions(key, **submit.NEWEST))
        for version in response.pipeline_versions or []:
            rows.append(
                {"id": version.pipeline_version_id, "name": version.display_name, "created": str(version.created_at)}
            )
    elif args.what == "schedules":
        response = server.call("list schedules", lambda: server.kfp.list_recurring_runs(**options))
        for schedule in response.recurring_runs or []:
            cron = str(
                (schedule.trigger and schedule.trigger.cron_schedule and schedule.trigger.cron_schedule.cron) or ""
            )
            keys = {"id": schedule.recurring_run_id, "name": schedule.display_name}
            rows.append(keys | {"status": str(schedule.status).lower(), "cron": cron})
    else:
        response = server.call("list runs", lambda: server.kfp.list_runs(**options))
        for run in response.runs or []:
            keys = {"id": run.run_id, "name": run.display_name}
            rows.append(keys | {"state": workflow.state(run), "created": str(run.created_at)})
    cli.print_lines(args.json, *(["  ".join(row.values()) for row in rows] or [f"No {args.what}."]))
    return {args.what: rows}
