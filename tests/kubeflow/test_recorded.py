# SPDX-License-Identifier: Apache-2.0
"""The client against answers that a real server gave (recorded/README.md), and the emulation held against them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import runner_kfp
from components.errors import ProjectError
from pipeline.kubeflow import client, runs
from tests.kubeflow import api_stub, workflows

INDEX = json.loads(workflows.recorded("index.json"))
IDS = {row["file"]: row["request"].rpartition("/")[2] for row in INDEX if row["file"].startswith("run-")}
BEFORE_TRAIN = [
    "ingest",
    "baseline",
    "statistics",
    "schema",
    "anomalies",
    "image-check",
    "data-check",
    "data-gate",
    "transform",
]
NAMES = [*BEFORE_TRAIN, "train", "evaluate", "infra-check", "infra-gate", "model-gate", "push", "report"]
DONE = dict.fromkeys(NAMES, "done")
SKIPPED = dict.fromkeys(NAMES, "skipped")
WAITING = dict.fromkeys(NAMES, "waiting")


def recorded_api() -> api_stub.Api:
    """Every recorded response at its path; each run's version has the graph of those that were recorded."""
    api = api_stub.Api()
    for row in INDEX:
        method, _, target = row["request"].partition(" ")
        if method == "GET" and row["server"] == "api":
            api.recorded[target.partition("?")[0]] = (row["status"], workflows.recorded(row["file"]))
    listed = json.loads(workflows.recorded("pipeline-versions.json.gz"))["pipeline_versions"]
    for name in IDS:
        run = json.loads(workflows.recorded(name))
        keys = run["pipeline_version_reference"]
        path = f"/apis/v2beta1/pipelines/{keys['pipeline_id']}/versions/{keys['pipeline_version_id']}"
        api.recorded[path] = (200, json.dumps(listed[0]).encode())
    for name in ("v1beta1-run-pushed.json.gz", "v1beta1-run-stopped-by-gate.json.gz"):
        for node in parsed(name).nodes:
            if node.pod:
                api.logs[node.pod] = f"log of {node.path[-2]}\n"
    return api


@pytest.fixture(scope="module")
def host():
    with api_stub.serving(recorded_api()) as address:
        yield address


@pytest.fixture
def call(host, capfd):
    def call(*arguments):
        code = runner_kfp.main([*arguments, "--host", host])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def parsed(name: str) -> runs.Workflow:
    runtime = json.loads(workflows.recorded(name))["pipeline_runtime"]
    return runs.parse(json.loads(runtime["workflow_manifest"]))


@pytest.mark.parametrize(
    ("name", "state", "tasks", "sentence"),
    [
        ("run-pushed", "succeeded", DONE, "SUCCEEDED: the record is out of reach"),
        (  # of the last two, the list knows the end only, and no workflow of it was recorded
            "run-pushed-after-train-pod-was-deleted", "succeeded",
            DONE | {"schema": "cached"}, "SUCCEEDED: the record is out of reach",
        ),
        (
            "run-stopped-by-gate", "failed",
            DONE | {"schema": "cached", "model-gate": "failed", "push": "skipped"}, "FAILED in model-gate: the record",
        ),
        (  # the same, after a failure
            "run-stopped-baseline-moved", "failed",
            DONE | {"schema": "cached", "push": "unknown", "report": "unknown"}, "FAILED: the record",
        ),
        (
            "run-failed-first-task", "failed",
            SKIPPED | dict.fromkeys(("ingest", "baseline", "schema", "report"), "failed"),
            "FAILED in schema, baseline, ingest, report: the record",
        ),
        (
            "run-failed-out-of-memory", "failed",
            SKIPPED | {"ingest": "failed", "baseline": "done", "schema": "cached", "report": "done"},
            "FAILED in ingest: the record",
        ),
        (
            "run-terminated", "terminated",
            SKIPPED | {"ingest": "terminated", "baseline": "terminated", "schema": "cached", "report": "done"},
            "The run is terminated.",
        ),
        ("run-terminated-before-first-task", "terminated", SKIPPED, "The run is terminated."),
        ("run-running", "running", DONE | {"push": "waiting", "report": "waiting"}, "The run is running."),
        ("run-canceling-of-deleted-schedule", "canceling", WAITING, "The run is canceling."),
    ],
)  # fmt: skip
def test_status_tells_what_happened(call, name, state, tasks, sentence):
    code, out, err = call("status", IDS[f"{name}.json"], "--json")
    row = json.loads(out)
    assert (code, row["state"]) == (0, state)
    assert {task["name"]: task["state"] for task in row["tasks"]} == tasks
    assert err.splitlines()[-1].startswith(sentence), err
    assert not re.search("none|1970", err, re.IGNORECASE)
    for task in row["tasks"]:
        assert (task["seconds"] is None) == (
            task["state"] in ("skipped", "waiting", "unknown")
        ) or name == "run-pushed-after-train-pod-was-deleted", task
    names = [task["name"] for task in row["tasks"]]
    assert names.index("ingest") < names.index("train") < names.index("model-gate") < names.index("push")


