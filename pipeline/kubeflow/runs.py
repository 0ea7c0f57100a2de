# SPDX-License-Identifier: Apache-2.0
"""A run on the server: its state, its tasks, their logs, and its verdict.

`/apis/v2beta1` lists tasks without their pods, and not the last tasks of a workflow beyond 1 MiB; Argo's workflow,
from `/apis/v1beta1`, has both. Since 2.17 each node of a workflow stands below one for its attempts: `train`,
`train(0)`, and below them `executor`, `executor(0)`, of which the last is the pod.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import functools
import graphlib
import gzip
import json
import re
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import httpx
import tenacity

from components.errors import ProjectError
from pipeline import run_record
from pipeline.kubeflow.client import Server, read_object

Result = TypeVar("Result")

ROOT = "minio://mlpipeline/v2/artifacts"  # the server's default
ENDED = frozenset({"succeeded", "failed", "terminated", "skipped"})
LOST = "its workflow may be gone from the cluster, as with a deleted schedule: archive the run in the user interface"
POLL_SECONDS = 5.0
PATIENCE_SECONDS = 60.0  # for a server that fails while a run is watched
# States of the API and phases of Argo; nodes that no controller has reported have none.
_WORDS = {"": "waiting", "runtime_state_unspecified": "waiting", "pending": "waiting", "error": "failed"}
_TASK_WORDS = {"succeeded": "done", "omitted": "skipped"}
_SENTENCE = re.compile(r"^(?:PUSHED|UNCHANGED|NOT BLESSED|STOPPED|FAILED): .*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Task:
    """Task of a run.

    Attributes:
        state: waiting, running, done, cached, skipped, failed, terminated, or unknown.
        seconds: from its start to its end, or until now; None where it has not started or its times are not known.
        pods: names of its attempts' pods, the last attempt's last; those of its driver where that failed; empty where
            there are none or they are not known.
    """

    name: str
    state: str
    seconds: float | None = None
    pods: Sequence[str] = ()

    @property
    def has_ended(self) -> bool:
        return self.state not in ("waiting", "running")


@dataclasses.dataclass(frozen=True)
class Node:
    """Node of a workflow.

    Attributes:
        path: names from the root, without attempts; from the list the last name only.
        message: the reason why it waits or has failed, in the words of Kubernetes or Argo.
        log_uris: where the launcher may have published its log, with the attempt's number (2.17) and without.
    """

    path: Sequence[str]
    state: str
    start: datetime.datetime | None
    end: datetime.datetime | None
    pod: str = ""
    message: str = ""
    log_uris: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Workflow:
    """Argo's workflow of a run, empty where the server has none; `text` holds its nodes as JSON."""

    namespace: str = ""
    nodes: Sequence[Node] = ()
    text: str = ""

    def provider(self, scheme: str) -> str:
        """Returns the store of `scheme` and the secret for it, in the user interface's form; "" where unknown."""
        sessions = re.findall(r'"store_session_info":\s*"(\{.*?\}\})"', self.text.replace("\\", ""))
        return next((info for info in sessions if f'"Provider":"{scheme}"' in info), "")


