# SPDX-License-Identifier: Apache-2.0
"""The task that launches a training job, on a fake cluster whose workers are small processes."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import threading

import pytest

from components.errors import BadInput, GateStopped, ProjectError
from pipeline.kubeflow.training_job import cluster, job_watch, tfjob
from tests import object_stores
from tests.kubeflow import cluster_stub, launching
from tests.kubeflow.launching import RUN, SALT, list_files

# Publishes the two files of a model, and one of its run.
PUBLISH = """
import pathlib, sys
from pipeline.kubeflow.training_job import exchange
folder = pathlib.Path("results")
for name in ("model/Format-Serving/saved_model.pb", "model/keras/model.keras", "model_run/training.json"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(name)
print("epoch 1/2", flush=True)
print("epoch 2/2", flush=True)
exchange.publish(sys.argv[-1], folder)
"""
SLEEP = "import time; print('epoch 1/2', flush=True); time.sleep(60)"


@pytest.fixture(scope="module")
def s3():
    with object_stores.running() as server:
        yield server


@pytest.fixture
def bucket(s3):
    s3.reset()
    return s3.bucket("artifacts")


@pytest.fixture
def stub(tmp_path, monkeypatch, bucket):
    monkeypatch.setattr(job_watch, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(tfjob, "_PAUSE_SECONDS", 0.05)
    with cluster_stub.running(tmp_path / "cluster") as server:
        server.secrets["store"] = launching.KEYS
        yield server


@pytest.fixture
def progress(caplog):
    caplog.set_level(logging.INFO, "progress")
    return caplog


@pytest.fixture
def launch(tmp_path, s3):
    """Returns a function that runs `run_fn`, with a script in the workers, and returns the task's folder."""

    def start(script, workers=1, **run_policy):
        job = launching.manifest(s3, workers)
        [container] = job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
        container["command"] = ["python", "-c", script]
        job["spec"]["runPolicy"].update(run_policy)
        folder = tmp_path / "task"
        tfjob.run_fn(launching.fn_args(folder, job, {"model": "linear", "seed": 3}))
        return folder

    return start


def start_thread(action):
    """Runs an action during the launch."""
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def list_run_files(bucket):
    return [item.key for item in bucket.objects.filter(Prefix="root/")]


def test_the_model_is_fetched_and_the_job_is_removed(launch, stub, bucket, progress):
    folder = launch(PUBLISH)
    assert list_files(folder) == {
        "model/Format-Serving/saved_model.pb", "model/keras/model.keras", "model_run/training.json",
    }  # fmt: skip
    assert (folder / "model/keras/model.keras").read_text() == "model/keras/model.keras"
    assert stub.jobs == {}
    assert list_run_files(bucket) == []
    lines = [record.getMessage() for record in progress.records]
    assert [line for line in lines if line.startswith("worker 0: ")] == ["worker 0: epoch 1/2", "worker 0: epoch 2/2"]
    name = stub.created_jobs[0]["metadata"]["name"]
    states = [line.rpartition(" ")[2] for line in lines if line.startswith(f"training job: {name}: ")]
    assert states == ["Running", "Succeeded"] or states == ["Created", "Running", "Succeeded"]


def test_the_job_belongs_to_the_task_and_has_no_test_split(launch, stub, progress):
    print_job = """
import json, sys
from pipeline.kubeflow.training_job import exchange
print("job", json.dumps(vars(exchange.read(sys.argv[-1]))), flush=True)
"""
    launch(print_job + PUBLISH)
    [job] = stub.created_jobs
    metadata = job["metadata"]
    assert re.fullmatch(r"train-0a1b2c3d-[0-9a-f]{6}", metadata["name"])
    labels = {"mnist-tfx/run": RUN.rpartition("/")[2], "mnist-tfx/task": "train"}
    assert metadata["labels"] == labels
    assert metadata["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "the-task", "uid": "0f1e"}]
    template = job["spec"]["tfReplicaSpecs"]["Worker"]["template"]
    assert template["metadata"]["labels"] == {**labels, "sidecar.istio.io/inject": "false"}
    assert template["spec"]["serviceAccountName"] == "pipeline-runner"
    assert template["spec"]["automountServiceAccountToken"] is False
    url = f"{SALT}/jobs/{metadata['name']}"
    assert template["spec"]["containers"][0]["args"] == ["--code_digest", "0" * 64, url]
    [line] = [message for message in progress.messages if message.startswith("worker 0: job ")]
    assert json.loads(line.removeprefix("worker 0: job ")) == {
        "train": ["s3://artifacts/elsewhere/ingest/examples/Split-train"],
        "val": ["s3://artifacts/elsewhere/ingest/examples/Split-val"],
        "transform_graph": "s3://artifacts/elsewhere/transform/transform_graph",
        "config": {"model": "linear", "seed": 3, "checkpoints": f"{RUN}/checkpoints"},
    }


@pytest.mark.parametrize(("code", "error_type"), [(3, GateStopped), (2, BadInput), (1, ProjectError)])
def test_the_error_of_a_failed_worker_is_raised_by_exit_code(
    launch, stub, bucket, tmp_path, progress, code, error_type
):
    script = f"""
import json, os, sys, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0:
    time.sleep(60)
print("error: an earlier error", flush=True)
print("error: The loss must be finite; it was nan.", file=sys.stderr, flush=True)
print("the end", flush=True)
sys.exit({code})
"""
    with pytest.raises(ProjectError) as error:
        launch(script, workers=2)
    assert type(error.value) is error_type
    name = stub.created_jobs[0]["metadata"]["name"]
    message = (
        f"The loss must be finite; it was nan. ({name}-worker-1 of the training job {name}: exit code {code}, Error)"
    )
    assert str(error.value) == message
    assert f"{name}-worker-1: the end" in progress.messages
    assert list_files(tmp_path / "task") == set()
    assert stub.jobs == {}
    assert list_run_files(bucket) == []


def test_the_worker_that_failed_first_is_the_reason():
    def pod(index, code, second):
        terminated = {"exitCode": code, "reason": "Error", "finishedAt": f"2026-11-21T13:00:0{second}Z"}
        labels = {"training.kubeflow.org/replica-index": str(index)}
        return {
            "metadata": {"name": f"job-worker-{index}", "uid": str(index), "labels": labels},
            "status": {"containerStatuses": [{"name": "tensorflow", "state": {"terminated": terminated}}]},
        }

    class FakeClient(cluster.JobClient):
        def __init__(self):
            pass

        def job(self, name):
            return {"status": {"conditions": [{"type": "Failed", "status": "True", "message": "Some failed."}]}}

        def pods(self, name):
            return [pod(0, 1, 3), pod(1, 3, 2), pod(2, 138, 1)]

        def log(self, pod, **parameters):
            return ""

    with pytest.raises(GateStopped) as error:
        job_watch.JobWatch(FakeClient(), "job", 10).wait()
    assert str(error.value) == "Some failed. (job-worker-1 of the training job job: exit code 3, Error)"


@pytest.mark.parametrize("code", [0, 3])
def test_an_unreadable_log_does_not_hide_the_result(launch, stub, monkeypatch, progress, code):
    monkeypatch.setattr(job_watch, "PATIENCE_SECONDS", 20.0)
    stub.faults["GET", "pods/log"] = [500]
    if code:
        with pytest.raises(GateStopped, match=r"exit code 3, Error\)"):
            launch("import sys; sys.exit(3)")
    else:
        assert (launch(PUBLISH) / "model_run/training.json").is_file()
    assert "it refused: 500 pods/log is refused" in progress.text


def test_other_line_separators_do_not_split_a_line(launch, stub, progress):
    launch(r"""print("10 %\r20 %\x85 and more", flush=True)""" + PUBLISH)
    assert "worker 0: 10 %\r20 %\x85 and more" in progress.messages


def test_a_killed_worker_is_restarted(launch, stub, progress):
    kill_once = """
import os, pathlib, sys
mark = pathlib.Path(os.environ["HOME"]).parent / "mark"
if not mark.exists():
    mark.write_text("")
    print("epoch 1/2", flush=True)
    os.kill(os.getpid(), 9)
"""
    folder = launch(kill_once + PUBLISH)
    assert (folder / "model_run/training.json").is_file()
    assert [code for _, _, code in stub.exits] == [137, 0]


def test_a_killed_upload_is_not_used_and_the_next_one_is(launch, stub, s3, bucket, tmp_path):
    puts = []

    def before(method, path):
        if method == "PUT" and "/results/" in path:
            puts.append(path)
            if len(puts) == 3:  # the last of the three files
                stub.worker(0).process.kill()
                return object_stores.REFUSED
        return None

    s3.before = before
    folder = launch(PUBLISH)
    assert len({path.split("/results/")[1].partition("/")[0] for path in puts} - {"manifest.json"}) == 2
    assert [code for _, _, code in stub.exits] == [137, 0]
    assert len(list_files(folder)) == 3
    assert list_run_files(bucket) == []


def test_an_upload_that_is_killed_every_time_gives_no_model(launch, stub, s3, tmp_path):
    def before(method, path):
        if method == "PUT" and path.endswith("training.json"):
            stub.worker(0).process.kill()
            return object_stores.REFUSED
        return None

    s3.before = before
    with pytest.raises(ProjectError, match="may be restarted 1 times"):
        launch(PUBLISH, backoffLimit=1)
    assert list_files(tmp_path / "task") == set()


def test_too_many_restarts_end_the_job(launch, stub, progress):
    with pytest.raises(
        ProjectError,
        match=r"may be restarted 2 times; \S+-worker-0 of .* exceeded that, and last ended with",
    ):
        launch("import os, time; time.sleep(0.3); os._exit(137)", backoffLimit=2)
    assert stub.jobs == {}
    assert len(stub.exits) >= 3


def test_a_deleted_job_fails(launch, stub, tmp_path):
    def delete():
        cluster_stub.wait_until(stub.runs)
        with stub.lock:
            stub.jobs.clear()

    thread = start_thread(delete)
    with pytest.raises(ProjectError, match="but it was deleted"):
        launch(SLEEP)
    thread.join()
    assert list_files(tmp_path / "task") == set()


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (400, "Compare the package with the operator's version"),
        (401, "The cluster must accept the token"),
        (403, "the Role in deploy/training-job.yaml"),
        (404, "must be installed, with Kubeflow's training operator"),
        (409, "Remove the job that exists already"),
        (422, "Compare the package with the operator's version"),
    ],
)
def test_a_refused_job_is_an_error_with_the_way_out(launch, stub, status, advice):
    stub.faults["POST", "tfjobs"] = [status]
    with pytest.raises(ProjectError) as error:
        launch(PUBLISH)
    assert f"must create a training job in the namespace team; it refused: {status} tfjobs is refused" in str(
        error.value
    )
    assert advice in str(error.value)
    assert stub.token not in str(error.value)
    assert "Traceback" not in str(error.value)
    assert stub.requests.count("POST /apis/kubeflow.org/v1/namespaces/team/tfjobs") == 1


