# SPDX-License-Identifier: Apache-2.0
"""Upload, run, wait, schedule, status, logs, terminate and list against a server that refuses what Kubeflow refuses."""

from __future__ import annotations

import json
import pathlib
import re
import ssl
import subprocess
import sys
import time
from typing import Any

import pytest
import yaml

import runner_kfp
from pipeline import record
from pipeline.kubeflow import watch
from tests import certificates
from tests.kubeflow import api_stub

TOKEN = "secret-token-of-ann"
CONTAINER = {"image": "registry.example.com/mnist:1", "command": ["python"], "args": ["-m", "pipeline"]}
ROOT = "minio://mlpipeline/v2/artifacts"
TASKS = ("ingest", "train", "report")


def spec(name="mnist-tfx"):
    return {
        "schemaVersion": "2.1.0",
        "sdkVersion": "tfx-1.21.0",
        "pipelineInfo": {"name": name},
        "root": {
            "inputDefinitions": {
                "parameters": {
                    "model": {"parameterType": "STRING", "defaultValue": "cnn"},
                    "train_steps": {"parameterType": "NUMBER_INTEGER", "defaultValue": 100},
                    "dropout": {"parameterType": "NUMBER_DOUBLE", "defaultValue": 0.5},
                    "fresh": {"parameterType": "BOOLEAN", "defaultValue": False},
                    "allow": {"parameterType": "LIST", "defaultValue": []},
                }
            },
            "dag": {
                "tasks": {
                    "exit-handler-1": {"componentRef": {"name": "comp-exit-handler-1"}},
                    "report": {"componentRef": {"name": "comp-report"}, "dependentTasks": ["exit-handler-1"]},
                }
            },
        },
        "components": {
            "comp-exit-handler-1": {
                "dag": {
                    "tasks": {
                        "ingest": {"componentRef": {"name": "comp-ingest"}},
                        "train": {"componentRef": {"name": "comp-train"}, "dependentTasks": ["ingest"]},
                    }
                }
            },
            **{f"comp-{task}": {"executorLabel": f"exec-{task}"} for task in TASKS},
        },
        "deploymentSpec": {
            "executors": {f"exec-{task}": {"container": CONTAINER} for task in ("ingest", "train", "report")}
        },
    }


PLATFORM: dict[str, Any] = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {"exec-train": {}}}}}}


