# SPDX-License-Identifier: Apache-2.0
"""`runner_kfp.py doctor`: each line found, wrong and not known, from outside, by a kubeconfig and by a task."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
from typing import Any

import pytest
import yaml

import runner_kfp
from pipeline import cgroup, code_digest
from pipeline.kubeflow import client, launcher_adapter, probe, probe_run, runs
from pipeline.kubeflow.training_job import cluster
from tests import object_stores
from tests.kubeflow import api_stub, cluster_stub, launcher, workflows

TOKEN = "secret-token-of-ann"
IMAGE = "registry.example/mnist:1"
NAMES = [
    "server", "token", "namespace", "cluster", "store", "secret", "launcher", "push", "image", "nodes", "GPUs",
    "volume", "account", "pod",
]  # fmt: skip
GOOD, BAD, ODD, OPEN = "ok", "blocked", "warning", "unknown"
# A container's process. The launcher's folders are at the root of a container's file system.
IN_CONTAINER = """
import pathlib, runpy, sys
from pipeline.kubeflow import launcher_adapter
launcher_adapter.ROOT = pathlib.Path(sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


class Api(api_stub.Api):
    """A server whose cluster runs the task of each run as a process.

    Attributes:
        scratch: for the containers' file systems; None: it runs nothing.
        message: of the pod, while it waits.
        uploads: whether the launcher can write the outputs.
    """

    def __init__(self):
        super().__init__()
        self.scratch: pathlib.Path | None = None
        self.message, self.uploads = "", True
        self.sent: list[dict[str, Any]] = []
        self.threads: list[threading.Thread] = []

    def _run(self, body):
        self.sent.append(body)
        if self.scratch is not None:
            self.script = [{"state": "RUNNING", "tasks": {"probe": "Running"}}]
            self.threads.append(threading.Thread(target=self._execute, args=(body,)))
            self.threads[-1].start()
        return super()._run(body)

    def _nodes(self, step):
        stub = super()._nodes(step)
        for node in stub.values():
            if node["displayName"].startswith("executor") and node["phase"] in ("Pending", "Failed"):
                node["message"] = self.message
        return stub

    def _execute(self, body):
        assert self.scratch is not None
        package = body["pipeline_spec"]
        spec = package.get("pipeline_spec", package)
        container = spec["deploymentSpec"]["executors"]["exec-probe"]["container"]
        environment = {name: value for name, value in os.environ.items() if name != "AWS_ENDPOINT_URL"}
        environment |= {item["name"]: item["value"] for item in container.get("env", ())}
        environment |= {"KFP_POD_NAME": "pod", "PYTHONPATH": str(launcher.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}

        def start(command, folder, log):
            assert command[:2] == ["python", "-m"]
            with log.open("wb") as stream:
                work = [sys.executable, "-c", IN_CONTAINER, str(folder), *command[2:]]
                return subprocess.run(work, stdout=stream, stderr=stream, env=environment, cwd=folder).returncode

        cluster_of_tasks = launcher.Cluster(
            body["runtime_config"]["pipeline_root"], self.scratch, start, spec["pipelineInfo"]["name"]
        )
        cluster_of_tasks.new_run()
        outputs = spec["components"]["comp-probe"]["outputDefinitions"]["artifacts"]
        flags = {
            "outputs": {
                "artifacts": {key: {"artifacts": [{"type": item["artifactType"]}]} for key, item in outputs.items()}
            }
        }
        with contextlib.ExitStack() as stack:
            if not self.uploads:
                patch = stack.enter_context(pytest.MonkeyPatch.context())
                patch.setattr(launcher.Cluster, "_publish", lambda *_: None)
            published = cluster_of_tasks.run_task("probe", [*container["command"], *container["args"]], flags)
        state = "Succeeded" if published else "Failed"
        end = (
            "I1127 launcher_v2.go:1] publish success"
            if published
            else "F1127 main.go:50] failed to upload: AccessDenied"
        )
        self.logs[workflows.pod("probe")] = f"{cluster_of_tasks.tasks[-1].log}{end}\n"
        self.script = [{"state": state.upper(), "tasks": {"probe": state}}]


@pytest.fixture(autouse=True)
def own_machine(monkeypatch, tmp_path):
    """No variables and no kubeconfig that lead elsewhere, and no waiting."""
    monkeypatch.setattr(probe_run, "POLL_SECONDS", 0.02)
    for name in ("KFP_TOKEN", "KF_PIPELINES_ENDPOINT", "KUBERNETES_SERVICE_HOST", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))


@pytest.fixture
def api():
    stub = Api()
    yield stub
    for thread in stub.threads:
        thread.join()


@pytest.fixture
def host(api):
    with api_stub.serving(api) as address:
        yield address


@pytest.fixture
def doctor(host, capfd):
    """Calls the command; its exit code, and its lines by name."""

    def call(*arguments):
        code = runner_kfp.main(["doctor", "--host", host, *map(str, arguments), "--json"])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        assert TOKEN not in out + err
        result = json.loads(out)
        checks = {row["name"]: (row["state"], row["result"], row["advice"]) for row in result["checks"]}
        assert result["blocked"] == [name for name, row in checks.items() if row[0] == BAD]
        assert code == (2 if result["blocked"] else 0)
        assert [name for name in checks if name != "probe"] == NAMES
        for state, summary, _ in checks.values():
            assert summary.startswith("not known: ") == (state == OPEN)
        return code, checks

    return call


def node(name="a", cpu="2", memory="7915Mi", labels=None, taints=(), **more):
    spec: dict[str, Any] = {"taints": list(taints)} if taints else {}
    allocatable = {"cpu": cpu, "memory": memory, **{key.replace("_", "/"): value for key, value in more.items()}}
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec, "status": {"allocatable": allocatable}}