class Run:
    """A run as the server had it at the last `refresh`.

    Attributes:
        id: the server's.
        state: waiting, running, canceling, paused, or one of ENDED.
        workflow: Argo's.
    """

    def __init__(self, server: Server, run_id: str):
        """Reads the run; raises as `refresh` does."""
        self.id, self._server = run_id, server
        self.refresh()

    def refresh(self) -> None:
        """Reads the run again.

        Raises:
            BadInput: the server does not know it, or does not respond.
            ProjectError: the server has failed.
        """
        self._run = self._server.call(f"find the run {self.id}", self._server.kfp.get_run, self.id)
        self.state = state(self._run)
        self.workflow = Workflow()
        with contextlib.suppress(
            ProjectError, OSError, ValueError, KeyError, TypeError
        ):  # it is missing, or not yet there
            response = read_object(self._server.get(f"/apis/v1beta1/runs/{self.id}"))
            self.workflow = parse(json.loads(response["pipeline_runtime"]["workflow_manifest"]))

    def poll(self, seconds: float | None = None) -> None:
        """Waits, by default for POLL_SECONDS, and reads the run again, for up to PATIENCE_SECONDS."""
        time.sleep(POLL_SECONDS if seconds is None else seconds)
        patiently(self.refresh, seconds)

    @functools.cached_property
    def spec(self) -> Mapping[str, Any]:
        """The PipelineSpec of the run."""
        package, version = self._run.pipeline_spec, self._run.pipeline_version_reference
        if not package and version:
            keys = (version.pipeline_id, version.pipeline_version_id)
            package = self._server.call("return a version", self._server.kfp.get_pipeline_version, *keys).pipeline_spec
        return unwrap(package)

    @property
    def tasks(self) -> list[Task]:
        """Every task of the pipeline, each after those that it depends on."""
        nodes = self.workflow.nodes or list(self._listed())
        by_name: dict[str, list[Node]] = {}
        for node in nodes:
            by_name.setdefault(node.path[-1], []).append(node)
        # Where parts of a run that has ended still run, the server's list is not complete.
        is_complete = not any(node.state in ("running", "waiting") for node in nodes)
        return [self._task(name, by_name, is_complete) for name in _names(self.spec, self.spec.get("root", {}))]

    @property
    def messages(self) -> list[str]:
        """The reasons why pods wait or have failed, the innermost node's last."""
        nodes = [node for node in self.workflow.nodes if node.message and node.state != "succeeded"]
        return [" ".join(node.message.split()) for node in sorted(nodes, key=lambda node: len(node.path))]

    def log(self, task: Task) -> str:
        """Returns the log of a task's last attempt.

        The user interface and the API have an address each. The user interface of 2.17.0 does not find the archived
        log of a pod that is gone, but has the artifact in which the launcher publishes it.

        Raises:
            ProjectError: there is none; the message is the reason.
        """
        if not self.workflow.nodes:
            raise ProjectError("the server has no workflow of this run, which has the names of the pods")
        if not task.pods:
            raise ProjectError(f"it is {task.state}, so no pod ran")
        pod, created = task.pods[-1], self._run.created_at
        query = {"podname": pod, "runid": self.id, "podnamespace": self.workflow.namespace}
        query["createdat"] = created.strftime("%Y-%m-%d") if created else ""
        response = self._server.get("/k8s/pod/logs", query)
        if response.status_code != 200:
            response = self._server.get(f"/apis/v1alpha1/runs/{self.id}/nodes/{pod}/log")
        if response.status_code != 200:
            for uri in next((node.log_uris for node in self.workflow.nodes if node.pod == pod), ()):
                with contextlib.suppress(ProjectError, ValueError):
                    artifact = self._artifact(uri)
                    if artifact.status_code == 200:
                        return artifact.text
            raise ProjectError(f"the pod {pod} has no log, or is gone without an archived log ({response.status_code})")
        return response.text

    def verdict(self) -> dict[str, Any]:
        """Returns the record of a run that has ended, from PIPELINE_ROOT/PIPELINE/RUN_ID/record.json.

        The user interface returns it where it can read the store. Elsewhere the row has run_id, verdict, exit_code and
        sentence only: from the log of the task `report`, else from the states of run and tasks, with verdict None.
        """
        if row := self._record():
            return row
        tasks = self.tasks
        sentences = [""]
        with contextlib.suppress(ProjectError, StopIteration):
            sentences += _SENTENCE.findall(self.log(next(task for task in tasks if task.name == "report")))
        sentence = sentences[-1]
        word = sentence.partition(":")[0].lower().replace(" ", "_") or None
        code = run_record.Verdict(word).exit_code if word else 1
        if word is None:
            failed = [task.name for task in tasks if task.state == "failed"]
            is_gate = bool(failed) and all(name.endswith("-gate") for name in failed)
            code = 0 if self.state == "succeeded" else run_record.Verdict.STOPPED.exit_code if is_gate else 1
            scope = f" in {', '.join(failed)}" if failed else ""
            sentence = f"{self.state.upper()}{scope}: the record is out of reach, see `logs {self.id}`."
        return {"run_id": self.id, "verdict": word, "exit_code": code, "sentence": sentence}

    def _record(self) -> dict[str, Any] | None:
        root = ((self._run.runtime_config and self._run.runtime_config.pipeline_root) or ROOT).partition("?")[0]
        name = str(self.spec.get("pipelineInfo", {}).get("name", ""))
        for folder in dict.fromkeys((name, name.rpartition("/")[2])):  # some servers put words before the name
            try:
                response = self._artifact(f"{root.rstrip('/')}/{folder}/{self.id}/{run_record.RECORD_FILE}")
                record = run_record.parse_record(response.content) if response.status_code == 200 else None
            except (ProjectError, ValueError):  # as where the store does not respond, or sends a page
                continue
            if record:
                return record.end(record.verdict, record.reason).to_json()
        return None

    def _artifact(self, uri: str) -> httpx.Response:
        """Reads an object of the store through the user interface."""
        parts = urllib.parse.urlsplit(uri)
        query = {
            "source": "gcs" if parts.scheme == "gs" else parts.scheme, "bucket": parts.netloc,
            "key": parts.path.lstrip("/"), "namespace": self._server.namespace or self.workflow.namespace,
            "providerInfo": self.workflow.provider(parts.scheme),
        }  # fmt: skip
        return self._server.get("/artifacts/get", query)

    def _task(self, name: str, by_name: Mapping[str, Sequence[Node]], is_complete: bool) -> Task:
        node = next(iter(by_name.get(name, ())), None)
        word = node.state if node else "waiting"
        word = _TASK_WORDS.get(word, word)
        # The list does not name the task of an executor; that of a cached task starts and ends with it.
        times = (node.start, node.end) if node and not self.workflow.nodes else None
        executors = [
            executor
            for executor in by_name.get("executor", ())
            if executor.path[-2:-1] == [name] or (executor.start, executor.end) == times
        ]
        drivers = by_name.get(f"{name}-driver", ())
        pods = _pods(executors)
        if drivers and all(driver.state == "failed" for driver in drivers):
            word, pods = "failed", pods or _pods(drivers)
        elif self.state in ENDED and word in ("waiting", "running"):
            word = "skipped" if is_complete else "done" if self.state == "succeeded" else "unknown"
        elif word == "done" and any(executor.state == "skipped" for executor in executors):
            word = "cached"
        canceled = _canceled_at(self._run)
        if word == "failed" and canceled and not (node and node.end and node.end < canceled):
            word = "terminated"
        return Task(name, word, _seconds(node, word), pods)

    def _listed(self) -> Iterator[Node]:
        """Yields the nodes that `/apis/v2beta1` lists, without those of attempts."""
        for detail in (self._run.run_details and self._run.run_details.task_details) or ():
            name, start, end = detail.display_name or "", detail.start_time, detail.end_time
            end = end if end and end.year > 1970 else None
            word = "omitted" if not detail.state and end and end == start else _word(detail.state)
            if not name.endswith(")"):
                yield Node([name], word, start, end)


