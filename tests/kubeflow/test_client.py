# SPDX-License-Identifier: Apache-2.0
"""Upload, run, wait, schedule, status, logs, terminate and list against a server that refuses what Kubeflow refuses."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import yaml

import runner_kfp
from pipeline import run_record
from pipeline.kubeflow import client, commands, runs
from tests import certificates
from tests.kubeflow import api_stub, workflows

TOKEN = "secret-token-of-ann"
REPOSITORY = pathlib.Path(__file__).parents[2]
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
def own_machine(monkeypatch):
    """No variables that lead elsewhere, and no waiting."""
    monkeypatch.setattr(runs, "POLL_SECONDS", 0.02)
    for name in ("KFP_TOKEN", "KF_PIPELINES_ENDPOINT", "KUBERNETES_SERVICE_HOST", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


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


def row_of(verdict, **fields):
    return run_record.RunRecord(run_id="1", **fields).end(verdict, "the limit").to_json()


class Anywhere(dict[str, bytes]):
    """Storage that has a record for whatever run is asked for."""

    def __init__(self, location, row):
        super().__init__()
        self.pattern, self.content = re.compile(location), json.dumps(row).encode()

    def __contains__(self, uri):
        return self.pattern.fullmatch(uri) is not None

    def __getitem__(self, uri):
        return self.content


RECORD_URI = rf"{ROOT}/mnist-tfx/[0-9a-f-]{{36}}/record\.json"
STARTED: dict[str, Any] = {"state": "RUNNING", "tasks": {"ingest": "Running"}}


def test_upload_makes_a_pipeline_then_versions_of_it_and_no_version_twice(api, host, package, call):
    code, out, err = call("upload", package, "--host", host)
    assert (code, err) == (0, "")
    assert [row["display_name"] for row in api.pipelines.values()] == ["mnist-tfx"]
    assert out.startswith("Uploaded mnist-tfx of mnist-tfx: " + host)
    assert next(iter(api.versions.values()))["pipeline_spec"] == {"pipeline_spec": spec(), "platform_spec": PLATFORM}

    code, out, err = call("upload", package, "--host", host)
    assert (code, out, one_sentence(err), "already" in err) == (2, "", True, True)
    assert len(api.versions) == 1

    package.write_text(package.read_text() + "# another\n")
    code, out, err = call("upload", package, "--host", host, "--json")
    result = json.loads(out)
    assert (code, re.fullmatch(r"mnist-tfx-[0-9a-f]{12}", result["version"]) is not None) == (0, True)
    assert result["version_id"] in api.versions
    assert len(api.pipelines) == 1

    code, out, err = call("upload", package, "--host", host)
    assert (code, out, one_sentence(err)) == (2, "", True)
    assert "already" in err
    assert "--version" in err
    assert call("upload", package, "--host", host, "--version", "second")[0] == 0
    assert [row["display_name"] for row in api.versions.values()] == ["mnist-tfx", result["version"], "second"]


def test_upload_of_a_new_pipeline_with_a_version_of_ones_own(api, host, package, call):
    """The server names a new pipeline's first version itself."""
    code, out, _ = call("upload", package, "--host", host, "--version", "first")
    assert (code, out.startswith("Uploaded first of mnist-tfx: ")) == (0, True)
    assert [row["display_name"] for row in api.versions.values()] == ["mnist-tfx", "first"]
    assert call("upload", package, "--host", host, "--pipeline", "other", "--version", "other")[0] == 0
    assert [row["display_name"] for row in api.versions.values()] == ["mnist-tfx", "first", "other"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"schemaVersion": "2.0.0"}, "schema version 2.1.0", id="schema"),
        pytest.param({"root": None}, "root component is empty", id="root"),
        pytest.param({"pipelineInfo": {"name": "Mnist_1"}}, "lower case", id="name"),
        pytest.param({"pipelineInfo": {}}, "no pipeline package", id="nameless"),
    ],
)
def test_upload_that_is_refused(api, host, tmp_path, call, change, message):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in (spec() | change).items() if value is not None}))
    code, out, err = call("upload", path, "--host", host)
    assert (code, out, one_sentence(err), message in err) == (2, "", True, True), err
    assert not api.pipelines