def service(*ports):
    return {"kind": "Service", "spec": {"ports": [{"port": port} for port in ports]}}


TEAM = "/api/v1/namespaces/team"
SERVICES = "/api/v1/namespaces/kubeflow/services"
ML_PIPELINE = "/apis/apps/v1/namespaces/kubeflow/deployments/ml-pipeline"
TAINT = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
POD_RIGHTS = {
    ("argoproj.io", "workflowtaskresults", "create"), ("argoproj.io", "workflowtaskresults", "patch"),
    ("", "configmaps", "get"), ("", "secrets", "get"),
}  # fmt: skip


def deployment(image):
    return {"spec": {"template": {"spec": {"containers": [{"image": image}]}}}}


@pytest.fixture
def kubernetes(tmp_path):
    """A cluster as the manifests of 2.17 make it."""
    with cluster_stub.running(tmp_path / "cluster") as stub:
        stub.rights = stub.rights | POD_RIGHTS
        stub.objects = {
            ML_PIPELINE: deployment("ghcr.io/kubeflow/kfp-api-server:2.17.0"),
            f"{SERVICES}/seaweedfs": service(8333, 8888),
            f"{TEAM}/secrets/mlpipeline-minio-artifact": {"kind": "Secret", "metadata": {}},
            f"{TEAM}/serviceaccounts/pipeline-runner": {"metadata": {}},
            f"{TEAM}/configmaps/kfp-launcher": {"data": {"providers": "s3:\n  default: {}\n"}},
            "/api/v1/nodes": {"items": [node()]},
        }
        yield stub


