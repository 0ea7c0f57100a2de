# SPDX-License-Identifier: Apache-2.0
"""The tasks of a run: what the server says of them, as a table that follows the run, and their logs."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import kfp_server_api
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from components import stdio
from components.errors import BadInput, ProjectError
from pipeline import tables
from pipeline.kubeflow.submit import spec_of

if TYPE_CHECKING:
    from pipeline.kubeflow.server import Server

POLL_SECONDS = 5.0
PATIENCE = 60.0  # seconds that a server may fail for while a run is watched
ENDED = frozenset({"SUCCEEDED", "FAILED", "ERROR", "SKIPPED", "CANCELED"})
_WORDS = {"SUCCEEDED": "done", "ERROR": "failed", "OMITTED": "skipped", "PENDING": "waiting"}
_MARKS = {"done": ("✓", "green"), "cached": ("=", "cyan"), "failed": ("✗", "red"), "running": ("…", "yellow")}


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of a run.

    Attributes:
        state: waiting, running, done, cached, skipped, failed, canceled.
        started: when, None before.
        ended: when, None before.
        pods: names of the pods that its command ran in, the last attempt last.
    """

    name: str
    state: str
    started: datetime.datetime | None
    ended: datetime.datetime | None
    pods: Sequence[str]

    @property
    def seconds(self) -> float:
        """How long it took, or has been running."""
        if self.started is None:
            return 0.0
        return max(((self.ended or datetime.datetime.now(datetime.UTC)) - self.started).total_seconds(), 0.0)


def get(server: Server, run_id: str) -> Any:
    """Returns the run as the server describes it.

    Raises:
        BadInput: the server knows no such run.
    """
    if not run_id.replace("-", "").isalnum():
        raise BadInput(f"RUN must be the id of a run, which `list` shows. Received {run_id!r}.")
    with server.asking(f"find the run {run_id}"):
        return server.client.get_run(run_id)


def spec(server: Server, run: Any) -> Mapping[str, Any]:
    """Returns the PipelineSpec that a run was made from."""
    if run.pipeline_spec:
        return spec_of(run.pipeline_spec)
    reference = run.pipeline_version_reference
    if reference is None:
        return {}
    with server.asking("give the version of a pipeline"):
        version = server.client.get_pipeline_version(reference.pipeline_id, reference.pipeline_version_id)
    return spec_of(version.pipeline_spec)


def tasks(run: Any, of_spec: Mapping[str, Any]) -> list[Task]:
    """Finds the tasks of the pipeline among what the server lists: its workflow's nodes, drivers and groups included.

    A task is one node, and a node below it, "executor", is the pod with its command. Children are given by the node's
    id, which has the same last part as the pod's name but is another name.

    Args:
        run: from `get`.
        of_spec: from `spec`.

    Returns:
        those that have begun, in the order of their beginning.
    """
    details = (run.run_details and run.run_details.task_details) or []
    by_hash = {_hash(detail.pod_name): detail for detail in details if detail.pod_name}
    names = set(_names(of_spec, of_spec.get("root", {})))
    found = []
    for detail in details:
        if detail.display_name not in names:
            continue
        pods = list(_executors(detail, by_hash))
        state = _WORDS.get(str(detail.state), str(detail.state).lower())
        if state == "done" and pods and all(str(pod.state) in ("SKIPPED", "OMITTED") for pod in pods):
            state = "cached"
        ended = detail.end_time if str(detail.state) in ENDED else None
        ran = [pod.pod_name for pod in pods if str(pod.state) not in ("SKIPPED", "OMITTED")]
        found.append(Task(detail.display_name, state, detail.start_time or detail.create_time, ended, ran))
    earliest = datetime.datetime.min.replace(tzinfo=datetime.UTC)
    return sorted(found, key=lambda task: (task.started or earliest, task.name))


def _names(of_spec: Mapping[str, Any], dag: Mapping[str, Any]) -> Iterator[str]:
    for name, task in dag.get("dag", {}).get("tasks", {}).items():
        component = of_spec.get("components", {}).get(task.get("componentRef", {}).get("name"), {})
        if "dag" in component:  # a group, such as what an exit handler waits for
            yield from _names(of_spec, component)
        else:
            yield name