def patiently(work: Callable[[], Result], seconds: float | None = None) -> Result:
    """Returns the result of `work`, which is repeated for up to PATIENCE_SECONDS while the server fails."""
    wait = tenacity.wait_fixed(POLL_SECONDS if seconds is None else seconds)
    stop, retry = tenacity.stop_after_delay(PATIENCE_SECONDS), tenacity.retry_if_exception_type(ProjectError)
    return tenacity.Retrying(wait=wait, stop=stop, retry=retry, reraise=True)(work)


def state(run: Any) -> str:
    """Returns the state of a run that the API describes: waiting, running, canceling, paused, or one of ENDED.

    The server ends a terminated run as failed; its history has the difference.
    """
    word = _word(run.state)
    return "terminated" if word == "canceled" or (word == "failed" and _canceled_at(run)) else word


def unwrap(package: Any) -> Mapping[str, Any]:
    """Returns the PipelineSpec in a package from the server, which may hold a part for Kubernetes beside it."""
    return dict((package or {}).get("pipeline_spec") or package or {})


def parse(workflow: Mapping[str, Any]) -> Workflow:
    """Reads Argo's workflow, whose nodes may be compressed."""
    packed = workflow["status"].get("compressedNodes")
    text = gzip.decompress(base64.b64decode(packed)).decode() if packed else json.dumps(workflow["status"]["nodes"])
    name = workflow["metadata"]["name"]
    nodes = []
    for node in json.loads(text).values():
        # Attempts that are no pod of a task or its driver; the node above them sums them up.
        if re.search(r"(?<!\.executor)(?<!-driver)\(\d+\)$", node["name"]):
            continue
        path = [re.sub(r"\(\d+\)$", "", part) for part in node["name"].split(".")]
        times = [node.get(key) for key in ("startedAt", "finishedAt")]
        start, end = (datetime.datetime.fromisoformat(text) if text else None for text in times)
        pod = f"{name}-{node.get('templateName')}-{node['id'].rpartition('-')[2]}" if node["type"] == "Pod" else ""
        message = node.get("message") or ""
        nodes.append(Node(path, _word(node.get("phase")), start, end, pod, message, _log_uris(node) if pod else ()))
    return Workflow(workflow["metadata"].get("namespace", ""), nodes, text)


def _log_uris(node: Mapping[str, Any]) -> list[str]:
    patch = json.dumps(node.get("inputs", {})).replace("\\", "")
    uri = next(iter(re.findall(r'"(\w+://[^"]*/executor-logs)"', patch)), "")
    attempt = re.search(r"\((\d+)\)$", node["name"])
    return [f"{uri}-{attempt[1]}" if attempt else uri, uri] if uri else []


def _names(pipeline: Mapping[str, Any], component: Mapping[str, Any]) -> Iterator[str]:
    """Yields the names of the tasks, without groups such as the one that an exit handler waits for."""
    graph = component.get("dag", {}).get("tasks", {})
    order = graphlib.TopologicalSorter({name: task.get("dependentTasks", ()) for name, task in graph.items()})
    for name in order.static_order():
        inner = pipeline.get("components", {}).get(graph.get(name, {}).get("componentRef", {}).get("name"), {})
        yield from _names(pipeline, inner) if "dag" in inner else (name,)


def _pods(nodes: Iterable[Node]) -> list[str]:
    return [node.pod for node in sorted(nodes, key=lambda node: str(node.start)) if node.pod]


def _word(state: Any) -> str:
    word = str(state or "").lower()
    return _WORDS.get(word, word)


def _seconds(node: Node | None, word: str) -> float | None:
    if node is None or node.start is None or word in ("waiting", "skipped", "unknown"):
        return None
    end = node.end or (datetime.datetime.now(datetime.UTC) if word == "running" else None)
    return max((end - node.start).total_seconds(), 0.0) if end else None


def _canceled_at(run: Any) -> datetime.datetime | None:
    return next((change.update_time for change in run.state_history or () if str(change.state) == "CANCELING"), None)