@pytest.fixture
def kubeconfig(kubernetes, tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")  # which the stub sets for a pod
    authority = base64.b64encode((kubernetes.account / "ca.crt").read_bytes()).decode()
    server = {"server": f"https://127.0.0.1:{kubernetes.port}", "certificate-authority-data": authority}
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": server}],
                "users": [{"name": "u", "user": {"token": kubernetes.token}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return path


def healthz(api, **fields):
    api.recorded["/apis/v2beta1/healthz"] = (
        200,
        json.dumps({"commit_sha": "x", "multi_user": False, **fields}).encode(),
    )


def test_from_outside_little_is_known_and_nothing_else_is_said(doctor, api):
    code, checks = doctor()
    assert code == 0
    assert {name for name, row in checks.items() if row[0] == GOOD} == {
        "server",
        "token",
        "namespace",
        "GPUs",
        "volume",
    }
    assert checks["token"][1] == "none needed"
    assert "2.16.1" in checks["server"][1]
    for name in ("store", "secret", "launcher", "nodes", "account"):
        assert "needs --submit or a kubeconfig" in checks[name][1]
    assert not any(request.startswith("POST") for request in api.requests)


def test_lines_are_for_people_too(host, capfd):
    assert runner_kfp.main(["doctor", "--host", host]) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[0].startswith("✓ server    Kubeflow Pipelines 2.16.1: ")
    assert "? image     not known: needs --image and --submit" in out
    assert out[-1].startswith("Not known: cluster, store, ")


@pytest.mark.parametrize(
    ("tag", "state", "part"),
    [
        ("2.17.0", GOOD, "seaweedfs:8333; --retries counts within a task and for lost pods"),
        ("2.15.2", GOOD, "seaweedfs:8333; --retries counts for failed commands, not for lost pods"),
        ("v2.14.0", GOOD, "minio-service:9000"),
        ("2.5.0", ODD, "2.5.0"),
        ("3.0.1", ODD, "3.0.1"),
        ("unknown", OPEN, "does not give its version"),
    ],
)
def test_version(doctor, api, tag, state, part):
    healthz(api, tag_name=tag)
    row = doctor()[1]["server"]
    assert (row[0], part in row[1]) == (state, True), row


def test_version_that_only_the_cluster_says(doctor, api, kubernetes, kubeconfig):
    healthz(api, tag_name="unknown")
    flags = ("--kubeconfig", kubeconfig, "--namespace", "team")
    assert doctor(*flags)[1]["server"][1].startswith("Kubeflow Pipelines 2.17.0: ")
    kubernetes.objects[ML_PIPELINE] = deployment("registry.example:5000/api-server@sha256:12")
    assert doctor(*flags)[1]["server"][0] == OPEN


def test_no_server(capfd):
    assert runner_kfp.main(["doctor", "--host", "http://127.0.0.1:9", "--json"]) == 2
    out, err = capfd.readouterr()
    states = {row["name"]: row["state"] for row in json.loads(out)["checks"]}
    assert (states["server"], states["token"], states["namespace"]) == (BAD, OPEN, OPEN)
    assert "A run would fail: server." in err


def test_token(doctor, api, monkeypatch, tmp_path):
    api.token = TOKEN
    _, checks = doctor()
    assert (checks["token"][0], "wants a token" in checks["token"][1], checks["server"][0]) == (BAD, True, OPEN)
    (tmp_path / "token").write_text("another")
    _, checks = doctor("--token-file", tmp_path / "token")
    assert (checks["token"][0], "refuses the token" in checks["token"][1]) == (BAD, True)
    monkeypatch.setenv("KFP_TOKEN", TOKEN)
    assert doctor()[1]["token"][:2] == (GOOD, "accepted")


def test_namespace(doctor, api):
    api.namespaces = {"team"}
    assert doctor("--namespace", "team")[1]["namespace"] == (GOOD, "team", "--namespace team")
    _, checks = doctor("--namespace", "others")
    assert (checks["namespace"][0], "(403)" in checks["namespace"][1]) == (BAD, True)
    _, checks = doctor()
    assert checks["namespace"][0] == BAD
    assert checks["namespace"][2] == "--namespace NAME"


@pytest.fixture
def by_kubeconfig(doctor, kubeconfig):
    def call(*arguments):
        return doctor("--kubeconfig", kubeconfig, "--namespace", "team", *arguments)

    return call


def test_a_kubeconfig_shows_the_cluster_and_nothing_is_changed(
    by_kubeconfig, kubernetes, kubeconfig, doctor, monkeypatch
):
    _, checks = by_kubeconfig()
    assert {name for name, row in checks.items() if row[0] != GOOD} == {"push", "image", "pod"}
    assert "seaweedfs.kubeflow:8333" in checks["store"][2]
    posts = {request for request in kubernetes.requests if not request.startswith("GET ")}
    assert posts == {"POST /apis/authorization.k8s.io/v1/subjectaccessreviews"}
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    assert doctor("--namespace", "team")[1] == checks


# line -> flags, the change of the cluster, the state, and parts of what is said
LINES: dict[str, tuple[tuple[str, ...], dict[str, Any], str, str]] = {
    "cluster: none": ((), {ML_PIPELINE: None}, ODD, "no ml-pipeline"),
    "cluster: refused": ((), {ML_PIPELINE: 403}, ODD, "account (403)"),
    "store: the one of 2.14": (
        (), {f"{SERVICES}/seaweedfs": None, f"{SERVICES}/minio-service": service(9000)}, BAD,
        "--env AWS_ENDPOINT_URL=http://minio-service.kubeflow:9000",
    ),
    "store: that of a flag": (
        ("--env", "AWS_ENDPOINT_URL=http://minio-service.kubeflow:9000"),
        {f"{SERVICES}/minio-service": service(9000)}, GOOD, "minio-service",
    ),
    "store: another port": (("--env", "AWS_ENDPOINT_URL=http://seaweedfs.kubeflow"), {}, BAD, "the ports 8333, 8888"),
    "store: outside": (("--env", "AWS_ENDPOINT_URL=https://s3.example.com"), {}, OPEN, "outside of the cluster"),
    "store: refused": ((), {f"{SERVICES}/seaweedfs": 403}, OPEN, "account (403)"),
    "secret: none": ((), {f"{TEAM}/secrets/mlpipeline-minio-artifact": None}, BAD, "mlpipeline-minio-artifact"),
    "secret: one's own": (("--storage", "own", "--secret", "mine:key=AWS_KEY"), {}, BAD, "mine: not in the namespace"),
    "secret: refused": ((), {f"{TEAM}/secrets/mlpipeline-minio-artifact": 403}, OPEN, "account (403)"),
    "launcher: provider": (("--pipeline-root", "s3://mine/runs"), {}, GOOD, "has a provider of s3://"),
    "launcher: none": (("--pipeline-root", "gs://mine/runs"), {}, ODD, "no provider of gs://"),
    "launcher: refused": (
        ("--pipeline-root", "s3://mine/runs"), {f"{TEAM}/configmaps/kfp-launcher": 403}, OPEN, "account (403)"
    ),
    "nodes: too small": ((), {"/api/v1/nodes": {"items": [node(cpu="900m")]}}, BAD, "evaluate (1 CPU, 2Gi)"),
    "nodes: too little memory": (("--memory", "train=16Gi"), {}, BAD, "no node takes train (1 CPU, 16Gi)"),
    "nodes: tainted": ((), {"/api/v1/nodes": {"items": [node(taints=[TAINT])]}}, BAD, "no node takes"),
    "nodes: not labelled": (("--node-selector", "pool=gpu"), {}, BAD, "--node-selector"),
    "nodes: labelled": (
        ("--node-selector", "pool=gpu"), {"/api/v1/nodes": {"items": [node(labels={"pool": "gpu"})]}}, GOOD, "2 CPU"
    ),
    "nodes: refused": ((), {"/api/v1/nodes": 403}, OPEN, "the API refuses GET /api/v1/nodes to"),
    "GPUs: none": (("--gpus", "1"), {}, BAD, "no node has 1 nvidia.com/gpu"),
    "GPUs: others": (
        ("--gpus", "1"), {"/api/v1/nodes": {"items": [node(**{"amd.com_gpu": "2"})]}}, BAD, "--gpu-resource amd.com/gpu"
    ),
    "GPUs: tainted": (
        ("--gpus", "1"), {"/api/v1/nodes": {"items": [node(), node(taints=[TAINT], **{"nvidia.com_gpu": "2"})]}}, BAD,
        "--toleration nvidia.com/gpu:NoSchedule",
    ),
    "GPUs: tolerated": (
        ("--gpus", "2", "--toleration", "nvidia.com/gpu:NoSchedule"),
        {"/api/v1/nodes": {"items": [node(), node(taints=[TAINT], **{"nvidia.com_gpu": "2"})]}}, GOOD, "--gpus 2",
    ),
    "GPUs: of workers": (
        ("--workers", "2", "--gpus-per-worker", "2"), {"/api/v1/nodes": {"items": [node(**{"nvidia.com_gpu": "1"})]}},
        BAD, "no node has 2",
    ),
    "GPUs: refused": (("--gpus", "1"), {"/api/v1/nodes": 403}, OPEN, "account (403)"),
    "volume: bound": (
        ("--pvc", "models=/models"),
        {f"{TEAM}/persistentvolumeclaims/models": {
            "spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}}}, GOOD, "Bound",
    ),
    "volume: of one node": (
        ("--pvc", "models=/models"),
        {f"{TEAM}/persistentvolumeclaims/models": {
            "spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Bound"}}}, ODD, "ReadWriteMany",
    ),
    "volume: waiting": (
        ("--pvc", "models=/models"),
        {f"{TEAM}/persistentvolumeclaims/models": {"spec": {}, "status": {"phase": "Pending"}}}, ODD, "Pending",
    ),
    "volume: none": (("--pvc", "models=/models"), {}, BAD, "models at /models: missing"),
    "volume: refused": (
        ("--pvc", "models=/models"), {f"{TEAM}/persistentvolumeclaims/models": 403}, OPEN, "account (403)"
    ),
    "account: none": (("--service-account", "other"), {}, BAD, "other: not in the namespace team"),
    "account: for workers": (("--workers", "2", "--gpus-per-worker", "0"), {}, GOOD, "create training jobs"),
    "account: refused": ((), {f"{TEAM}/serviceaccounts/pipeline-runner": 403}, OPEN, "account (403)"),
}  # fmt: skip


@pytest.mark.parametrize("case", LINES)
def test_line_by_the_kubeconfig(by_kubeconfig, kubernetes, case):
    flags, change, state, part = LINES[case]
    for path, value in change.items():
        if value is None:
            del kubernetes.objects[path]
        else:
            kubernetes.objects[path] = value
    _, checks = by_kubeconfig(*flags)
    row = checks[case.partition(":")[0]]
    assert (row[0], part in " ".join(row)) == (state, True), row
    if case.startswith("cluster"):  # nothing is taken from another cluster
        assert {checks[name][0] for name in ("store", "secret", "launcher", "nodes", "account")} == {OPEN}


def test_account_without_a_right(by_kubeconfig, kubernetes):
    kubernetes.rights -= {("", "secrets", "get"), ("kubeflow.org", "tfjobs", "delete")}
    row = by_kubeconfig()[1]["account"]
    assert row[:2] == (BAD, "pipeline-runner may not get secrets")
    row = by_kubeconfig("--workers", "1")[1]["account"]
    assert (row[1], "deploy/training-job.yaml" in row[2]) == (
        "pipeline-runner may not get secrets, delete tfjobs",
        True,
    )


def test_rights_of_a_training_job_are_those_of_the_role():
    assert set(cluster.RIGHTS) == cluster_stub.role_rules()


def test_a_kubeconfig_that_is_none(doctor, host, tmp_path, capfd, monkeypatch):
    (tmp_path / "torn").write_text("clusters: [")
    assert runner_kfp.main(["doctor", "--host", host, "--kubeconfig", str(tmp_path / "torn")]) == 2
    err = capfd.readouterr().err
    assert (err.startswith("error: --kubeconfig takes"), err.count("\n")) == (True, 1)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "torn"))
    assert doctor()[1]["cluster"][0] == OPEN


def test_a_cluster_that_does_not_answer(by_kubeconfig, kubernetes):
    kubernetes.outage = 0
    _, checks = by_kubeconfig()
    assert (checks["cluster"][0], checks["nodes"][0]) == (ODD, OPEN)


@pytest.mark.parametrize(
    ("arguments", "name", "part"),
    [
        (("--image", "MNIST:latest"), "image", "the name in lower case"),
        (("--serving-dir", "/models"), "push", "--pvc CLAIM=PATH"),
        (("--serving-dir", "https://example.com/models"), "push", "s3://"),
    ],
)
def test_wrong_flags_that_need_no_cluster(doctor, arguments, name, part):
    row = doctor(*arguments)[1][name]
    assert (row[0], part in " ".join(row)) == (BAD, True), row


def test_push_without_a_default(doctor):
    _, checks = doctor("--storage", "own")
    assert checks["push"][1] == "not known: needs --serving-dir, as --storage own has no default"
    assert checks["store"][1] == "not known: no AWS_ENDPOINT_URL is given; needs --submit"
    assert checks["secret"][:2] == (GOOD, "none requested (--secret)")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--submit",), "give --image"),
        (("--pipeline-root", "/tmp"), "--pipeline-root must be"),
        (("--gpus", "-1"), "--gpus"),
        (("--env", "AWS_SECRET_ACCESS_KEY=hunter2", "--image", "a"), "mount it with --secret"),
    ],
)
def test_wrong_usage_is_one_line(host, capfd, arguments, part):
    assert runner_kfp.main(["doctor", "--host", host, *arguments]) == 2
    err = capfd.readouterr().err
    assert (err.startswith("error: "), part in err, err.count("\n"), "hunter2" in err) == (True, True, 1, False), err


