# SPDX-License-Identifier: Apache-2.0
"""The acceptance against a Kubeflow that keeps every promise, and against one for each that it breaks."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

import pytest

import runner_kfp
from components.errors import exit_code
from deploy import accept, cluster
from pipeline import run_record
from pipeline.kubeflow import runs
from tests.kubeflow import api_stub, workflows

ROOT = pathlib.Path(__file__).resolve().parents[2]
VERSION = json.loads(workflows.recorded("pipeline-versions.json.gz"))["pipeline_versions"][0]["pipeline_spec"]
PACKAGE = f"{json.dumps(VERSION['pipeline_spec'])}\n---\n{json.dumps(VERSION['platform_spec'])}\n"
IMAGE = "registry.example/mnist:1"
RECORDS = "minio://mlpipeline/v2/artifacts/mnist-tfx"
RUNNING = {"state": "RUNNING", "tasks": {"ingest": "Succeeded", "train": "Running"}}
DONE = dict.fromkeys(("ingest", "train", "push", "report"), "Succeeded")


class Kubeflow(api_stub.Api):
    """A server whose runs push, or do not, as their parameters say, with the API of Kubernetes beside it.

    Attributes:
        fault: the promise that it breaks, "" for none.
        deleted: run -> its pod that was; before 2.17 that is its end.
    """

    def __init__(self, fault=""):
        super().__init__()
        self.fault, self.deleted = fault, {}
        self.models, self.baselines = {}, {}
        self.fires = fault != "schedule"
        self.tag = "2.17.0"
        self.logs = {workflows.pod(task, number): f"log of {task}\n" for task in DONE for number in (0, 1)}
        if fault == "logs":
            self.logs[workflows.pod("push")] = "\n"

    def respond(self, method, path, query, headers, body):
        if match := re.fullmatch(r"/api/v1/namespaces/kubeflow/pods/(.+)", path):
            assert method == "DELETE"
            run = list(self.runs)[-1]
            self.deleted[run] = match[1]
            attempts = 1 if self.fault == "pod" else 2
            self.scripts[run] = [self.scripts[run][0], *(step | {"attempts": attempts} for step in self.scripts[run])]
            return {"kind": "Status", "status": "Success"}
        result = super().respond(method, path, query, headers, body)
        if path.endswith("/healthz"):
            result["tag_name"] = self.tag
        if self.fault == "upload" and path.endswith("/pipelines"):  # a server that drops descriptions
            result["pipelines"] = [row | {"description": ""} for row in result["pipelines"]]
        return result

    def _run(self, body):
        response = super()._run(body)
        folder = response["runtime_config"]["parameters"].get("serving_dir", "")
        self.baselines[response["run_id"]] = len(self.models.setdefault(folder, []))
        first = {"state": "RUNNING", "tasks": {"ingest": "Running"}}
        self.scripts[response["run_id"]] = [{}, first, RUNNING, RUNNING, RUNNING, {"state": "ENDS", "tasks": DONE}]
        return response

    def _get_run(self, key):
        row, script = self._existing(self.runs, key, "Run"), self.scripts[key]
        if script[-1]["state"] == "ENDS" and row["gets"] >= len(script) - 1:
            ended = self._end(key, row["runtime_config"]["parameters"])
            script[-1] = script[-1] | {"state": "FAILED" if ended["exit_code"] else "SUCCEEDED"}
            self.objects[f"{RECORDS}/{key}/record.json"] = json.dumps(ended).encode()
        return super()._get_run(key)

    def _end(self, key, parameters):
        """The record of a run that ends."""
        folder, baseline = parameters["serving_dir"], self.baselines[key]
        fields: dict[str, Any] = {"report": "minio://report.html", "metrics": {"accuracy": 0.98}}
        if baseline and self.fault != "judge":
            fields["baseline"] = {"version": baseline, "metrics": {"accuracy": 0.98}}
        passed = parameters["train_steps"] > 1
        fields["gates"] = [{"name": "accuracy", "measured": 0.98, "limit": 0.9, "passed": passed, "reason": ""}]
        if parameters["train_steps"] == 1 and self.fault != "gate":
            verdict = run_record.Verdict.NOT_BLESSED
        elif len(self.models[folder]) != baseline and self.fault != "two":
            verdict = run_record.Verdict.STOPPED
        elif (folder.startswith("/") and self.fault == "volume") or self.fault == "push" or self._is_lost(key):
            verdict = run_record.Verdict.FAILED
        else:
            verdict = run_record.Verdict.PUSHED
            self.models[folder].append(key)
            version = len(self.models[folder])
            location = "/elsewhere" if self.fault == "object store" and "://" in folder else folder
            fields["model"] = {"type": "cnn", "version": version, "path": f"{location}/{version}"}
        record = run_record.parse_record(json.dumps({"schema_version": 1, "run_id": key, **fields}))
        return record.end(verdict, "the limit").to_json()

    def _is_lost(self, key):
        return key in self.deleted and self.tag < "2.17" and self.fault != "pod"

    def _terminate(self, key):
        if self.fault != "terminate":
            super()._terminate(key)


def in_process(arguments, seconds, shown):
    """Runs the command line without starting Python, and does not compile, which takes long."""
    if arguments[0] == "compile":
        pathlib.Path(arguments[-1]).write_text(PACKAGE)
        return 0, ""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = runner_kfp.main(list(arguments))
    return code, (out.getvalue().strip().splitlines() or [""])[-1].removeprefix("error: ")


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Accepts a server; returns exit code, check -> (result, note), and what was printed."""
    for name in ("KFP_TOKEN", "KF_PIPELINES_ENDPOINT", "KUBERNETES_SERVICE_HOST", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(runs, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(cluster, "CHANGE_SECONDS", 2.0)
    monkeypatch.setattr(cluster, "command", in_process)

    def run(api, *options, with_kubernetes=True):
        with api_stub.serving(api) as host:
            kubeconfig = tmp_path / "kubeconfig"
            sections = {
                "clusters": [{"name": "c", "cluster": {"server": host}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            }
            kubeconfig.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "x"} | sections))
            options += ("--kubeconfig", str(kubeconfig)) if with_kubernetes else ()
            code = exit_code(lambda: accept.main(["--host", host, "--image", IMAGE, *options]))
        out, err = capsys.readouterr()
        table = out.partition("\ncheck ")[2].splitlines()[1:]
        cells = [re.fullmatch(r"(.+?) {2,}(passed|FAILED|not run) +(\d+) {2}(.*?) *", line) for line in table]
        return code, {cell[1]: (cell[2], cell[4]) for cell in cells if cell}, out + err

    return run


def only(monkeypatch, *checks):
    """Leaves out the checks that neither these nor the others need."""
    names = ("upload twice", "a run that pushes", *checks)
    monkeypatch.setattr(accept, "CHECKS", {name: work for name, work in accept.CHECKS.items() if name in names})


def test_every_promise_kept(run):
    api = Kubeflow()
    code, rows, out = run(api, "--pvc", "models=/models")
    assert {check: result for check, (result, _) in rows.items()} == dict.fromkeys(accept.CHECKS, "passed"), out
    assert code == 0
    [(name, key)] = [(row["display_name"], key) for key, row in api.pipelines.items()]
    assert re.fullmatch(r"accept-\d{8}t\d{6}z", name)
    assert [row["pipeline_id"] for row in api.versions.values()] == [key]
    assert [row["display_name"] for row in api.experiments.values()] == [name]
    assert all(row["display_name"].startswith(name) for row in api.runs.values())
    assert api.schedules == {}
    assert not api.orphans  # the schedule's run ended before it was deleted
    folders = {folder for folder, models in api.models.items() if models}
    base = f"s3://mlpipeline/serving/{name}"
    assert folders == {f"{base}/models", f"{base}/two", f"{base}/pod", f"/models/{name}/volume"}
    assert {row["runtime_config"]["parameters"].get("train_steps") for row in api.runs.values()} == {300, 1}
    # Of no run, the schedule's neither, a model could come among those in production.
    assert all(f"/{name}/" in row["runtime_config"]["parameters"]["serving_dir"] for row in api.runs.values())
    assert list(api.deleted.values()) == [workflows.pod("train")]
    assert "no baseline" in rows["a run that pushes"][1]
    assert "(version 1)" in rows["one judged against it"][1]
    assert rows["object store"][1] == rows["volume"][1] == "has version 1 of the model"


def test_what_was_not_run_says_what_it_needs(run):
    code, rows, _ = run(Kubeflow(), "--serving-dir", "/models", "--steps", "40", with_kubernetes=False)
    assert (code, rows["a pod deleted"], rows["volume"], rows["object store"]) == (
        0,
        ("not run", "needs KUBECONFIG"),
        ("not run", "needs PVC"),
        ("not run", "needs SERVING_DIR at an object store"),
    )
    assert [result for result, _ in rows.values()].count("passed") == len(rows) - 3


@pytest.mark.parametrize(
    ("fault", "check", "note"),
    [
        ("upload", "upload twice", "one package, uploaded twice, is 2 versions"),
        ("judge", "one judged against it", "not judged against version 1: PUSHED"),
        ("gate", "one that a gate stops", "not stopped with exit code 3, findings and report: 0, PUSHED"),
        ("two", "two at once, one pushes", "not one pushed and one refused: PUSHED"),
        ("pod", "a pod deleted", "1 pods of train: PUSHED"),
        ("logs", "logs of each task", "no log of push"),
        ("schedule", "schedule", "a run of the schedule: not within 2 s"),
        ("terminate", "terminate", "a terminated run ended as succeeded"),
        ("volume", "volume", "FAILED: the limit"),
        ("object store", "object store", "the model is not in s3://mlpipeline/serving but"),
    ],
)
def test_a_promise_broken(run, monkeypatch, fault, check, note):
    api = Kubeflow(fault)
    only(monkeypatch, check)
    code, rows, out = run(api, "--pvc", "models=/models")
    assert (code, rows.keys()) == (1, accept.CHECKS.keys()), out
    assert [name for name, (result, _) in rows.items() if result != "passed"] == [check], rows
    assert rows[check][1].startswith(note), rows
    assert api.schedules == {}


def test_nothing_pushed(run):
    """Tests that need the first run's model are not run, and not called a failure of its own."""
    code, rows, _ = run(Kubeflow("push"))
    assert code == 1
    assert rows["a run that pushes"] == ("FAILED", "FAILED: the limit")
    for check in ("one judged against it", "logs of each task", "object store"):
        assert rows[check] == ("not run", "needs the check push")


def test_record_that_is_out_of_reach(run, monkeypatch):
    """The API's address, behind which no artifacts are."""
    only(monkeypatch, "one that a gate stops")
    api = Kubeflow()
    api.has_user_interface = False
    code, rows, _ = run(api)
    assert (code, rows["one that a gate stops"][0]) == (1, "FAILED")
    assert "HOST must be the user interface" in rows["one that a gate stops"][1]


@pytest.mark.parametrize(
    ("fault", "code", "note"),
    [
        ("", 0, "2.16.1 starts no pod again: FAILED: the limit"),
        ("pod", 1, "a run whose pod was deleted did not fail: "),
    ],
)
def test_server_that_starts_no_pod_again(run, monkeypatch, fault, code, note):
    only(monkeypatch, "a pod deleted")
    api = Kubeflow(fault)
    api.tag = "2.16.1"
    got, rows, out = run(api)
    assert (got, rows["a pod deleted"][1].startswith(note)) == (code, True), out


def test_schedule_that_cannot_be_deleted(run, monkeypatch):
    only(monkeypatch, "schedule")
    api = Kubeflow()
    monkeypatch.setattr(api, "_delete_schedule", lambda key: None)
    code, rows, out = run(api)
    assert (code, rows["schedule"]) == (1, ("FAILED", "it was deleted and is still listed"))
    assert "accept-" in out


def test_interrupted_it_leaves_no_schedule_and_no_run(run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    def schedule(acceptance):
        acceptance._start("x")
        return accept.Acceptance.schedule(acceptance)

    only(monkeypatch, "schedule", "terminate")
    monkeypatch.setitem(accept.CHECKS, "schedule", schedule)
    monkeypatch.setattr(accept.Acceptance, "_poll", interrupt)
    api = Kubeflow()
    code, rows, _ = run(api)
    assert (code, rows["the rest"], "terminate" in rows) == (1, ("FAILED", "interrupted"), False)
    assert "POST /apis/v2beta1/recurringruns" in api.requests
    assert api.schedules == {}
    assert api.scripts[list(api.runs)[-1]][-1]["state"] == "FAILED"  # terminated


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("", "--host"),
        ("--host http://127.0.0.1:9", "--image"),
        ("--host http://127.0.0.1:9 --image mnist:1 --steps 0", "--steps must be 1 or more"),
        ("--host http://127.0.0.1:9 --image mnist:1 --kubeconfig /none", "--kubeconfig must be"),
        ("--host http://127.0.0.1:9 --image mnist:1", "connection refused"),
        ("--host HOST --image mnist:1 --pvc models", "--pvc takes CLAIM=PATH"),
    ],
)
def test_wrong_usage(options, reason):
    api = Kubeflow()
    with api_stub.serving(api) as host:
        completed = subprocess.run(
            [sys.executable, "-m", "deploy.accept", *options.replace("HOST", host).split()], cwd=ROOT,
            capture_output=True, text=True, check=False, timeout=120,
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
        )  # fmt: skip
    assert (completed.returncode, completed.stderr.startswith("error: "), completed.stderr.count("\n")) == (
        2,
        True,
        1,
    ), completed
    assert reason in completed.stderr
    assert not [request for request in api.requests if not request.startswith("GET ")]