def test_upload_of_no_package(host, tmp_path, call):
    for name, content in {
        "missing.yaml": None,
        "a.txt": "x",
        "nameless.yaml": "pipelineInfo: {}",
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


@pytest.mark.slow
def test_package_that_compile_wrote(api, host, tmp_path, call):
    """It is accepted with all its parameters' defaults, and with other values for them."""
    path = tmp_path / "pipeline.yaml"
    assert call("compile", "--image", "registry.example.com/mnist:1", "--output", path)[0] == 0
    assert call("upload", path, "--host", host)[0] == 0
    assert call("run", "--host", host)[0] == 0
    flags = ("--param", "model=mlp", "--param", "train_steps=7", "--param", "learning_rate=0.5")
    assert call("run", "--host", host, *flags)[0] == 0
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
def test_names_of_runs_have_the_time_in_utc(host, call, monkeypatch):
    monkeypatch.setenv("TZ", "EAST-14")
    time.tzset()
    try:
        start = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        name = json.loads(call("run", "--host", host, "--json")[1])["name"]
    finally:
        monkeypatch.undo()
        time.tzset()
    stamp = datetime.datetime.strptime(f"{name} +0000", "mnist-tfx %Y-%m-%d %H-%M-%S %z")
    assert start <= stamp <= datetime.datetime.now(datetime.UTC)


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
    ("arguments", "message"),
    [
        pytest.param(("--param", "modle=cnn"), "model", id="unknown parameter"),
        pytest.param(("--param", "model"), "NAME=VALUE", id="no value"),
        pytest.param(("--param", "model=cnn", "--param", "model=mlp"), "once", id="twice"),
        pytest.param(("--param", "train_steps=1.5"), "NUMBER_INTEGER", id="not an integer"),
        pytest.param(("--param", "dropout=nan"), "NUMBER_DOUBLE", id="not a number"),
        pytest.param(("--param", "fresh=maybe"), "BOOLEAN", id="not a truth value"),
        pytest.param(("--param", "allow={}"), "LIST", id="not a list"),
        pytest.param(("--pipeline-root", "/tmp/artifacts"), "gs://", id="root is a folder"),
        pytest.param(("--pipeline-root", "s3://"), "bucket", id="root without bucket"),
        pytest.param(("--pipeline-root", "s3://bucket/a[b]"), "patterns", id="root that is a pattern"),
        pytest.param(("--pipeline", "other"), "upload it first", id="unknown pipeline"),
    ],
)
def test_run_that_is_refused(api, host, call, arguments, message):
    code, out, err = call("run", "--host", host, *arguments)
    assert (code, out, one_sentence(err), message in err) == (2, "", True, True), err
    assert not api.runs


def test_run_that_lacks_a_parameter_or_has_a_task_that_the_server_refuses(api, host, tmp_path, call):
    path = tmp_path / "p.yaml"
    needy = spec()
    needy["root"]["inputDefinitions"]["parameters"]["data_dir"] = {"parameterType": "STRING"}
    path.write_text(yaml.safe_dump(needy))
    assert call("upload", path, "--host", host)[0] == 0
    code, _, err = call("run", "--host", host)
    assert (code, one_sentence(err), "parameter data_dir is not optional" in err) == (2, True, True)
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
        ("SUCCEEDED", run_record.Verdict.PUSHED, 0),
        ("FAILED", run_record.Verdict.STOPPED, 3),
        ("FAILED", run_record.Verdict.NOT_BLESSED, 3),
        ("SUCCEEDED", run_record.Verdict.NOT_BLESSED, 3),
        ("FAILED", run_record.Verdict.FAILED, 1),
        ("FAILED", run_record.Verdict.PUSHED, 1),
    ],
)
def test_run_waits_shows_the_tasks_and_exits_as_the_record_says(api, host, call, state, verdict, code):
    last = {"ingest": "cached", "train": state.capitalize(), "report": "Succeeded"}
    api.script = [STARTED, STARTED, {"state": state, "tasks": last}]
    api.objects = Anywhere(RECORD_URI, row_of(verdict))
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
    api.script = [STARTED, {"state": "SUCCEEDED", "tasks": dict.fromkeys(TASKS, "Succeeded")}]
    api.objects = Anywhere(RECORD_URI, row_of(run_record.Verdict.PUSHED))
    code, out, _ = call("run", "--host", host, "--wait")
    assert code == 0
    assert "\x1b[?25l" in out  # the cursor is hidden while the table changes
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out).replace("\r", "")
    assert [line.split()[:3] for line in drawn.splitlines() if line.strip()][-3:] == [
        ["✓", "train", "done"],
        ["✓", "report", "done"],
        ["PUSHED:"],
    ]