@pytest.fixture(scope="module")
def s3():
    with object_stores.running() as server:
        server.bucket("artifacts")
        server.bucket("models")
        yield server


@pytest.fixture
def submit(doctor, api, s3, tmp_path):
    """Sends the task, whose process uses the store."""
    api.scratch = tmp_path / "containers"
    s3.reset()

    def call(*arguments, endpoint=s3.url):
        flags = ("--env", f"AWS_ENDPOINT_URL={endpoint}", "--pipeline-root", "minio://artifacts/root", "--submit")
        return doctor("--image", IMAGE, "--serving-dir", "s3://models/serving", *flags, *arguments)

    return call


def test_task_finds_out_the_rest_and_leaves_no_run(submit, api, s3, tmp_path):
    (tmp_path / "volume").mkdir()
    code, checks = submit("--pvc", f"models={tmp_path / 'volume'}", "--service-account", "trainer")
    assert code == 0, checks
    assert {name for name, row in checks.items() if row[0] != GOOD} == {"cluster"}
    assert checks["push"][1] == "s3://models/serving/mnist accepts models, and the store obeys If-None-Match"
    assert code_digest.of_project()[:12] in checks["image"][1]
    assert checks["account"][1] == "trainer ran a task"
    assert "/dev/shm of" in checks["pod"][1]
    assert checks["probe"][1].startswith("ran in ")
    assert not api.runs
    assert not api.pipelines
    assert not list(s3.resource("models").objects.all())
    keys = [item.key for item in s3.resource("artifacts").objects.all()]
    assert [key.rpartition("/")[2] for key in keys] == ["findings"]
    [sent] = api.sent
    assert (sent["display_name"].startswith("mnist-tfx-doctor "), sent["service_account"]) == (True, "trainer")
    [pod] = sent["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    assert pod["pvcMount"][0]["mountPath"] == str(tmp_path / "volume")
    container = sent["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]["exec-probe"]["container"]
    assert container["resources"]["resourceCpuRequest"] == "1"  # the largest of all tasks
    assert container["resources"]["resourceMemoryRequest"] == "2Gi"


@pytest.mark.slow
def test_task_that_finds_faults(submit, api, s3, monkeypatch):
    monkeypatch.setattr(code_digest, "of_project", lambda: "0" * 64)
    s3.conditions = False
    api.uploads = False
    code, checks = submit("--gpus", "1", "--shared-memory", "4000Gi", "--pvc", "models=/proc/none")
    assert code == 2
    wrong = {name: row for name, row in checks.items() if row[0] == BAD}
    assert set(wrong) == {"image", "push", "GPUs", "pod", "volume", "launcher"}
    assert "The image must hold the code" in wrong["image"][1]
    assert "If-None-Match" in wrong["push"][1]
    assert wrong["GPUs"][1] == "TensorFlow sees 0 of 1"
    assert "--shared-memory is 4000Gi" in wrong["pod"][1]
    assert wrong["volume"][1] == "not readable: /proc/none: no such file or directory"
    assert "failed to upload: AccessDenied" in wrong["launcher"][1]
    assert checks["store"][0] == GOOD


def test_volume_that_is_read_only(submit):
    """It is enough for data, not for models."""
    code, checks = submit("--pvc", "data=/proc")
    state, summary, advice = checks["volume"]
    assert (code, state, summary.startswith("can be read but not written: /proc: ")) == (0, ODD, True), checks
    assert "data" in advice
    assert "for models" in advice
    code, checks = submit("--pvc", "data=/proc", "--serving-dir", "/proc/serving")
    assert (code, checks["volume"][0], checks["push"][0]) == (2, BAD, BAD)
    assert checks["volume"][1].startswith("not writable: /proc/serving/mnist: ")


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({"memory.max": "2147483648", "memory.current": "0"}, "2.0 GiB"),
        ({"memory/memory.limit_in_bytes": "1073741824", "memory/memory.usage_in_bytes": "0"}, "1.0 GiB"),
    ],
)
def test_memory_is_that_of_the_container(tmp_path, monkeypatch, capfd, files, memory):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(launcher_adapter, "ROOT", tmp_path)
    uri = "minio://none/root/mnist-tfx-doctor/run/probe/1/findings"
    executor_input = json.dumps({"outputs": {"artifacts": {"findings": {"artifacts": [{"uri": uri}]}}}})
    assert probe.main(["--task", "probe", "--input", executor_input, "--code_digest", "0"]) == 0
    checks = {check.name: check for check in probe.parse(capfd.readouterr().out) or ()}
    assert f", {memory} of memory" in checks["pod"].result


