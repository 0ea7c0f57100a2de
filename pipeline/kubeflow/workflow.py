# SPDX-License-Identifier: Apache-2.0
"""Tasks of a run: by what `/apis/v2beta1` lists and, better, by the Argo workflow that `/apis/v1beta1` hands out.

The list has no pods and, of a workflow beyond 1 MiB, not the last tasks. Since 2.17 each node of a workflow stands
below one for its attempts: `train`, `train(0)`, and below them `executor`, `executor(0)`, of which the last is the pod.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import graphlib
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.errors import BadInput, ProjectError

if TYPE_CHECKING:
    from pipeline.kubeflow.client import Server

ENDED = frozenset({"succeeded", "failed", "terminated", "skipped"})
GONE = "its workflow may be gone from the cluster, as with a deleted schedule: archive the run in the user interface"
# States of the API and phases of Argo; a node that nobody has reported yet has none.
_WORDS = {"": "waiting", "runtime_state_unspecified": "waiting", "pending": "waiting", "error": "failed"}
_TASK_WORDS = {"succeeded": "done", "omitted": "skipped"}


@dataclasses.dataclass(frozen=True)
class Task:
    """Task of a run.

    Attributes:
        state: waiting, running, done, cached, skipped, failed, terminated, or unknown.
        seconds: from its start to its end, or until now; None where it has not begun or that is not known.
        pods: names of its attempts' pods, the last one last; empty where there are none or they are not known.
    """

    name: str
    state: str
    seconds: float | None = None
    pods: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Node:
    """Node of a workflow.

    Attributes:
        path: the names from the root, without attempts, and by the list the last name only.
        message: why it waits or has failed, in the words of Kubernetes or Argo.
    """

    path: Sequence[str]
    state: str
    start: datetime.datetime | None
    end: datetime.datetime | None
    pod: str = ""
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Workflow:
    """Argo's workflow of a run; `text` has its nodes as JSON."""

    namespace: str
    nodes: Sequence[Node]
    text: str

    def provider(self, scheme: str) -> str:
        """The store of `scheme` and the secret that opens it, as the user interface takes it; "" where unknown."""
        sessions = re.findall(r'"store_session_info":\s*"(\{.*?\}\})"', self.text.replace("\\", ""))
        return next((info for info in sessions if f'"Provider":"{scheme}"' in info), "")


def get(server: Server, run_id: str) -> Any:
    """Returns the run as the server describes it.

    Raises:
        BadInput: the server knows no such run.
    """
    if not run_id.replace("-", "").isalnum():
        raise BadInput(f"RUN must be the id of a run, which `list` shows. Received {run_id!r}.")
    return server.call(f"find the run {run_id}", lambda: server.kfp.get_run(run_id))


def state(run: Any) -> str:
    """The state of a run: waiting, running, canceling, paused, or one of ENDED.

    The server ends a terminated run as failed; only its history says what happened.
    """
    word = _word(run.state)
    return "terminated" if word == "canceled" or (word == "failed" and _canceled_at(run)) else word


def spec(server: Server, run: Any) -> Mapping[str, Any]:
    """Returns the PipelineSpec that a run was made from."""
    package, version = run.pipeline_spec, run.pipeline_version_reference
    if not package and version:
        keys = (version.pipeline_id, version.pipeline_version_id)
        package = server.call("give a version", lambda: server.kfp.get_pipeline_version(*keys).pipeline_spec)
    return unwrapped(package)


def unwrapped(package: Any) -> Mapping[str, Any]:
    """The PipelineSpec in what the server answers, which wraps it where there is a part for Kubernetes beside it."""
    return dict((package or {}).get("pipeline_spec") or package or {})


def fetch(server: Server, run_id: str) -> Workflow | None:
    """Fetches the workflow of a run; None where the server does not have it, or not yet."""
    try:
        run = server.get_json("give the workflow of a run", f"/apis/v1beta1/runs/{run_id}")
        workflow = parse(json.loads(run["pipeline_runtime"]["workflow_manifest"]))
    except (ProjectError, ValueError, KeyError, TypeError):
        return None
    return workflow if workflow.nodes else None


def parse(workflow: Mapping[str, Any]) -> Workflow:
    """Reads Argo's workflow, whose nodes may be compressed."""
    packed = workflow["status"].get("compressedNodes")
    text = gzip.decompress(base64.b64decode(packed)).decode() if packed else json.dumps(workflow["status"]["nodes"])
    name = workflow["metadata"]["name"]
    nodes = []
    for node in json.loads(text).values():
        if re.search(r"(?<!\.executor)\(\d+\)$", node["name"]):  # an attempt, which the node above it sums up
            continue
        path = [re.sub(r"\(\d+\)$", "", part) for part in node["name"].split(".")]
        start, end = (_time(node.get(key)) for key in ("startedAt", "finishedAt"))
        pod = f"{name}-{node.get('templateName')}-{node['id'].rpartition('-')[2]}" if node["type"] == "Pod" else ""
        nodes.append(Node(path, _word(node.get("phase")), start, end, pod, node.get("message") or ""))
    return Workflow(workflow["metadata"].get("namespace", ""), nodes, text)