def test_seconds_are_those_of_the_task(call):
    row = json.loads(call("status", IDS["run-pushed.json"], "--json")[1])
    assert {task["name"]: task["seconds"] for task in row["tasks"]}["train"] == 39.0


@pytest.mark.parametrize(("name", "cached"), [("pushed", set()), ("stopped-by-gate", {"schema", "push"})])
def test_logs_are_those_of_the_pods(call, name, cached):
    code, out, _ = call("logs", IDS[f"run-{name}.json"], "--json")
    logs = json.loads(out)
    assert code == 0
    assert {task: text for task, text in logs.items() if text} == {
        task: f"log of {task}\n" for task in NAMES if task not in cached
    }


def test_logs_of_failed_drivers_and_of_pods_that_are_gone():
    """Argo repeated ingest's driver, so those of statistics and image-check refused two executions of one name."""
    names = ("ingest", "baseline", "statistics", "image-check", "train", "report")
    spec = {"pipelineInfo": {"name": "mnist-tfx"}, "root": {"dag": {"tasks": {name: {} for name in names}}}}
    run_id = IDS["run-failed-out-of-memory.json"]
    run = json.loads(workflows.recorded("run-failed-out-of-memory.json"))
    workflow = json.loads(workflows.recorded("workflow-failed-drivers.json"))
    manifest = {"pipeline_runtime": {"workflow_manifest": json.dumps(workflow)}}
    api = recorded_api()
    api.recorded[f"/apis/v1beta1/runs/{run_id}"] = (200, json.dumps(manifest).encode())
    api.recorded[f"/apis/v2beta1/runs/{run_id}"] = (200, json.dumps(run | {"pipeline_spec": spec}).encode())
    driver = "mnist-tfx-sh9pm-system-container-driver-190977274"
    api.logs[driver] = "two tasks have the same task name\n"
    with api_stub.serving(api) as host:
        server = client.connect(host)
        result = runs.Run(server, run_id)
        tasks = {task.name: task for task in result.tasks}
        assert {name: task.state for name, task in tasks.items()} == dict.fromkeys(tasks, "skipped") | dict.fromkeys(
            ("ingest", "baseline", "report"), "done"
        ) | dict.fromkeys(("statistics", "image-check"), "failed")
        assert result.log(tasks["statistics"]) == "two tasks have the same task name\n"
        assert tasks["statistics"].pods == [driver]
        assert tasks["ingest"].pods == ["mnist-tfx-sh9pm-retry-system-container-impl-2235212314"]

        folder = "minio://mlpipeline/v2/artifacts/mnist-tfx/d2ac46e6-7391-4013-99c0-710c1c18af8c"
        api.objects = {
            f"{folder}/ingest/585a8148-0fcd-43f9-b970-1271a9f4929d/executor-logs-0": b"published by 2.17\n",
            f"{folder}/baseline/2ed2270e-6086-4be3-bc18-dfee1474d8f6/executor-logs": b"published before 2.17\n",
        }
        assert result.log(tasks["ingest"]) == "published by 2.17\n"
        assert result.log(tasks["baseline"]) == "published before 2.17\n"
        with pytest.raises(ProjectError, match="without an archived log"):
            result.log(tasks["report"])

        node = next(row for row in workflow["status"]["nodes"].values() if row["displayName"] == "ingest-driver(0)")
        node["phase"] = "Failed"  # an attempt that the next one made up for
        manifest["pipeline_runtime"]["workflow_manifest"] = json.dumps(workflow)
        api.recorded[f"/apis/v1beta1/runs/{run_id}"] = (200, json.dumps(manifest).encode())
        assert next(task for task in runs.Run(server, run_id).tasks if task.name == "ingest").state == "done"