@pytest.mark.parametrize("missing", sorted(cluster_stub.role_rules()), ids=" ".join)
def test_each_right_of_the_role_is_needed(launch, stub, monkeypatch, missing, progress, bucket):
    monkeypatch.setattr(job_watch, "PATIENCE_SECONDS", 0.5)
    stub.rules = cluster_stub.role_rules() - {missing}
    verb, resource = missing[2], missing[1]
    try:
        launch(PUBLISH)
    except ProjectError as error:
        message = str(error)
    else:
        message = progress.text
    assert f'{resource} is forbidden: User "system:serviceaccount:team:pipeline-runner" cannot {verb} it' in message
    assert "the Role in deploy/training-job.yaml" in message


@pytest.mark.parametrize("outage", [503, 0], ids=["errors", "cut connections"])
def test_a_short_outage_of_the_api_is_survived(launch, stub, progress, outage):
    def interrupt():
        cluster_stub.wait_until(stub.runs)
        stub.outage = outage
        cluster_stub.wait_until(lambda: "the API: " in progress.text)
        stub.outage = None

    thread = start_thread(interrupt)
    folder = launch("import time; time.sleep(1)" + PUBLISH)
    thread.join()
    assert (folder / "model_run/training.json").is_file()
    assert progress.text.count("the API: ") == 1
    assert stub.jobs == {}