@pytest.fixture(autouse=True)
def own_machine(monkeypatch, tmp_path):
    """A home folder whose kfp context would send the client astray, and no credentials."""
    context = tmp_path / "home" / ".config" / "kfp" / "context.json"
    context.parent.mkdir(parents=True)
    context.write_text(json.dumps({"namespace": "of-another", "client_authentication_cookie": "session=other"}))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(context))
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.02)
    for name in ("KFP_TOKEN", "KUBECONFIG", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    return context


@pytest.fixture
def api():
    return api_stub.Api()


@pytest.fixture
def host(api):
    with api_stub.serving(api) as address:
        yield address


@pytest.fixture
def package(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump_all([spec(), PLATFORM]))
    return path


@pytest.fixture
def call(capfd):
    """Calls a command; returns its exit code and what it printed, stderr last."""

    def call(*arguments):
        code = runner_kfp.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def one_sentence(err):
    return re.fullmatch(r"error: [^\n]+\n", err) is not None


def details(**states):
    """What the server lists of a run: a workflow's nodes, drivers and groups included."""
    rows: list[dict[str, Any]] = [
        {"display_name": "root-driver", "pod_name": "mnist-x1-system-dag-driver-1", "state": "SUCCEEDED"}
    ]
    for number, (name, state) in enumerate(states.items(), start=1):
        executor = {"cached": "SKIPPED"}.get(state, state)
        start, end = f"2026-11-21T00:0{number}:00Z", f"2026-11-21T00:0{number}:30Z"
        rows += [
            {
                "display_name": f"{name}-driver",
                "pod_name": f"mnist-x1-system-container-driver-9{number}",
                "state": state,
            },
            {
                "display_name": name,
                "pod_name": f"mnist-x1-system-container-executor-5{number}",
                "state": "SUCCEEDED" if state == "cached" else state,
                "start_time": start,
                "end_time": end if state != "RUNNING" else None,
                "child_tasks": [{"pod_name": f"mnist-x1-7{number}"}],
            },
            {"display_name": "executor", "pod_name": f"mnist-x1-system-container-impl-7{number}", "state": executor},
        ]
    return {"run_details": {"task_details": rows}}


def row_of(verdict, **fields):
    row = record.new("1", verdict=verdict, exit_code=record.EXIT_CODES[verdict], reason="the limit", **fields)
    return row | {"sentence": record.sentence(row)}


class Anywhere(dict[str, bytes]):
    """Storage that has a record for whatever run is asked for."""

    def __init__(self, place, row):
        super().__init__()
        self.pattern, self.content = re.compile(place), json.dumps(row).encode()

    def __contains__(self, uri):
        return self.pattern.fullmatch(uri) is not None

    def __getitem__(self, uri):
        return self.content


PLACE = rf"{ROOT}/mnist-tfx/[0-9a-f-]{{36}}/record\.json"
STARTED = {"state": "RUNNING", **details(ingest="RUNNING")}


def test_upload_makes_a_pipeline_then_versions_of_it_and_no_version_twice(api, host, package, call):
    code, out, err = call("upload", package, "--host", host)
    assert (code, err) == (0, "")
    assert [row["display_name"] for row in api.pipelines.values()] == ["mnist-tfx"]
    assert out.startswith("Uploaded mnist-tfx of mnist-tfx: " + host)
    assert next(iter(api.versions.values()))["pipeline_spec"] == {"pipeline_spec": spec(), "platform_spec": PLATFORM}

    code, out, err = call("upload", package, "--host", host, "--json")
    made = json.loads(out)
    assert (code, re.fullmatch(r"mnist-tfx-[0-9a-f]{12}", made["version"]) is not None) == (0, True)
    assert made["version_id"] in api.versions
    assert len(api.pipelines) == 1

    code, out, err = call("upload", package, "--host", host)
    assert (code, out, one_sentence(err)) == (2, "", True)
    assert "already" in err
    assert "--version" in err
    assert call("upload", package, "--host", host, "--version", "second")[0] == 0
    assert [row["display_name"] for row in api.versions.values()] == ["mnist-tfx", made["version"], "second"]


def test_upload_of_a_new_pipeline_with_a_version_of_ones_own(api, host, package, call):
    """The server names a new pipeline's first version itself."""
    code, out, _ = call("upload", package, "--host", host, "--version", "first")
    assert (code, out.startswith("Uploaded first of mnist-tfx: ")) == (0, True)
    assert [row["display_name"] for row in api.versions.values()] == ["mnist-tfx", "first"]
    assert call("upload", package, "--host", host, "--pipeline", "other", "--version", "other")[0] == 0
    assert [row["display_name"] for row in api.versions.values()] == ["mnist-tfx", "first", "other"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"schemaVersion": "2.0.0"}, "schema version 2.1.0", id="schema"),
        pytest.param({"root": None}, "root component is empty", id="root"),
        pytest.param({"pipelineInfo": {"name": "Mnist_1"}}, "lower-case", id="name"),
        pytest.param({"pipelineInfo": {}}, "no pipeline package", id="nameless"),
    ],
)
def test_upload_that_is_refused(api, host, tmp_path, call, change, said):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in (spec() | change).items() if value is not None}))
    code, out, err = call("upload", path, "--host", host)
    assert (code, out, one_sentence(err), said in err) == (2, "", True, True), err
    assert not api.pipelines


def test_upload_of_no_package(host, tmp_path, call):
    for name, content in {
        "missing.yaml": None,
        "a.txt": "x",
        "list.yaml": "[1]",
        "torn.yaml": "{",
        "none.yaml": "",
    }.items():
        path = tmp_path / name
        if content is not None:
            path.write_text(content)
        code, _, err = call("upload", path, "--host", host)
        assert (code, one_sentence(err)) == (2, True), name


def test_upload_beside_a_pipeline_that_this_account_does_not_see(api, host, package, call):
    api.namespaces = {"team"}
    api.pipelines["1"] = {
        "pipeline_id": "1",
        "display_name": "mnist-tfx",
        "created_at": api.now(),
        "namespace": "others",
    }
    code, _, err = call("upload", package, "--host", host, "--namespace", "team")
    assert (code, one_sentence(err), "does not see" in err) == (2, True, True)