def test_pods_have_the_names_that_argo_gave_them():
    """The workflow says where the log of each was archived, under the pod's name."""
    for name in ("v1beta1-run-pushed.json.gz", "v1beta1-run-stopped-by-gate.json.gz"):
        parsed_workflow = parsed(name)
        archived = set(re.findall(r"/([\w-]+)/main\.log", parsed_workflow.text))
        pods = {node.pod for node in parsed_workflow.nodes if node.pod}
        assert len(pods) >= 14
        assert pods <= archived


def test_workflow_of_a_server_before_2_17():
    """Its nodes have no attempts above and below them: `train` and `train.executor`, which is the pod."""
    response = json.loads(workflows.recorded("v1beta1-run-stopped-by-gate.json.gz"))
    manifest = json.loads(response["pipeline_runtime"]["workflow_manifest"])
    nodes = {}
    for key, node in manifest["status"]["nodes"].items():
        is_pod = ".executor(" in node["name"]
        if is_pod or not (
            node["name"].endswith(")") or (node["type"] == "Retry" and node["displayName"] == "executor")
        ):
            nodes[key] = node | {
                "name": node["name"].replace("(0)", ""),
                "displayName": node["name"].rpartition(".")[2],
            }
    manifest["status"]["nodes"] = nodes
    run_id = IDS["run-stopped-by-gate.json"]
    api = recorded_api()
    with api_stub.serving(api) as host:
        server = client.connect(host)
        wrapped = runs.Run(server, run_id)
        tasks = wrapped.tasks
        response["pipeline_runtime"]["workflow_manifest"] = json.dumps(manifest)
        api.recorded[f"/apis/v1beta1/runs/{run_id}"] = (200, json.dumps(response).encode())
        plain = runs.Run(server, run_id)
        assert 0 < len(plain.workflow.nodes) < len(wrapped.workflow.nodes)
        assert plain.tasks == tasks


def test_store_of_a_run_is_what_the_server_told_its_tasks():
    info = json.loads(parsed("v1beta1-run-stopped-by-gate.json.gz").provider("minio"))
    assert info["Params"]["secretName"] == "mlpipeline-minio-artifact"
    assert info["Params"]["endpoint"] == "seaweedfs.kubeflow:9000"
    assert parsed("v1beta1-run-stopped-by-gate.json.gz").provider("s3") == ""


def test_logs_where_there_are_none(call):
    for name, reason in (
        ("run-terminated-before-first-task.json", "no task has started"),
        ("run-failed-first-task.json", "the server has no workflow of this run"),
    ):
        code, _, err = call("logs", IDS[name])
        assert (code, err.count("\n"), reason in err) == (1, 1, True), err


def test_lists_and_refusals(call):
    code, out, _ = call("list")
    assert (code, [line.split("  ")[2] for line in out.splitlines()]) == (0, ["running", "failed", "running"])
    code, out, _ = call("list", "schedules")
    assert (code, out.split("  ")[-2:]) == (0, ["enabled", "0 0 3 * * *\n"])
    code, out, _ = call("list", "versions")
    assert (code, [line.split("  ")[1] for line in out.splitlines()]) == (0, ["mnist-tfx", "mnist-tfx-a24ed79f8a2a"])
    code, _, err = call("status", "00000000-0000-0000-0000-000000000000")
    assert (code, err.count("\n"), "not found" in err) == (2, 1, True)
    for name, state in (("run-pushed", "succeeded"), ("run-terminated", "terminated")):
        code, _, err = call("terminate", IDS[f"{name}.json"])
        assert (code, f"has ended already, as {state}" in err) == (2, True)
    code, _, err = call("terminate", IDS["run-canceling-of-deleted-schedule.json"])
    assert (code, "gone from the cluster" in err) == (2, True)