@pytest.mark.usefixtures("uploaded")
def test_record_of_a_waited_for_run_is_the_json(api, host, call, tmp_path):
    api.script = [{"state": "FAILED", "tasks": {"ingest": "Failed"}}]
    api.objects = Anywhere(RECORD_URI, row_of(run_record.Verdict.STOPPED))
    code, out, err = call("run", "--host", host, "--wait", "--json")
    assert (code, json.loads(out)) == (3, row_of(run_record.Verdict.STOPPED))
    assert "STOPPED: the limit" in err
    code, out, _ = call("run", "--host", host, "--wait", "--json", tmp_path / "r.json")
    assert (code, json.loads((tmp_path / "r.json").read_text())["verdict"]) == (3, "stopped")
    assert "STOPPED" in out


@pytest.mark.usefixtures("uploaded")
def test_nothing_is_started_whose_result_has_no_place(api, host, call, tmp_path):
    for location in (tmp_path, tmp_path / "none" / "r.json"):
        code, out, err = call("run", "--host", host, "--json", location)
        assert (code, out, one_sentence(err), "--json" in err) == (2, "", True, True)
    assert not api.runs


def test_record_of_a_pipeline_that_the_server_has_renamed(api, host, package, call):
    api.renames = True
    assert call("upload", package, "--host", host)[0] == 0
    for location in (RECORD_URI, RECORD_URI.replace("mnist-tfx", "pipeline/mnist-tfx")):
        api.objects = Anywhere(location, row_of(run_record.Verdict.STOPPED))
        assert call("run", "--host", host, "--wait")[0] == 3


@pytest.mark.usefixtures("uploaded")
@pytest.mark.parametrize(
    ("state", "tasks", "log", "code", "sentence"),
    [
        ("SUCCEEDED", {"report": "Succeeded"}, "PUSHED: accuracy 99 %\nI1127 launcher", 0, "PUSHED: accuracy 99 %"),
        ("FAILED", {"report": "Succeeded"}, "x\nSTOPPED: it has no digits\n", 3, "STOPPED: it has no digits"),
        ("FAILED", {"report": "Succeeded"}, "NOT BLESSED: worse\n", 3, "NOT BLESSED: worse"),
        ("FAILED", {"report": "Failed"}, "FAILED: no store\n", 1, "FAILED: no store"),
        ("SUCCEEDED", {"report": "Succeeded"}, None, 0, "SUCCEEDED: the record is out of reach"),
        ("FAILED", {"data-gate": "Failed", "report": "Succeeded"}, None, 3, "FAILED in data-gate: the record"),
        ("FAILED", {"train": "Failed", "report": "Succeeded"}, None, 1, "FAILED in train: the record"),
    ],
)
def test_verdict_where_the_record_is_out_of_reach(api, host, tmp_path, call, state, tasks, log, code, sentence):
    """A store of one's own, of which the user interface knows nothing: the verdict still decides the exit code."""
    package = spec("gated")
    package["components"]["comp-exit-handler-1"]["dag"]["tasks"]["data-gate"] = {"componentRef": {"name": "comp-train"}}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(package))
    assert call("upload", tmp_path / "p.yaml", "--host", host)[0] == 0
    api.script = [{"state": state, "tasks": tasks}]
    api.logs = {} if log is None else {workflows.pod("report"): log}
    contents: tuple[dict[str, bytes], ...] = ({}, Anywhere(RECORD_URI, {"verdict": "fine"}), Anywhere(RECORD_URI, []))
    for content in contents:
        api.objects = content
        got, out, err = call("run", "--host", host, "--wait", "--pipeline", "gated", "--json")
        row = json.loads(out)
        assert (got, row["exit_code"]) == (code, code), err
        assert row["sentence"].startswith(sentence)
        assert sentence in err


@pytest.mark.usefixtures("uploaded")
def test_verdict_where_the_store_does_not_answer(api, host, call, monkeypatch):
    """The user interface then says nothing for minutes."""
    monkeypatch.setattr(client, "SECONDS", 2.0)
    api.hang, api.hangs_at = 60, "/artifacts/get"
    api.script = [{"state": "FAILED", "tasks": {"train": "Failed", "report": "Succeeded"}}]
    api.logs = {workflows.pod("report"): "STOPPED: the data gate\n"}
    code, out, err = call("run", "--host", host, "--wait")
    assert (code, out.splitlines()[-1], err) == (3, "STOPPED: the data gate", "")