def test_package_that_compile_wrote(api, host, tmp_path, call):
    """It is accepted with all its parameters' defaults, and with other values for them."""
    path = tmp_path / "pipeline.yaml"
    assert call("compile", "--image", "registry.example.com/mnist:1", "--output", path)[0] == 0
    assert call("upload", path, "--host", host)[0] == 0
    assert call("run", "--host", host)[0] == 0
    told = ("--param", "model=mlp", "--param", "train_steps=7", "--param", "learning_rate=0.5")
    assert call("run", "--host", host, *told)[0] == 0
    plain, changed = (row["runtime_config"]["parameters"] for row in api.runs.values())
    assert (plain, changed) == ({}, {"model": "mlp", "train_steps": 7, "learning_rate": 0.5})


@pytest.fixture
def uploaded(host, package, call):
    assert call("upload", package, "--host", host)[0] == 0


@pytest.mark.usefixtures("uploaded")
def test_run_sends_typed_parameters_and_what_it_is_told(api, host, call):
    code, out, _ = call(
        "run", "--host", host, "--param", "model=mlp", "--param", "train_steps=7", "--param", "dropout=0.25",
        "--param", "fresh=true", "--param", 'allow=["few-images"]', "--pipeline-root", "s3://bucket/runs",
        "--experiment", "nightly", "--service-account", "trainer", "--json",
    )  # fmt: skip
    sent = next(iter(api.runs.values()))
    assert code == 0
    assert json.loads(out)["run_id"] == sent["run_id"]
    values = {"model": "mlp", "train_steps": 7, "dropout": 0.25, "fresh": True, "allow": ["few-images"]}
    assert sent["runtime_config"] == {"parameters": values, "pipeline_root": "s3://bucket/runs"}
    assert sent["service_account"] == "trainer"
    assert sent["pipeline_version_reference"]["pipeline_version_id"] in api.versions
    assert [row["display_name"] for row in api.experiments.values()] == ["nightly"]


@pytest.mark.usefixtures("uploaded")
def test_run_takes_the_newest_version_or_the_one_that_is_named(api, host, package, call):
    assert call("upload", package, "--host", host, "--version", "second")[0] == 0
    names = {row["pipeline_version_id"]: row["display_name"] for row in api.versions.values()}
    assert call("run", "--host", host)[0] == 0
    assert call("run", "--host", host, "--version", "mnist-tfx")[0] == 0
    ran = [names[row["pipeline_version_reference"]["pipeline_version_id"]] for row in api.runs.values()]
    assert ran == ["second", "mnist-tfx"]
    code, _, err = call("run", "--host", host, "--version", "third")
    assert (code, one_sentence(err), "no version third" in err) == (2, True, True)


@pytest.mark.usefixtures("uploaded")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(("--param", "modle=cnn"), "model", id="unknown parameter"),
        pytest.param(("--param", "model"), "NAME=VALUE", id="no value"),
        pytest.param(("--param", "model=cnn", "--param", "model=mlp"), "twice", id="twice"),
        pytest.param(("--param", "train_steps=1.5"), "a whole number", id="not an integer"),
        pytest.param(("--param", "dropout=nan"), "a number", id="not a number"),
        pytest.param(("--param", "fresh=maybe"), "true or false", id="not a truth value"),
        pytest.param(("--param", "allow={}"), "list", id="not a list"),
        pytest.param(("--pipeline-root", "/tmp/artifacts"), "gs://", id="root is a folder"),
        pytest.param(("--pipeline-root", "s3://"), "bucket", id="root without bucket"),
        pytest.param(("--pipeline-root", "s3://bucket/a[b]"), "patterns", id="root that is a pattern"),
        pytest.param(("--pipeline", "other"), "upload it first", id="unknown pipeline"),
    ],
)
def test_run_that_is_refused(api, host, call, arguments, said):
    code, out, err = call("run", "--host", host, *arguments)
    assert (code, out, one_sentence(err), said in err) == (2, "", True, True), err
    assert not api.runs