def test_command_is_the_products_own_and_has_a_limit(capsys):
    api = Kubeflow()
    with api_stub.serving(api) as host:
        assert cluster.command(["list", "--host", host], 60, True) == (0, "No runs.")
        assert capsys.readouterr().out == "    No runs.\n"
        code, last = cluster.command(["status", "none", "--host", host], 60, False)
        assert (code, capsys.readouterr().out) == (2, "")
        assert "not found" in last
        api.hang = 60
        start = time.monotonic()
        with pytest.raises(cluster.AcceptanceFailure, match="`list` did not end within 3 s"):
            cluster.command(["list", "--host", host], 3, False)
        assert time.monotonic() - start < 8  # before the client's own limit


def test_make_passes_what_it_is_given_and_no_image_of_its_own():
    def response(*variables):
        names = ("HOST", "IMAGE", "NAMESPACE", "TOKEN_FILE", "PVC", "DATA_DIR", "SERVING_DIR", "KUBECONFIG", "STEPS")
        environment = {name: value for name, value in os.environ.items() if name not in (*names, "MAKEFLAGS")}
        completed = subprocess.run(
            ["make", "-n", "--no-print-directory", "-o", ".venv/run.stamp", "accept", *variables], cwd=ROOT,
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
        return completed.stdout.replace("\\\n", " ").partition("deploy.accept")[2].split()

    assert response("HOST=http://x") == ["--host", "'http://x'"]
    options_by_name = {
        "HOST": "http://x", "IMAGE": "a/b:1", "NAMESPACE": "ann", "TOKEN_FILE": "/t", "PVC": "c=/m", "DATA_DIR": "s3://d",
        "SERVING_DIR": "/m", "KUBECONFIG": "/k", "STEPS": "5",
    }  # fmt: skip
    options = response(*(f"{name}={value}" for name, value in options_by_name.items()))
    pairs = zip(options[::2], options[1::2], strict=True)
    assert {name[2:].replace("-", "_").upper(): value.strip("'") for name, value in pairs} == options_by_name