@pytest.mark.usefixtures("uploaded")
def test_record_in_a_store_that_the_user_interface_must_be_told_of(api, host, call):
    api.provider = json.dumps(
        {"Provider": "s3", "Params": {"fromEnv": "false", "secretName": "own"}}, separators=(",", ":")
    )
    api.script = [{"state": "FAILED", "tasks": {"ingest": "Succeeded", "train": "Failed", "report": "Succeeded"}}]
    api.objects = Anywhere(RECORD_URI.replace(ROOT, "s3://own/runs"), row_of(run_record.Verdict.STOPPED))
    code, out, _ = call("run", "--host", host, "--wait", "--json", "--pipeline-root", "s3://own/runs")
    assert (code, json.loads(out)) == (3, row_of(run_record.Verdict.STOPPED))


@pytest.mark.usefixtures("uploaded")
def test_waiting_outlives_a_server_that_fails_for_a_while(api, host, call, monkeypatch):
    api.script = [STARTED] * 4 + [{"state": "SUCCEEDED", "tasks": {"ingest": "Succeeded"}}]
    api.objects = Anywhere(RECORD_URI, row_of(run_record.Verdict.PUSHED))
    assert call("run", "--host", host)[0] == 0
    run_id = next(iter(api.runs))
    refresh = runs.Run.refresh

    def fail_after_the_second_response(run):
        refresh(run)
        api.failing = 1 if api.runs[run_id]["gets"] == 2 else 0

    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "refresh", fail_after_the_second_response)
        assert call("status", run_id, "--wait", "--host", host)[0] == 0
    assert api.runs[run_id]["gets"] == len(api.script)
    monkeypatch.setattr(runs, "PATIENCE_SECONDS", 0.1)
    api.script, api.runs[run_id]["gets"] = [STARTED], 0
    monkeypatch.setattr(api, "failing_from", 2)
    code, _, err = call("status", run_id, "--wait", "--host", host)
    assert (code, one_sentence(err), "503" in err) == (1, True, True)