def test_run_that_lacks_a_parameter_or_has_a_task_that_the_server_refuses(api, host, tmp_path, call):
    path = tmp_path / "p.yaml"
    needy = spec()
    needy["root"]["inputDefinitions"]["parameters"]["data_dir"] = {"parameterType": "STRING"}
    path.write_text(yaml.safe_dump(needy))
    assert call("upload", path, "--host", host)[0] == 0
    code, _, err = call("run", "--host", host)
    assert (code, one_sentence(err), "--param data_dir=VALUE" in err) == (2, True, True)
    assert call("run", "--host", host, "--param", "data_dir=s3://b/d")[0] == 0

    odd = spec("odd")
    odd["root"]["dag"]["tasks"]["my_task"] = odd["root"]["dag"]["tasks"].pop("report")
    path.write_text(yaml.safe_dump(odd))
    assert call("upload", path, "--host", host)[0] == 0  # as the server does, it is refused later
    code, _, err = call("run", "--host", host, "--pipeline", "odd")
    assert (code, one_sentence(err), "my_task" in err) == (2, True, True)


@pytest.mark.usefixtures("uploaded")
@pytest.mark.parametrize(
    ("state", "verdict", "code"),
    [
        ("SUCCEEDED", record.PUSHED, 0),
        ("FAILED", record.STOPPED, 3),
        ("FAILED", record.NOT_BLESSED, 3),
        ("SUCCEEDED", record.NOT_BLESSED, 3),
        ("FAILED", record.FAILED, 1),
        ("FAILED", record.PUSHED, 1),
    ],
)
def test_run_waits_shows_the_tasks_and_exits_as_the_record_says(api, host, call, state, verdict, code):
    last = details(ingest="cached", train="SUCCEEDED" if state == "SUCCEEDED" else "FAILED", report="SUCCEEDED")
    api.script = [STARTED, STARTED, {"state": state, **last}]
    api.objects = Anywhere(PLACE, row_of(verdict))
    got, out, _ = call("run", "--host", host, "--wait")
    assert got == code
    lines = out.splitlines()
    assert [line.split()[1] for line in lines[1:4]] == list(TASKS)
    assert [line.split()[2] for line in lines[1:4]] == ["cached", "done" if state == "SUCCEEDED" else "failed", "done"]
    assert "30.0 s" in lines[2]
    assert lines[4] == row_of(verdict)["sentence"]


@pytest.mark.usefixtures("uploaded")
def test_table_on_a_terminal(api, host, call, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which the terminal's library takes any stream for one
    api.script = [STARTED, {"state": "SUCCEEDED", **details(ingest="SUCCEEDED", train="SUCCEEDED")}]
    api.objects = Anywhere(PLACE, row_of(record.PUSHED))
    code, out, _ = call("run", "--host", host, "--wait")
    assert code == 0
    assert "\x1b[?25l" in out  # the cursor is hidden while the table changes
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out).replace("\r", "")
    assert [line.split()[:3] for line in drawn.splitlines() if line.strip()][-3:] == [
        ["✓", "ingest", "done"],
        ["✓", "train", "done"],
        ["PUSHED:"],
    ]


@pytest.mark.usefixtures("uploaded")
def test_record_of_a_waited_for_run_is_the_json(api, host, call, tmp_path):
    api.script = [{"state": "FAILED", **details(ingest="FAILED")}]
    api.objects = Anywhere(PLACE, row_of(record.STOPPED))
    code, out, err = call("run", "--host", host, "--wait", "--json")
    assert (code, json.loads(out)) == (3, row_of(record.STOPPED))
    assert "STOPPED: the limit" in err
    code, out, _ = call("run", "--host", host, "--wait", "--json", tmp_path / "r.json")
    assert (code, json.loads((tmp_path / "r.json").read_text())["verdict"]) == (3, "stopped")
    assert "STOPPED" in out


@pytest.mark.usefixtures("uploaded")
def test_nothing_is_started_whose_result_has_no_place(api, host, call, tmp_path):
    for place in (tmp_path, tmp_path / "none" / "r.json"):
        code, out, err = call("run", "--host", host, "--json", place)
        assert (code, out, one_sentence(err), "--json" in err) == (2, "", True, True)
    assert not api.runs


def test_record_of_a_pipeline_that_the_server_has_renamed(api, host, package, call):
    api.renames = True
    assert call("upload", package, "--host", host)[0] == 0
    for place in (PLACE, PLACE.replace("mnist-tfx", "pipeline/mnist-tfx")):
        api.objects = Anywhere(place, row_of(record.STOPPED))
        assert call("run", "--host", host, "--wait")[0] == 3