def test_task_without_store(submit):
    _, checks = submit(endpoint="http://127.0.0.1:9")
    assert (checks["store"][0], "seaweedfs, port 8333" in checks["store"][1]) == (BAD, True), checks["store"]
    assert checks["push"][0] == BAD


def test_task_without_credentials(submit, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    _, checks = submit()
    assert (checks["store"][0], "no credentials were found" in checks["store"][1]) == (BAD, True), checks["store"]


HINDRANCES = {
    "ImagePullBackOff: Back-off pulling image registry.example/mnist:1": "image",
    "InvalidImageName: couldn't parse it": "image",
    "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.": "nodes",
    "Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.": "GPUs",
    "Unschedulable: 0/2 nodes are available: 2 node(s) had untolerated taint {a: b}.": "nodes",
    "Unschedulable: 0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.": "volume",
    'Unschedulable: 0/1 nodes are available: persistentvolumeclaim "models" not found.': "volume",
    'CreateContainerConfigError: secret "mlpipeline-minio-artifact" not found': "secret",
    "SomethingNew: of a later Kubernetes": "probe",
}


@pytest.mark.parametrize("message", HINDRANCES)
def test_pod_that_does_not_start(doctor, api, message):
    api.message = message
    api.script = [{"state": "RUNNING", "tasks": {"probe": "Pending"}}]
    code, checks = doctor("--image", IMAGE, "--submit", "0.1")
    assert code == 2
    assert {name for name, row in checks.items() if row[0] == BAD} == {HINDRANCES[message], "probe"}
    assert message in checks[HINDRANCES[message]][1]
    assert checks["pod"][1] == "not known: the task on the cluster did not get that far"
    assert not api.runs  # a pod that waits for ever is nobody's


def test_pod_on_its_way_is_waited_for(doctor, api, monkeypatch):
    api.message = "ContainerCreating"
    api.script = [{"state": "RUNNING", "tasks": {"probe": "Pending"}}]
    monkeypatch.setattr(probe_run, "LIMIT_SECONDS", 0.5)
    _, checks = doctor("--image", IMAGE, "--submit", "0")
    assert (checks["probe"][0], "did not end in" in checks["probe"][1]) == (BAD, True)


@pytest.mark.parametrize(
    ("log", "name", "part"),
    [
        ("/usr/bin/python: No module named pipeline.kubeflow.probe", "image", "does not hold this code"),
        ("F1127 main.go] failed to execute component: no such bucket", "probe", "no such bucket"),
    ],
)
def test_task_that_fails_without_findings(doctor, api, log, name, part):
    api.script = [{"state": "FAILED", "tasks": {"probe": "Failed"}}]
    api.logs[workflows.pod("probe")] = f"{log}\n"
    row = doctor("--image", IMAGE, "--submit")[1][name]
    assert (row[0], part in row[1]) == (BAD, True), row


def test_log_that_cannot_be_read_is_not_known(doctor, api):
    api.script = [{"state": "SUCCEEDED", "tasks": {"probe": "Succeeded"}}]
    code, checks = doctor("--image", IMAGE, "--submit")
    assert (code, checks["probe"][0], checks["image"][0]) == (0, OPEN, OPEN)


def test_ctrl_c_leaves_no_run(api, host, monkeypatch, capfd):
    def interrupt(seconds):
        raise KeyboardInterrupt

    api.script = [{"state": "RUNNING", "tasks": {"probe": "Running"}}]
    monkeypatch.setattr("time.sleep", interrupt)
    assert runner_kfp.main(["doctor", "--host", host, "--image", IMAGE, "--submit"]) == 1
    assert capfd.readouterr().err == "error: stopped, and the run of the probe is deleted\n"
    assert (len(api.sent), api.runs) == (1, {})


def test_run_that_is_refused(doctor, api, monkeypatch):
    def refuse(body):
        raise api_stub.Refused(400, "no such service account")

    monkeypatch.setattr(api, "_run", refuse)
    row = doctor("--image", IMAGE, "--submit")[1]["probe"]
    assert (row[0], "no such service account" in row[1]) == (BAD, True)


def test_server_that_falls_silent_while_the_task_runs(doctor, api, monkeypatch):
    api.script = [{"state": "RUNNING", "tasks": {"probe": "Running"}}]
    api.failing_from = 1
    monkeypatch.setattr(runs, "PATIENCE_SECONDS", 0.1)
    row = doctor("--image", IMAGE, "--submit")[1]["probe"]
    assert (row[0], "503" in row[1]) == (BAD, True)


def test_rights_that_the_task_finds(kubernetes):
    assert probe._account() == ("account", GOOD, "pipeline-runner ran a task, and may create training jobs", "")
    kubernetes.rights -= {("", "pods/log", "get")}
    assert probe._account()[1:3] == (BAD, "pipeline-runner may not get pods/log")


def test_accelerators_that_tensorflow_sees(monkeypatch):
    class Config:
        @staticmethod
        def list_physical_devices(kind):
            return ["gpu:0", "gpu:1"] if kind == "GPU" else []

    monkeypatch.setitem(sys.modules, "tensorflow", type("tensorflow", (), {"config": Config}))
    assert probe._gpus(2)[:3] == ("GPUs", GOOD, "TensorFlow sees 2")


def test_findings_are_found_among_what_the_launcher_writes():
    row = {"name": "image", "state": GOOD, "result": "it", "advice": ""}
    text = f'{{"other": 1}}\n{json.dumps({"probe": [row]})}\ntime="…" level=info msg="{{}}"\n'
    assert probe.parse(text) == [("image", GOOD, "it", "")]
    assert probe.parse('{"other": 1}') is None
    assert client.Unauthorized.exit_code == 2
