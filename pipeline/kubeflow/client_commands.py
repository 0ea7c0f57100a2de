# SPDX-License-Identifier: Apache-2.0
"""The commands of runner_kfp.py that talk to a server: upload, run, schedule, status, logs, terminate, list."""

from __future__ import annotations

import argparse
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from components.errors import BadInput, ProjectError
from pipeline import answer

if TYPE_CHECKING:
    from pipeline.kubeflow import submit
    from pipeline.kubeflow.server import Server

PACKAGE = "pipeline.yaml"  # what `compile` writes if it is told no other name
PIPELINE = "mnist-tfx"  # the name in the package
ROOT = "minio://mlpipeline/v2/artifacts"


def register(subparsers: Any) -> None:
    """Adds the commands to the runner's arguments; each sets `run`, which takes them and returns the exit code."""

    def command(name: str, run: Callable[[argparse.Namespace, Server], Any], does: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = subparsers.add_parser(name, help=does, description=does, allow_abbrev=False)
        parser.set_defaults(run=functools.partial(_connected, run))
        server = parser.add_argument_group("server")
        server.add_argument(
            "--host", metavar="URL", help="of the user interface or the API; default: the pod's cluster, or kubectl's"
        )
        server.add_argument("--namespace", metavar="NAME", help="the user's, on a server with users")
        server.add_argument(
            "--token-file", metavar="FILE", help="holds the token; default: the environment variable KFP_TOKEN"
        )
        answer.add_json(parser)
        return parser

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
    group.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another value than the default",
    )
    group.add_argument("--pipeline-root", default=ROOT, metavar="URI", help=f"for the artifacts; default: {ROOT}")
    group.add_argument("--experiment", default="Default", metavar="NAME", help="default: Default")
    group.add_argument("--service-account", metavar="NAME", help="of the run's pods; default: the server's choice")


def _connected(run: Callable[[argparse.Namespace, Server], Any], args: argparse.Namespace) -> int:
    """Runs a command on the server; its result is a mapping, its exit code that of the record, if it is one."""
    from pipeline.kubeflow import server

    result = run(args, server.connect(args.host, args.namespace, args.token_file))
    answer.write(result, args.json)
    return int(result.get("exit_code", 0)) if getattr(args, "wait", False) else 0


def upload(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """See `submit.upload`."""
    from pipeline.kubeflow import submit

    made = submit.upload(server, pathlib.Path(args.package), args.pipeline, args.version)
    answer.say(args.json, f"Uploaded {made['version']} of {made['pipeline']}: {made['url']}")
    return made


def run(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """See `submit.run`; waits if asked to."""
    from pipeline.kubeflow import submit

    started = submit.run(server, _start(args, server))
    answer.say(args.json, f"Started run {started['run_id']} of {started['version']}: {started['url']}")
    return _wait(args, server, started["run_id"]) if args.wait else started


def _start(args: argparse.Namespace, server: Server) -> submit.Start:
    from pipeline.kubeflow import submit

    version = submit.find_version(server, args.pipeline, args.version)
    return submit.Start(version, args.param, args.pipeline_root, args.experiment, args.service_account)


def _wait(args: argparse.Namespace, server: Server, run_id: str) -> Mapping[str, Any]:
    from pipeline import record
    from pipeline.kubeflow import run_record, watch

    screen = watch.Screen(answer.stream(args.json))
    ended = watch.until_end(server, run_id, screen)
    if ended.state == "CANCELED":
        raise ProjectError(f"the run {run_id} was terminated")
    row = run_record.read(server, ended)
    row["exit_code"] = record.EXIT_CODES[row["verdict"]]
    screen.say(_sentence(row), style="bold red" if row["exit_code"] else "bold green")
    if ended.state != "SUCCEEDED" and not row["exit_code"]:
        raise ProjectError(f"the run {run_id} ended as {ended.state} after its verdict: `logs {run_id}` says why")
    return row


def _sentence(row: Mapping[str, Any]) -> str:
    return str(row.get("sentence") or f"{row['verdict']}: {row.get('reason')}")


def schedule(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """See `submit.schedule`."""
    from pipeline.kubeflow import submit

    made = submit.schedule(server, _start(args, server), args.cron, args.name)
    answer.say(args.json, f"Scheduled {made['version']} at {made['cron']}: {made['url']}")
    return made


def status(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Shows the tasks and, once the run has ended, the verdict."""
    if args.wait:
        return _wait(args, server, args.run_id)
    from pipeline.kubeflow import run_record, watch

    found = watch.get(server, args.run_id)
    tasks = watch.tasks(found, watch.spec(server, found))
    screen = watch.Screen(answer.stream(args.json))
    screen.show(tasks, all_of_them=True)
    ended = found.state in watch.ENDED and found.state != "CANCELED"
    row = run_record.read(server, found) if ended else None
    screen.say(_sentence(row) if row else f"The run is {str(found.state).lower()}.")
    listed = [{"name": task.name, "state": task.state, "seconds": round(task.seconds, 1)} for task in tasks]
    return {"run_id": found.run_id, "state": found.state, "tasks": listed, "record": row}


def logs(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Prints the logs, each under its task's name."""
    from pipeline.kubeflow import watch

    found = watch.get(server, args.run_id)
    tasks = [task for task in watch.tasks(found, watch.spec(server, found)) if args.task in (None, task.name)]
    if not tasks:
        raise BadInput(f"The run {args.run_id} has begun no task {args.task or 'yet'}: `status` lists those it has.")
    texts: dict[str, str] = {}
    for task in tasks:
        # A task that took its result from the cache, or still waits, has no pod.
        texts[task.name] = watch.log(server, found, task.pods[-1]) if task.pods else ""
        if args.json != answer.STDOUT:
            watch.print_log(task.name, texts[task.name])
    return texts


def terminate(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Ends a run."""
    from pipeline.kubeflow import watch

    found = watch.get(server, args.run_id)
    if found.state in watch.ENDED:
        raise BadInput(f"The run {args.run_id} has ended already, as {found.state}.")
    with server.asking("terminate the run"):
        server.client.terminate_run(args.run_id)
    answer.say(args.json, f"The run {args.run_id} is being terminated.")
    return {"run_id": args.run_id}


def list_all(args: argparse.Namespace, server: Server) -> Mapping[str, Any]:
    """Lists the newest twenty."""
    from pipeline.kubeflow import submit

    newest: dict[str, Any] = {"page_size": 20, "sort_by": "created_at desc"}
    rows: list[dict[str, str]]
    if args.what == "versions":
        rows = submit.versions(server, args.pipeline)
    elif args.what == "schedules":
        with server.asking("list schedules"):
            found = server.client.list_recurring_runs(namespace=server.namespace or None, **newest).recurring_runs
        rows = [
            {
                "id": one.recurring_run_id,
                "name": one.display_name,
                "status": str(one.status),
                "cron": str(one.trigger.cron_schedule and one.trigger.cron_schedule.cron) if one.trigger else "",
            }
            for one in found or []
        ]
    else:
        with server.asking("list runs"):
            found = server.client.list_runs(namespace=server.namespace or None, **newest).runs
        rows = [
            {"id": one.run_id, "name": one.display_name, "state": str(one.state), "created": str(one.created_at)}
            for one in found or []
        ]
    for row in rows:
        answer.say(args.json, "  ".join(row.values()))
    if not rows:
        answer.say(args.json, f"No {args.what}.")
    return {args.what: rows}