@pytest.mark.usefixtures("uploaded")
def test_schedule(api, host, call):
    code, out, _ = call("schedule", "--cron", "0 3 * * *", "--name", "nightly", "--param", "model=mlp", "--host", host)
    result = next(iter(api.schedules.values()))
    assert (code, "0 0 3 * * *" in out) == (0, True)
    assert result["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert (result["max_concurrency"], result["no_catchup"], result["mode"]) == (1, True, "ENABLE")
    assert result["runtime_config"] == {"parameters": {"model": "mlp"}, "pipeline_root": ROOT}
    code, out, err = call("schedule", "--cron", "0 3 * * *", "--name", "nightly", "--host", host)
    assert (code, one_sentence(err), "--name" in err, len(api.schedules)) == (2, True, True, 1)
    assert call("schedule", "--cron", "30 0 3 * * 1-5", "--host", host)[0] == 0
    code, out, _ = call("list", "schedules", "--host", host)
    assert (code, len(out.splitlines()), "nightly  enabled  0 0 3 * * *" in out) == (0, 2, True)


@pytest.mark.usefixtures("uploaded")
@pytest.mark.parametrize("cron", ["0 3 * *", "daily", "a b c d e f", ""])
def test_schedule_that_is_refused(api, host, call, cron):
    code, out, err = call("schedule", "--cron", cron, "--host", host)
    assert (code, out, one_sentence(err), "cron" in err) == (2, "", True, True)
    assert not api.schedules


@pytest.mark.usefixtures("uploaded")
def test_status_and_logs(api, host, call):
    assert call("run", "--host", host)[0] == 0
    run_id = next(iter(api.runs))
    api.script = [{"state": "RUNNING", "tasks": {"ingest": "cached", "train": "Running"}}]
    api.logs = {workflows.pod("train"): "epoch 1\nepoch 2"}
    code, out, _ = call("status", run_id, "--host", host)
    assert code == 0
    rows = [line.split()[1:3] for line in out.splitlines()[:3]]
    assert rows == [["ingest", "cached"], ["train", "running"], ["report", "waiting"]]
    assert out.splitlines()[3] == "The run is running."
    response = json.loads(call("status", run_id, "--json", "--host", host)[1])
    assert [(task["name"], task["seconds"] is None) for task in response["tasks"]][2] == ("report", True)

    cached = "== ingest ==\n(it is cached, so no pod ran)\n"
    for api.has_user_interface in (True, False):
        code, out, _ = call("logs", run_id, "--host", host)
        assert (code, out) == (0, f"{cached}== train ==\nepoch 1\nepoch 2\n")
    assert call("logs", run_id, "--task", "train", "--host", host)[1] == "== train ==\nepoch 1\nepoch 2\n"
    code, out, _ = call("logs", run_id, "--host", host, "--json")
    assert (code, json.loads(out)) == (0, {"ingest": None, "train": "epoch 1\nepoch 2"})
    assert run_id in call("list", "--host", host)[1]
    assert "mnist-tfx" in call("list", "versions", "--host", host)[1]
    for bad in ("00000000-0000-0000-0000-000000000000", "../pipelines"):
        code, _, err = call("status", bad, "--host", host)
        assert (code, one_sentence(err)) == (2, True)


@pytest.mark.usefixtures("uploaded")
def test_logs_that_are_not_there(api, host, call):
    """One sentence each, and no success without a log."""
    assert call("run", "--host", host)[0] == 0
    run_id = next(iter(api.runs))
    api.script = [{"state": "RUNNING", "tasks": {"ingest": "cached", "train": "Running"}}]
    for task, code, reason in (
        ("ingest", 1, "it is cached, so no pod ran"),
        ("train", 1, "is gone without an archived log"),
        ("report", 1, "it is waiting, so no pod ran"),
        ("push", 2, "has no task push"),
    ):
        got, _, err = call("logs", run_id, "--task", task, "--host", host)
        assert (got, one_sentence(err), reason in err) == (code, True, True), err
    api.script = [{"state": "PENDING"}]
    code, out, err = call("logs", run_id, "--host", host)
    assert (code, out, one_sentence(err), "no task has started" in err) == (1, "", True, True)


@pytest.mark.usefixtures("uploaded")
def test_logs_of_a_task_that_was_tried_twice(api, host, call):
    assert call("run", "--host", host)[0] == 0
    api.attempts = 2
    api.script = [{"state": "SUCCEEDED", "tasks": {"train": "Succeeded"}}]
    api.logs = {workflows.pod("train", 0): "first\n", workflows.pod("train", 1): "second\n"}
    run_id = next(iter(api.runs))
    assert call("logs", run_id, "--task", "train", "--host", host)[1] == "== train ==\nsecond\n"
    assert [line.split()[2] for line in call("status", run_id, "--host", host)[1].splitlines()[:2]] == [
        "skipped",
        "done",
    ]


@pytest.mark.usefixtures("uploaded")
def test_last_tasks_of_a_run_beyond_argos_limit(api, host, call):
    """The server's list ends with the first task; the workflow, compressed, has them all."""
    api.is_beyond_limit = True
    tasks = {"ingest": "Succeeded", "train": "cached", "report": "Succeeded"}
    api.script = [STARTED, {"state": "SUCCEEDED", "tasks": tasks}]
    api.objects = Anywhere(RECORD_URI, row_of(run_record.Verdict.PUSHED))
    code, out, _ = call("run", "--host", host, "--wait")
    assert (code, [line.split()[1:3] for line in out.splitlines()[1:4]]) == (
        0, [["ingest", "done"], ["train", "cached"], ["report", "done"]],
    )  # fmt: skip


@pytest.mark.usefixtures("uploaded")
def test_terminate(api, host, call, monkeypatch):
    assert call("run", "--host", host)[0] == 0
    run_id = next(iter(api.runs))
    api.script = [STARTED]
    api.workflow_is_gone = True
    code, _, err = call("terminate", run_id, "--host", host)
    assert (code, one_sentence(err), "gone from the cluster" in err) == (2, True, True), err
    api.script = [{"state": "CANCELING"}]
    code, _, err = call("terminate", run_id, "--host", host)
    assert (code, one_sentence(err), "being terminated already" in err) == (2, True, True), err
    monkeypatch.setattr(commands, "CANCELING_SECONDS", 0.1)
    code, _, err = call("status", run_id, "--wait", "--host", host)
    assert (code, one_sentence(err), "does not end" in err) == (1, True, True), err

    api.script, api.workflow_is_gone = [STARTED], False
    code, _, err = call("terminate", run_id, "--host", host)
    assert (code, err) == (0, "")
    code, _, err = call("terminate", run_id, "--host", host)
    assert (code, one_sentence(err), "ended already, as terminated" in err) == (2, True, True)
    code, _, err = call("status", run_id, "--wait", "--host", host)
    assert (code, "was terminated\n" in err) == (1, True)


@pytest.mark.parametrize("source", ["variable", "file", "pod"])
def test_token(api, host, package, call, monkeypatch, tmp_path, source):
    api.token = TOKEN
    arguments = ("upload", package, "--host", host)
    code, _, err = call(*arguments)
    assert (code, one_sentence(err), "wants a token" in err) == (2, True, True)
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("another-token")
    for location, expected in ((wrong, 2), (file, 0)):
        if source == "variable":
            monkeypatch.setenv("KFP_TOKEN", location.read_text().strip())
            code, out, err = call(*arguments)
        elif source == "file":
            code, out, err = call(*arguments, "--token-file", location)
        else:
            monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(location))
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