@pytest.mark.usefixtures("uploaded")
def test_record_that_is_nowhere_or_none(api, host, call):
    contents: tuple[Any, ...] = (None, {"verdict": "fine"}, [])
    for content in contents:
        api.objects = Anywhere(PLACE, content) if content is not None else {}
        code, _, err = call("run", "--host", host, "--wait")
        assert (code, one_sentence(err), "without a record at minio://" in err) == (1, True, True)


@pytest.mark.usefixtures("uploaded")
def test_record_on_s3_where_there_is_no_user_interface(api, host, call, monkeypatch):
    """An S3 server on loopback, as beside the API in the cluster."""
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    storage = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    storage.start()
    try:
        address = "http://{}:{}".format(*storage.get_host_and_port())
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": address,
        }.items():
            monkeypatch.setenv(name, value)
        api.has_user_interface = False
        assert call("run", "--host", host)[0] == 0
        run_id = next(iter(api.runs))
        client = boto3.client("s3")
        client.create_bucket(Bucket="mlpipeline")
        code, _, err = call("status", run_id, "--wait", "--host", host)
        assert (code, one_sentence(err)) == (1, True)
        key = f"v2/artifacts/mnist-tfx/{run_id}/record.json"
        client.put_object(Bucket="mlpipeline", Key=key, Body=json.dumps(row_of(record.STOPPED)).encode())
        assert call("status", run_id, "--wait", "--host", host)[0] == 3
        # minio:// says nothing of where the server is: without an endpoint Amazon would be asked.
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        monkeypatch.setattr("components.storage.connect", lambda url: pytest.fail(f"{url} was asked for"))
        code, _, err = call("status", run_id, "--wait", "--host", host)
        assert (code, one_sentence(err)) == (1, True)
    finally:
        storage.stop()


@pytest.mark.usefixtures("uploaded")
def test_waiting_outlives_a_server_that_fails_for_a_while_and_ends_with_a_terminated_run(api, host, call, monkeypatch):
    api.script = [STARTED] * 4 + [{"state": "SUCCEEDED", **details(ingest="SUCCEEDED")}]
    api.objects = Anywhere(PLACE, row_of(record.PUSHED))
    assert call("run", "--host", host)[0] == 0
    run_id = next(iter(api.runs))
    get = watch.get

    def failing_once_begun(server, run):
        found = get(server, run)
        api.failing = 1 if api.runs[run]["gets"] == 2 else 0
        return found

    monkeypatch.setattr(watch, "get", failing_once_begun)
    assert call("status", run_id, "--wait", "--host", host)[0] == 0
    api.script = [{"state": "CANCELED"}]
    code, _, err = call("status", run_id, "--wait", "--host", host)
    assert (code, one_sentence(err), "terminated" in err) == (1, True, True)
    monkeypatch.setattr(watch, "PATIENCE", 0.1)
    api.script, api.runs[run_id]["gets"] = [STARTED], 0
    monkeypatch.setattr(watch, "get", get)
    monkeypatch.setattr(api, "failing_from", 2)
    code, _, err = call("status", run_id, "--wait", "--host", host)
    assert (code, one_sentence(err), "503" in err) == (1, True, True)


