# SPDX-License-Identifier: Apache-2.0
"""Argo's workflow of a run as Kubeflow Pipelines 2.17 makes it, and what the server lists of it; and recorded answers.

Each node stands under one for its attempts. The list of tasks has no pods; an omitted node has no state in it.
"""

from __future__ import annotations

import base64
import gzip
import json
import pathlib
from typing import Any

RECORDED = pathlib.Path(__file__).parent / "recorded"
NAME = "mnist-tfx-x1"
START, END = "2026-11-21T00:0{}:00Z", "2026-11-21T00:0{}:30Z"
NOT_ENDED, NOT_FINISHED = "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z"  # of a task, of a run

Json = dict[str, Any]


def recorded(name: str) -> bytes:
    """A recorded file, unpacked."""
    path = RECORDED / name
    if not path.is_file():
        return gzip.decompress((RECORDED / f"{name}.gz").read_bytes())
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def node_id(name: str, workflow: str = NAME) -> str:
    """Argo's: the workflow's name and, below its root, the FNV-1a hash of the node's."""
    if name == workflow:
        return workflow
    value = 2166136261
    for byte in name.encode():
        value = ((value ^ byte) * 16777619) % 2**32
    return f"{workflow}-{value}"


def nodes(tasks: dict[str, str], attempts: int = 1, provider: str = "") -> Json:
    """Nodes of a workflow by their ids.

    Args:
        tasks: name -> Succeeded, Failed, Running, Pending, cached or Omitted.
        attempts: of each command.
        provider: of the store, as the server gives it to a task with its input artifacts.
    """
    nodes_by_id: list[Json] = []

    def add(name: str, kind: str, phase: str, template: str, number: int, children: list[str]) -> None:
        node: Json = {
            "id": node_id(name), "name": name, "displayName": name.rpartition(".")[2], "type": kind, "phase": phase,
            "templateName": template, "startedAt": START.format(number), "finishedAt": END.format(number),
            "children": [node_id(child) for child in children],
        }  # fmt: skip
        if phase in ("Running", "Pending"):
            node["finishedAt"] = None
        if phase in ("Omitted", "Skipped"):
            node["finishedAt"] = node["startedAt"]
        nodes_by_id.append(node)

    def wrapped(name: str, kind: str, phase: str, template: str, number: int, count: int = 1) -> None:
        names = [f"{name}({attempt})" for attempt in range(count)]
        add(name, "Retry", phase, template, number, names)
        for attempt in names:
            add(attempt, kind, phase if attempt == names[-1] else "Failed", template, number, [])

    for number, (task, state) in enumerate(tasks.items(), start=1):
        base = f"{NAME}(0).root(0).exit-handler-1(0).{task}"
        phase = "Succeeded" if state == "cached" else state
        if state == "Omitted":
            add(f"{base}-driver", "Skipped", "Omitted", "system-container-driver", number, [base])
            add(base, "Skipped", "Omitted", "system-container-executor", number, [])
            continue
        wrapped(f"{base}-driver", "Pod", "Succeeded", "system-container-driver", number)
        wrapped(base, "DAG", phase, "system-container-executor", number)
        if state == "cached":
            add(f"{base}(0).executor", "Skipped", "Skipped", "system-container-impl", number, [])
        else:
            wrapped(f"{base}(0).executor", "Pod", phase, "system-container-impl", number, attempts)
        if state == "cached":
            for node in nodes_by_id[-4:]:
                if not node["displayName"].endswith(("-driver", "-driver(0)")):
                    node["finishedAt"] = node["startedAt"]
        if provider:
            patch = json.dumps({"metadata": {"store_session_info": provider}})
            nodes_by_id[-1]["inputs"] = {"parameters": [{"name": "pod-spec-patch", "value": json.dumps([patch])}]}
    return {node["id"]: node for node in nodes_by_id}


def pod(task: str, attempt: int = 0) -> str:
    """Name of the pod of a task's attempt."""
    name = f"{NAME}(0).root(0).exit-handler-1(0).{task}(0).executor({attempt})"
    return f"{NAME}-system-container-impl-{node_id(name).rpartition('-')[2]}"


def manifest(nodes_by_id: Json, is_compressed: bool = False) -> str:
    """The workflow as JSON."""
    packed = base64.b64encode(gzip.compress(json.dumps(nodes_by_id).encode())).decode()
    status = {"phase": "Running"} | ({"compressedNodes": packed} if is_compressed else {"nodes": nodes_by_id})
    return json.dumps({"metadata": {"name": NAME, "namespace": "kubeflow"}, "spec": {}, "status": status})


def details(nodes_by_id: Json) -> list[Json]:
    """Returns `/apis/v2beta1/runs/RUN`: nodes and, without names and states, executions of ML Metadata."""
    rows = []
    for node in nodes_by_id.values():
        row = {
            "run_id": "1", "task_id": node["id"], "display_name": node["displayName"],
            "create_time": START.format(0), "start_time": node["startedAt"],
            "end_time": node["finishedAt"] or NOT_ENDED,
            "state": node["phase"].upper(), "state_history": [],
            "child_tasks": [{"pod_name": child} for child in node["children"]],
        }  # fmt: skip
        if node["phase"] == "Omitted":
            del row["state"]
        rows.append(row)
        if node["type"] == "Pod" and ".executor(" in node["name"] and node["phase"] == "Succeeded":
            execution = {name: row[name] for name in ("run_id", "create_time", "start_time", "end_time")}
            rows.append(execution | {"task_id": f"{node['id']}-of-mlmd", "execution_id": str(len(rows))})
    return rows