def test_namespace_is_the_one_that_is_given(api, host, package, call):
    api.namespaces = {"team"}
    code, _, err = call("upload", package, "--host", host)
    assert (code, one_sentence(err), "--namespace" in err) == (2, True, True)
    code, _, err = call("upload", package, "--host", host, "--namespace", "of-another")
    assert (code, one_sentence(err), "403" in err) == (2, True, True)
    assert call("upload", package, "--host", host, "--namespace", "team")[0] == 0
    assert call("run", "--host", host, "--namespace", "team")[0] == 0
    assert {row["namespace"] for row in (*api.pipelines.values(), *api.experiments.values())} == {"team"}


def as_a_person(*arguments, **variables):
    """Calls the runner in a process of its own, as what libraries do when they are imported counts too."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables}
    command = [sys.executable, str(REPOSITORY / "runner_kfp.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


@pytest.mark.parametrize(
    "content", ['{"namespace": "of-another", "client_authentication_header_name": "X-Other"', "{}}"]
)
def test_home_folder_and_kfps_own_variables_are_left_alone(api, host, package, tmp_path, content):
    """A namespace, a cookie and a header are there for whatever server, and kfp's constructor reads them."""
    context = tmp_path / "home" / ".config" / "kfp" / "context.json"
    context.parent.mkdir(parents=True)
    settings = content + ', "client_authentication_header_value": "1", "client_authentication_cookie": "session=other"}'
    context.write_text(settings if content.startswith('{"') else content)
    before = context.read_bytes()
    variables = {"HOME": str(tmp_path / "home"), "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID": "other"}
    completed = as_a_person("upload", package, "--host", host, **variables)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert [row["namespace"] for row in api.pipelines.values()] == [""]
    assert not [headers for headers in api.headers if {"x-other", "cookie"} & headers]
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == [context]
    assert context.read_bytes() == before


@pytest.mark.parametrize(("reader", "rows"), [("head -1", 3000), ("true", 3000), ("true", 3)])
def test_output_is_quiet_where_the_reader_has_enough(api, host, reader, rows):
    """As with `list versions | head -1`: no traceback, neither while rows are written nor when Python ends."""
    api.pipelines["p"] = {"pipeline_id": "p", "display_name": "mnist-tfx", "created_at": api.now(), "namespace": ""}
    for number in range(rows):
        key = f"{number:05}"
        api.versions[key] = {
            "pipeline_id": "p", "pipeline_version_id": key, "display_name": "v" * 60, "created_at": api.now()
        }  # fmt: skip
    api.page_limit = rows
    command = f"{sys.executable} {REPOSITORY / 'runner_kfp.py'} list versions --host {host} | {reader}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    completed = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert (completed.stdout.count("\n"), completed.stderr) == (1 if reader == "head -1" else 0, "")


def test_server_that_sends_pages_or_to_a_login(api, host, call):
    api.page = True
    code, _, err = call("list", "--host", host)
    assert (code, one_sentence(err), "does not respond as Kubeflow" in err) == (2, True, True)
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