@pytest.mark.usefixtures("uploaded")
def test_schedule(api, host, call):
    code, out, _ = call("schedule", "--cron", "0 3 * * *", "--name", "nightly", "--param", "model=mlp", "--host", host)
    made = next(iter(api.schedules.values()))
    assert (code, "0 0 3 * * *" in out) == (0, True)
    assert made["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == (1, True, "ENABLE")
    assert made["runtime_config"] == {"parameters": {"model": "mlp"}, "pipeline_root": ROOT}
    code, out, err = call("schedule", "--cron", "0 3 * * *", "--name", "nightly", "--host", host)
    assert (code, one_sentence(err), "--name" in err) == (2, True, True)
    assert call("schedule", "--cron", "30 0 3 * * 1-5", "--host", host)[0] == 0
    code, out, _ = call("list", "schedules", "--host", host)
    assert (code, len(out.splitlines()), "nightly  ENABLED  0 0 3 * * *" in out) == (0, 2, True)


@pytest.mark.usefixtures("uploaded")
@pytest.mark.parametrize("cron", ["0 3 * *", "daily", "a b c d e f", ""])
def test_schedule_that_is_refused(api, host, call, cron):
    code, out, err = call("schedule", "--cron", cron, "--host", host)
    assert (code, out, one_sentence(err), "cron" in err) == (2, "", True, True)
    assert not api.schedules


@pytest.mark.usefixtures("uploaded")
def test_status_logs_terminate_and_list(api, host, call):
    assert call("run", "--host", host)[0] == 0
    run_id = next(iter(api.runs))
    api.script = [{"state": "RUNNING", **details(ingest="cached", train="RUNNING")}]
    api.logs = {"mnist-x1-system-container-impl-72": "epoch 1\nepoch 2"}
    code, out, _ = call("status", run_id, "--host", host)
    assert code == 0
    assert [line.split()[1:3] for line in out.splitlines()[:2]] == [["ingest", "cached"], ["train", "running"]]
    assert out.splitlines()[2] == "The run is running."
    assert json.loads(call("status", run_id, "--json", "--host", host)[1])["tasks"][0]["name"] == "ingest"

    for api.has_user_interface in (True, False):
        code, out, _ = call("logs", run_id, "--host", host)
        assert (code, out) == (0, "== ingest ==\n== train ==\nepoch 1\nepoch 2\n")
    assert call("logs", run_id, "--task", "train", "--host", host)[1] == "== train ==\nepoch 1\nepoch 2\n"
    code, _, err = call("logs", run_id, "--task", "push", "--host", host)
    assert (code, one_sentence(err)) == (2, True)
    api.logs = {}
    code, _, err = call("logs", run_id, "--task", "train", "--host", host)
    assert (code, one_sentence(err), "pod not found" in err) == (2, True, True)

    assert run_id in call("list", "--host", host)[1]
    assert "mnist-tfx" in call("list", "versions", "--host", host)[1]
    code, out, _ = call("terminate", run_id, "--host", host)
    assert (code, api.runs[run_id]["state"]) == (0, "CANCELED")
    code, _, err = call("terminate", run_id, "--host", host)
    assert (code, one_sentence(err), "ended already" in err) == (2, True, True)
    for bad in ("00000000-0000-0000-0000-000000000000", "../pipelines"):
        code, _, err = call("status", bad, "--host", host)
        assert (code, one_sentence(err)) == (2, True)


def test_logs_of_a_task_that_was_tried_twice(api, host, call, package):
    assert call("upload", package, "--host", host)[0] == 0
    assert call("run", "--host", host)[0] == 0
    tried = details(train="SUCCEEDED")
    rows = tried["run_details"]["task_details"]
    retry = rows[-1] | {"child_tasks": [{"pod_name": "mnist-x1-81"}, {"pod_name": "mnist-x1-82"}]}
    attempts = [
        {"display_name": f"executor({n})", "pod_name": f"mnist-x1-system-container-impl-8{n + 1}", "state": state}
        for n, state in enumerate(("FAILED", "SUCCEEDED"))
    ]
    tried["run_details"]["task_details"] = [*rows[:-1], retry, *attempts]
    api.script = [{"state": "SUCCEEDED", **tried}]
    api.logs = {"mnist-x1-system-container-impl-81": "first\n", "mnist-x1-system-container-impl-82": "second\n"}
    assert call("logs", next(iter(api.runs)), "--host", host)[1] == "== train ==\nsecond\n"


@pytest.mark.parametrize("way", ["variable", "file", "pod"])
def test_token(api, host, package, call, monkeypatch, tmp_path, way):
    api.token = TOKEN
    arguments = ("upload", package, "--host", host)
    code, _, err = call(*arguments)
    assert (code, one_sentence(err), "wants a token" in err) == (2, True, True)
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("another-token")
    for place, expected in ((wrong, 2), (file, 0)):
        if way == "variable":
            monkeypatch.setenv("KFP_TOKEN", place.read_text().strip())
            code, out, err = call(*arguments)
        elif way == "file":
            code, out, err = call(*arguments, "--token-file", place)
        else:
            monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(place))
            code, out, err = call(*arguments)
        assert code == expected, err
        assert "another-token" not in out + err
        assert TOKEN not in out + err
        assert expected == 0 or (one_sentence(err) and "refuses the token" in err)
    api.namespaces = {"team"}
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
    code, out, err = call("list", "--host", host)
    assert (code, one_sentence(err), "403" in err, TOKEN in out + err) == (2, True, True, False)