def test_a_long_outage_of_the_api_ends_the_task(launch, stub, progress, monkeypatch):
    monkeypatch.setattr(job_watch, "PATIENCE_SECONDS", 0.3)

    def interrupt():
        cluster_stub.wait_until(stub.runs)
        stub.outage = 503

    thread = start_thread(interrupt)
    with pytest.raises(ProjectError, match="it refused: 503 the server is currently unable"):
        launch(SLEEP)
    thread.join()
    assert re.search(r"training job: (\S+) was not removed; remove it: kubectl delete tfjob \1\.", progress.text)


def test_a_lost_response_creates_no_second_job(launch, stub):
    stub.faults["POST", "tfjobs"] = ["lost"]
    folder = launch(PUBLISH)
    assert (folder / "model_run/training.json").is_file()
    assert len(stub.created_jobs) == 1
    assert stub.jobs == {}


def test_sigterm_removes_the_job(launch, stub, bucket):
    def terminate():
        cluster_stub.wait_until(stub.runs)
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    thread = start_thread(terminate)
    with pytest.raises(SystemExit) as error:
        launch(SLEEP)
    thread.join()
    assert error.value.code == 143
    assert stub.jobs == {}
    cluster_stub.wait_until(lambda: not stub.pods)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert list_run_files(bucket) == []