@contextlib.contextmanager
def listening(behave):
    """A plain socket server; `behave` has each of its connections."""
    server = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def accept():
        with contextlib.suppress(OSError):
            while not stopped.is_set():
                connection, _ = server.accept()
                threading.Thread(target=behave, args=(connection, stopped), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        stopped.set()
        server.close()


def silent(connection, stopped):
    connection.recv(10_000)
    stopped.wait(60)


def dripping_bytes(connection, stopped):
    """A header for ever, one byte at a time: no limit of a single read ends it."""
    connection.recv(10_000)
    with contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not stopped.wait(0.2):
            connection.sendall(b"x")


def closing(connection, stopped):
    connection.recv(10_000)
    connection.close()


def responding(status, content, kind="text/html", more=""):
    def behave(connection, stopped):
        connection.recv(10_000)
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n{more}"
        connection.sendall(f"{head}Connection: close\r\n\r\n{content}".encode())
        connection.close()

    return behave


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        pytest.param(silent, "nothing in 8 s", id="silent"),
        pytest.param(dripping_bytes, "nothing in 8 s", id="dripping"),
        pytest.param(closing, "does not respond", id="closing"),
        pytest.param(
            responding("200 OK", "<!doctype html><title>Log in"),
            "does not respond as Kubeflow Pipelines does",
            id="page",
        ),
        pytest.param(responding("302 Found", "", more="Location: /dex\r\n"), "wants a token (302)", id="redirect"),
        pytest.param(responding("401 Unauthorized", "<html>"), "wants a token (401)", id="unauthorized"),
        pytest.param(responding("200 OK", '{"status": "ok"}', "application/json"), "as Kubeflow", id="other JSON"),
        pytest.param(responding("200 OK", "[]", "application/json"), "as Kubeflow", id="list"),
        pytest.param(responding("502 Bad Gateway", "<html>no upstream"), "(502).", id="gateway"),
    ],
)
def test_server_that_is_none(behave, reason):
    """As a person sees it, all imports included."""
    with listening(behave) as host:
        completed = as_a_person("list", "--host", host)
    code = 1 if "502" in reason else 2
    assert (completed.returncode, completed.stdout, one_sentence(completed.stderr)) == (code, "", True), (
        completed.stderr
    )
    assert reason in completed.stderr
    assert host in completed.stderr


@pytest.mark.parametrize(
    "host",
    [
        "http://127.0.0.1:9",
        "http://no-such-host.invalid",
        "http://..",
        "http://[::1",
        "http://127.0.0.1:99999",
        "https://user:password@example.com",
        "ftp://x",
        "http://x y",
        "",
    ],
)
def test_host_that_is_none(call, host):
    code, out, err = call("list", "--host", host)
    assert (code, out, one_sentence(err), "password" in err) == (2, "", True, False), err


def test_no_host(call):
    code, _, err = call("list")
    assert (code, one_sentence(err), "--host" in err) == (2, True, True)


@pytest.mark.usefixtures("uploaded")
def test_server_that_falls_silent_after_the_first_answer(api, host, call, monkeypatch):
    monkeypatch.setattr(client, "SECONDS", 0.5)
    api.hang, api.hangs_at = 60, "/apis/v2beta1/runs"
    code, _, err = call("list", "--host", host)
    assert (code, one_sentence(err), "does not respond (nothing in" in err) == (2, True, True), err


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"HTTPS_PROXY": "garbage"}, "through the proxy of HTTPS_PROXY"),
        ({"https_proxy": "http://127.0.0.1:9"}, "through the proxy of https_proxy (connection refused)"),
        ({"HTTPS_PROXY": "http://"}, "HTTPS_PROXY in the environment can't be used (it is no"),
        (
            {"HTTPS_PROXY": "http://me:hunter2@x:port"},
            "HTTPS_PROXY in the environment can't be used (it is no address)",
        ),
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "ALL_PROXY in the environment can't be used (SOCKS proxies are not"),
        (
            {"SSL_CERT_FILE": "/nowhere.pem"},
            "SSL_CERT_FILE in the environment can't be used (no such file or directory)",
        ),
        ({"SSL_CERT_FILE": __file__}, "SSL_CERT_FILE in the environment can't be used (it holds no certificates)"),
    ],
    ids=str,
)
def test_proxy_or_certificates_that_are_broken_in_the_environment(call, monkeypatch, variables, reason):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, out, err = call("list", "--host", "https://kubeflow.invalid")
    assert (code, out, one_sentence(err), reason in err) == (2, "", True, True), err
    assert "hunter2" not in err


def test_proxy_is_not_for_this_machine(api, host, call, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    assert call("list", "--host", host)[0] == 0
    monkeypatch.setenv("NO_PROXY", "kubeflow.invalid")
    code, _, err = call("list", "--host", "https://kubeflow.invalid")
    assert (code, "proxy" in err) == (2, False)