def test_waiting_for_a_run_that_has_ended(call):
    for name in ("run-terminated.json", "run-terminated-before-first-task.json"):
        code, _, err = call("status", IDS[name], "--wait")
        assert (code, "was terminated\n" in err) == (1, True), err
    for name, expected in (("run-stopped-by-gate", 3), ("run-pushed", 0), ("run-failed-out-of-memory", 1)):
        code, out, _ = call("status", IDS[f"{name}.json"], "--wait", "--json")
        assert (code, json.loads(out)["exit_code"]) == (expected, expected)


def fields(rows: list[dict[str, Any]]) -> set[str]:
    return {field for row in rows for field in row}


def test_emulation_answers_as_recorded():
    """Names of fields, wrappers, missing states and ids of nodes."""
    run = json.loads(workflows.recorded("run-stopped-by-gate.json"))
    real = run["run_details"]["task_details"]
    tasks = {"schema": "cached", "model-gate": "Failed", "infra-gate": "Succeeded", "push": "Omitted"}
    nodes_by_id = workflows.nodes(tasks)
    emulated = workflows.details(nodes_by_id)
    assert fields(emulated) == fields(real)
    assert "pod_name" not in fields(real)

    def of(rows: list[dict[str, Any]], task: str) -> dict[str, Any]:
        """State, and whether it took no time, of what has the name of a task, but for executors, which have none."""
        return {
            row["display_name"]: (row.get("state"), row["start_time"] == row["end_time"])
            for row in rows
            if re.fullmatch(rf"{task}(-driver)?(\(\d+\))?", row.get("display_name", ""))
        }

    for task in tasks:
        assert of(emulated, task) == of(real, task)
    assert {row["state"] for row in emulated if row.get("display_name") == "executor"} <= {
        row["state"] for row in real if row.get("display_name") == "executor"
    }
    assert fields([row for row in emulated if "display_name" not in row]) == fields(
        [row for row in real if "display_name" not in row]
    )

    runtime = json.loads(workflows.recorded("v1beta1-run-stopped-by-gate.json.gz"))["pipeline_runtime"]
    argo = json.loads(runtime["workflow_manifest"])
    nodes = argo["status"]["nodes"]
    assert {workflows.node_id(node["name"], argo["metadata"]["name"]) for node in nodes.values()} == set(nodes)
    assert fields(list(nodes_by_id.values())) <= fields(list(nodes.values()))
    for node in nodes_by_id.values():
        suffix = node["name"].removeprefix(workflows.NAME)
        twin = next(other for other in nodes.values() if other["name"].endswith(suffix))
        assert (node["type"], node["phase"]) == (twin["type"], twin["phase"])
        assert node["templateName"].endswith(twin["templateName"].removeprefix("retry-"))
    canceling = json.loads(workflows.recorded("run-canceling-of-deleted-schedule.json"))
    assert {"recurring_run_id", "state_history"} <= canceling.keys()
    assert canceling["finished_at"] == workflows.NOT_FINISHED
    ends = {row["end_time"] for row in canceling["run_details"]["task_details"] if row["state"] == "RUNNING"}
    assert ends == {workflows.NOT_ENDED}
    early = json.loads(workflows.recorded("run-terminated-before-first-task.json"))["state_history"]
    assert [change.get("state") for change in early][:2] == ["PENDING", None]
    compressed = json.loads(
        json.loads(workflows.recorded("v1beta1-run-pushed.json.gz"))["pipeline_runtime"]["workflow_manifest"]
    )
    assert "nodes" not in compressed["status"]
    assert (
        json.loads(workflows.manifest(nodes_by_id, is_compressed=True))["status"].keys() <= compressed["status"].keys()
    )