def tasks(run: Any, pipeline: Mapping[str, Any], workflow: Workflow | None) -> list[Task]:
    """Returns every task of the pipeline, each after those that it depends on.

    Args:
        run: from `get`.
        pipeline: from `spec`.
        workflow: from `fetch`; without it the tasks are what the run itself lists, without pods.
    """
    nodes = workflow.nodes if workflow else list(_listed(run))
    by_name: dict[str, list[Node]] = {}
    for one in nodes:
        by_name.setdefault(one.path[-1], []).append(one)
    has_ended, canceled = state(run) in ENDED, _canceled_at(run)
    # Where parts of a run that has ended still run, the list was not written to its end.
    is_whole = not any(node.state in ("running", "waiting") for node in nodes)
    rows = []
    for name in _names(pipeline, pipeline.get("root", {})):
        node = next(iter(by_name.get(name, ())), None)
        word = node.state if node else "waiting"
        word = _TASK_WORDS.get(word, word)
        # By the list, an executor is nobody's; one that was left out begins and ends with its task.
        own = [
            one
            for one in by_name.get("executor", ())
            if (one.path[-2:-1] == [name] if workflow else node and (one.start, one.end) == (node.start, node.end))
        ]
        if any(driver.state == "failed" for driver in by_name.get(f"{name}-driver", ())):
            word = "failed"
        elif has_ended and word in ("waiting", "running"):
            word = "skipped" if is_whole else "done" if state(run) == "succeeded" else "unknown"
        elif word == "done" and any(one.state == "skipped" for one in own):
            word = "cached"
        if word == "failed" and canceled and not (node and node.end and node.end < canceled):
            word = "terminated"
        pods = [one.pod for one in sorted(own, key=lambda one: str(one.start)) if one.pod]
        rows.append(Task(name, word, _seconds(node, word), pods))
    return rows


def log(server: Server, run: Any, workflow: Workflow | None, task: Task) -> tuple[str | None, str]:
    """Returns the log of a task's last attempt, or None and why there is none.

    The user interface has one address for it, which also finds archived logs, the API another.
    """
    if workflow is None:
        return None, "the server has no workflow of this run, by which pods are named"
    if not task.pods:
        return None, f"it is {task.state}, so no pod ran"
    created = run.created_at.strftime("%Y-%m-%d") if run.created_at else ""
    query = {"podname": task.pods[-1], "runid": run.run_id, "podnamespace": workflow.namespace, "createdat": created}
    try:
        response = server.get("/k8s/pod/logs", **query)
        if response.status_code != 200:
            response = server.get(f"/apis/v1alpha1/runs/{run.run_id}/nodes/{task.pods[-1]}/log")
    except ProjectError as error:
        return None, str(error)
    if response.status_code == 200:
        return response.text, ""
    return None, f"the pod {task.pods[-1]} has no log, or is gone and its log is in no archive ({response.status_code})"


def _listed(run: Any) -> Iterator[Node]:
    for detail in (run.run_details and run.run_details.task_details) or ():
        name, start, end = detail.display_name or "", detail.start_time, detail.end_time
        end = end if end and end.year > 1970 else None
        word = "omitted" if not detail.state and end and end == start else _word(detail.state)
        if not name.endswith(")"):  # one of a node's attempts
            yield Node([name], word, start, end)


def _names(pipeline: Mapping[str, Any], component: Mapping[str, Any]) -> Iterator[str]:
    """Names of the tasks, without groups such as the one that an exit handler waits for."""
    graph = component.get("dag", {}).get("tasks", {})
    order = graphlib.TopologicalSorter({name: task.get("dependentTasks", ()) for name, task in graph.items()})
    for name in order.static_order():
        inner = pipeline.get("components", {}).get(graph.get(name, {}).get("componentRef", {}).get("name"), {})
        yield from _names(pipeline, inner) if "dag" in inner else (name,)


def _word(given: Any) -> str:
    word = str(given or "").lower()
    return _WORDS.get(word, word)


def _time(text: str | None) -> datetime.datetime | None:
    return datetime.datetime.fromisoformat(text) if text else None


def _seconds(node: Node | None, word: str) -> float | None:
    if node is None or node.start is None or word in ("waiting", "skipped", "unknown"):
        return None
    end = node.end or (datetime.datetime.now(datetime.UTC) if word == "running" else None)
    return max((end - node.start).total_seconds(), 0.0) if end else None


def _canceled_at(run: Any) -> datetime.datetime | None:
    times = [change.update_time for change in run.state_history or () if str(change.state) == "CANCELING"]
    return times[0] if times else None