def test_the_job_of_a_previous_attempt_is_removed_first(launch, stub):
    with pytest.MonkeyPatch.context() as patch:  # a killed task removes nothing
        patch.setattr(cluster.JobClient, "delete", lambda self, name: None)
        patch.setattr(job_watch, "UNTOUCHED_SECONDS", 0.1)
        stub.operator_runs = False
        with pytest.raises(ProjectError, match="must start the job"):
            launch(SLEEP)
    [previous] = stub.jobs
    stub.jobs["another-run"] = {
        "metadata": {"name": "another-run", "labels": {"mnist-tfx/run": "another", "mnist-tfx/task": "train"}},
        "spec": {"tfReplicaSpecs": {"Worker": {"replicas": 0}}},
        "status": {"conditions": [{"type": "Failed"}]},
    }
    stub.pods["another-run"] = {}
    for path in (stub.folder.parent / "task").iterdir():
        path.rmdir()
    stub.operator_runs = True
    cluster_stub.wait_until(lambda: stub.pods[previous])
    launch(PUBLISH)
    deletes = [request.rpartition("/")[2] for request in stub.requests if request.startswith("DELETE")]
    assert deletes == [previous, stub.created_jobs[1]["metadata"]["name"]]
    assert list(stub.jobs) == ["another-run"]


def test_without_an_operator_the_task_fails(launch, stub, monkeypatch):
    monkeypatch.setattr(job_watch, "UNTOUCHED_SECONDS", 0.3)
    stub.operator_runs = False
    with pytest.raises(ProjectError, match="training operator must start the job"):
        launch(SLEEP)
    assert stub.jobs == {}


def test_the_reason_that_a_worker_waits_is_logged(launch, stub, progress):
    stub.unschedulable = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."

    def schedule():
        cluster_stub.wait_until(lambda: "worker-0: waits: " in progress.text)
        del stub.secrets["store"]
        stub.unschedulable = ""
        cluster_stub.wait_until(lambda: "CreateContainerConfigError" in progress.text)
        stub.secrets["store"] = {"id": "a", "key": "b"}

    thread = start_thread(schedule)
    launch(PUBLISH)
    thread.join()
    waits = [line.partition("worker-0: ")[2] for line in progress.messages if "worker-0: waits" in line]
    assert waits == [
        "waits: Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        'waits: CreateContainerConfigError: secret "store" not found',
    ]


def test_success_without_a_model_is_a_failure(launch, stub, tmp_path):
    with pytest.raises(ProjectError, match="must publish a model with a manifest"):
        launch("print('done')")
    assert list_files(tmp_path / "task") == set()


def test_a_file_that_does_not_match_its_manifest_is_refused(launch, stub, tmp_path):
    corrupt = """
from components import storage
store, path = storage.connect(sys.argv[-1])
[name] = [name for name in store.find(path) if name.endswith("model.keras")]
store.pipe_file(name, b"model/keras/model.kerat")
"""
    with pytest.raises(ProjectError, match=r"model/keras/model\.keras does not"):
        launch(PUBLISH + corrupt)
    assert list_files(tmp_path / "task") == set()


def test_outside_of_a_cluster_the_job_is_refused(launch, monkeypatch, bucket, tmp_path):
    monkeypatch.delenv("KFP_POD_NAME", raising=False)
    with pytest.raises(BadInput, match="created by a task of the open-source Kubeflow Pipelines"):
        launch(PUBLISH)


@pytest.mark.parametrize("missing", ["KUBERNETES_SERVICE_HOST", "token", "ca.crt", "namespace"])
def test_the_client_requires_a_service_account(stub, monkeypatch, missing):
    if missing.isupper():
        monkeypatch.delenv(missing)
    else:
        (stub.account / missing).unlink()
    with pytest.raises(BadInput, match="with the service account's token in"):
        cluster.JobClient()


def test_another_authority_is_not_trusted(stub, tmp_path):
    from tests import certificates

    (stub.account / "ca.crt").write_bytes(certificates.write(tmp_path / "other.pem").read_bytes())
    with cluster.JobClient() as api, pytest.raises(cluster.ApiError, match=r"it did not \(ConnectError\)"):
        api.jobs("a=b")
    assert stub.requests == []


def test_a_renewed_token_is_used(stub):
    with cluster.JobClient() as api:
        assert api.jobs("a=b") == []
        (stub.account / "token").write_text("renewed")
        with pytest.raises(cluster.ApiError, match="401 Unauthorized"):
            api.jobs("a=b")
        stub.token = "renewed"
        assert api.jobs("a=b") == []
        assert api.account() == ""