@pytest.mark.parametrize("content", [None, "", "two words", "line\nbreak", b"\xff\xfe"], ids=repr)
def test_file_without_a_token(host, call, tmp_path, content):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, err = call("list", "--host", host, "--token-file", file)
    assert (code, one_sentence(err), "words" in err) == (2, True, False)


def test_token_is_in_no_argument(call):
    """Every user of a machine sees the arguments of its processes."""
    assert call("list", "--token", TOKEN)[0] == 2


def test_kubectl_leads_to_the_server_with_its_credentials(api, host, package, call, monkeypatch, tmp_path):
    api.token = TOKEN
    file = tmp_path / "kubeconfig"
    file.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": {"server": host}}],
                "users": [{"name": "u", "user": {"token": TOKEN}}],
            }
        )
    )
    code, _, err = call("upload", package)
    assert (code, one_sentence(err), "--host" in err) == (2, True, True)
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    code, _, err = call("upload", package)
    assert (code, err) == (0, "")
    assert all("/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy/" in asked for asked in api.requests)


def test_namespace_is_the_one_that_is_told_and_the_home_folder_is_left_alone(api, host, package, call, own_machine):
    api.namespaces = {"team"}
    before = own_machine.read_bytes()
    code, _, err = call("upload", package, "--host", host)
    assert (code, one_sentence(err), "--namespace" in err) == (2, True, True)
    code, _, err = call("upload", package, "--host", host, "--namespace", "of-another")
    assert (code, one_sentence(err), "403" in err) == (2, True, True)
    assert call("upload", package, "--host", host, "--namespace", "team")[0] == 0
    assert call("run", "--host", host, "--namespace", "team")[0] == 0
    assert {row["namespace"] for row in (*api.pipelines.values(), *api.experiments.values())} == {"team"}
    assert own_machine.read_bytes() == before


def test_server_that_sends_pages_or_to_a_login(api, host, call):
    api.page = True
    code, _, err = call("list", "--host", host)
    assert (code, one_sentence(err), "does not answer as Kubeflow" in err) == (2, True, True)
    api.page, api.redirect = False, True
    code, _, err = call("list", "--host", host)
    assert (code, one_sentence(err), "token" in err) == (2, True, True)


def test_server_with_a_certificate_of_ones_own_authority(api, call, monkeypatch, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = certificates.write(tmp_path / "certificate.pem")
    context.load_cert_chain(certificate)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with api_stub.serving(api, context) as host:
        code, _, err = call("list", "--host", host)
        assert (code, one_sentence(err), "certificate in SSL_CERT_FILE" in err) == (2, True, True), err
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert call("list", "--host", host)[0] == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
        code, _, err = call("list", "--host", host)
        fault = "SSL_CERT_FILE in the environment can't be used (no such file or directory)"
        assert (code, one_sentence(err), fault in err) == (2, True, True), err


def test_server_without_https(host, call):
    """An address without a scheme is taken for one of https."""
    code, _, err = call("list", "--host", host.removeprefix("http://"))
    assert (code, one_sentence(err), "--host with http://" in err) == (2, True, True), err


@pytest.mark.parametrize(
    "host",
    [
        "http://127.0.0.1:9",
        "http://no-such-host.invalid",
        "https://user:password@example.com",
        "ftp://x",
        "http://x y",
        "",
    ],
)
def test_host_that_is_none(call, host):
    started = time.monotonic()
    code, out, err = call("list", "--host", host)
    assert (code, out, one_sentence(err), "password" in err) == (2, "", True, False), err
    assert time.monotonic() - started < 12


@pytest.mark.usefixtures("uploaded")
def test_host_that_hangs_later(api, host, call, monkeypatch):
    monkeypatch.setattr("pipeline.kubeflow.server.READ_SECONDS", 0.3)
    api.hang, api.hangs_at = 60, "/apis/v2beta1/runs"
    for command in ("run", "list"):
        started = time.monotonic()
        code, _, err = call(command, "--host", host)
        assert (code, one_sentence(err), "does not answer" in err) == (2, True, True)
        assert time.monotonic() - started < 5


def test_host_that_hangs_from_the_start_of_the_process(api, host):
    """As a person sees it, all imports included."""
    api.hang = 60
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "runner_kfp.py", "list", "--host", host],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert time.monotonic() - started < 15
    assert (done.returncode, done.stdout, one_sentence(done.stderr)) == (2, "", True), done.stderr
    assert f"{host} does not answer" in done.stderr