def _executors(detail: Any, by_hash: Mapping[str, Any]) -> Iterator[Any]:
    """The pods below a node; a task that is tried again has one node between for all attempts."""
    for child in detail.child_tasks or []:
        below = by_hash.get(_hash(child.pod_name or ""))
        if below is None or not (below.display_name or "").startswith("executor"):
            continue
        attempts = list(_executors(below, by_hash))
        yield from attempts or [below]


def _hash(name: str) -> str:
    return name.rpartition("-")[2]


class Screen:
    """Shows tasks as they come: on a terminal in place, elsewhere a line for each that ends."""

    def __init__(self, stream: TextIO):
        self.console = Console(file=stream, highlight=False)
        self._tasks: Sequence[Task] = ()
        self._printed: set[str] = set()

    def say(self, text: str, style: str = "") -> None:
        """Prints one line."""
        tables.line(self.console, text, style)

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """While it lasts, `show` changes one table."""
        if self.console.is_terminal:
            with Live(get_renderable=self._table, console=self.console, refresh_per_second=2):
                yield
        else:
            yield

    def show(self, tasks: Sequence[Task], all_of_them: bool = False) -> None:
        """Shows the tasks; without a terminal only those that have ended since, or all of them if asked to."""
        self._tasks = tasks
        if self.console.is_terminal and not all_of_them:
            return
        for task in tasks:
            if all_of_them or (task.state not in ("running", "waiting") and task.name not in self._printed):
                self._printed.add(task.name)
                self.console.print(self._row(task), soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid()
        for task in self._tasks:
            table.add_row(self._row(task))
        return table

    def _row(self, task: Task) -> Text:
        mark, style = _MARKS.get(task.state, ("-", "dim"))
        mark = stdio.readable(mark, self.console.encoding)
        return Text.assemble((f"{mark} {task.name:<16}", style), f" {task.state:<8}{task.seconds:9.1f} s")


def until_end(server: Server, run_id: str, screen: Screen) -> Any:
    """Follows a run to its end.

    Returns:
        the run as the server then describes it.

    Raises:
        BadInput: the server does not know the run, or has refused to answer for a minute.
    """
    run = get(server, run_id)
    of_spec = spec(server, run)
    heard = time.monotonic()
    try:
        with screen.live():
            while True:
                screen.show(tasks(run, of_spec))
                if str(run.state) in ENDED:
                    return run
                time.sleep(POLL_SECONDS)
                try:
                    run = get(server, run_id)
                    heard = time.monotonic()
                except ProjectError:
                    if time.monotonic() - heard > PATIENCE:
                        raise
    except KeyboardInterrupt:
        raise ProjectError(
            f"no longer watched, the run goes on: `status {run_id} --wait` watches again, `terminate {run_id}` ends it"
        ) from None


def namespace(server: Server, run: Any) -> str:
    """The namespace that a run's pods are in, "" for the server's own."""
    if server.namespace:
        return server.namespace
    with server.asking("give the run's experiment"):
        return server.client.get_experiment(experiment_id=run.experiment_id).namespace or ""


def log(server: Server, run: Any, pod: str) -> str:
    """Fetches the log of a task's pod.

    The user interface has one address for it, which also finds logs that were archived, the API another.

    Raises:
        ProjectError: neither has it.
    """
    started = run.created_at.strftime("%Y-%m-%d") if run.created_at else ""
    query = {"podname": pod, "runid": run.run_id, "podnamespace": namespace(server, run), "createdat": started}
    with server.asking(f"give the log of {pod}"):
        try:
            text = server.get("/k8s/pod/logs", {name: value for name, value in query.items() if value})
        except kfp_server_api.ApiException as error:
            if error.status in (401, 403):
                raise
            text = server.get(f"/apis/v1alpha1/runs/{run.run_id}/nodes/{pod}/log")
    return text.decode(errors="replace")


def print_log(name: str, text: str) -> None:
    """Prints a log under the task's name."""
    sys.stdout.write(f"== {name} ==\n{text}{'' if text.endswith(chr(10)) or not text else chr(10)}")
