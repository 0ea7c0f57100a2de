# SPDX-License-Identifier: Apache-2.0
"""The task that launches a training job, against a stand-in for Kubernetes whose workers are real, small processes."""

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
from tests.kubeflow.launching import RUN, SALT, files

# Publishes a model of two files, and one of the run.
PUBLISH = """
import pathlib, sys
from pipeline.kubeflow.training_job import exchange
made = pathlib.Path("made")
for name in ("model/Format-Serving/saved_model.pb", "model/keras/model.keras", "model_run/training.json"):
    (made / name).parent.mkdir(parents=True, exist_ok=True)
    (made / name).write_text(name)
print("epoch 1/2", flush=True)
print("epoch 2/2", flush=True)
exchange.publish(sys.argv[-1], made)
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
    with cluster_stub.running(tmp_path / "cluster") as made:
        made.secrets["store"] = launching.KEYS
        yield made


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "progress")
    return caplog


@pytest.fixture
def launch(tmp_path, s3):
    """Runs `run_fn` with workers that run a script, and returns the folder of the outputs."""

    def start(script, workers=1, **changed):
        job = launching.manifest(s3, workers)
        [container] = job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
        container["command"] = ["python", "-c", script]
        job["spec"]["runPolicy"].update(changed)
        here = tmp_path / "task"
        tfjob.run_fn(launching.fn_args(here, job, {"model": "linear", "seed": 3}))
        return here

    return start


def meanwhile(act):
    """Does something beside the launch, and is joined at the end of the test."""
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def left_in_the_store(bucket):
    return [one.key for one in bucket.objects.filter(Prefix="root/")]


def test_the_model_comes_out_and_nothing_of_the_job_is_left(launch, stub, bucket, said):
    here = launch(PUBLISH)
    assert files(here) == {
        "model/Format-Serving/saved_model.pb", "model/keras/model.keras", "model_run/training.json",
    }  # fmt: skip
    assert (here / "model/keras/model.keras").read_text() == "model/keras/model.keras"
    assert stub.jobs == {}
    assert left_in_the_store(bucket) == []
    lines = [record.getMessage() for record in said.records]
    assert [line for line in lines if line.startswith("worker 0: ")] == ["worker 0: epoch 1/2", "worker 0: epoch 2/2"]
    name = stub.made[0]["metadata"]["name"]
    states = [line.rpartition(" ")[2] for line in lines if line.startswith(f"training job: {name}: ")]
    assert states == ["Running", "Succeeded"] or states == ["Created", "Running", "Succeeded"]


def test_the_job_is_the_tasks_own_and_its_workers_are_told_train_and_val_and_not_test(launch, stub, said):
    tell = """
import json, sys
from pipeline.kubeflow.training_job import exchange
print("told", json.dumps(vars(exchange.read(sys.argv[-1]))), flush=True)
"""
    launch(tell + PUBLISH)
    [job] = stub.made
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
    [line] = [one for one in said.messages if one.startswith("worker 0: told ")]
    assert json.loads(line.removeprefix("worker 0: told ")) == {
        "train": ["s3://artifacts/elsewhere/ingest/examples/Split-train"],
        "val": ["s3://artifacts/elsewhere/ingest/examples/Split-val"],
        "transform_graph": "s3://artifacts/elsewhere/transform/transform_graph",
        "config": {"model": "linear", "seed": 3, "checkpoints": f"{RUN}/checkpoints"},
    }


@pytest.mark.parametrize(("code", "kind"), [(3, GateStopped), (2, BadInput), (1, ProjectError)])
def test_a_worker_that_fails_says_why_with_its_exit_code(launch, stub, bucket, tmp_path, said, code, kind):
    script = f"""
import json, os, sys, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0:
    time.sleep(60)
print("error: an older one", flush=True)
print("error: The loss must be finite; it was nan.", file=sys.stderr, flush=True)
print("the end", flush=True)
sys.exit({code})
"""
    with pytest.raises(ProjectError) as caught:
        launch(script, workers=2)
    assert type(caught.value) is kind
    name = stub.made[0]["metadata"]["name"]
    sentence = (
        f"The loss must be finite; it was nan. ({name}-worker-1 of the training job {name}: exit code {code}, Error)"
    )
    assert str(caught.value) == sentence
    assert f"{name}-worker-1: the end" in said.messages
    assert files(tmp_path / "task") == set()
    assert stub.jobs == {}
    assert left_in_the_store(bucket) == []


def test_the_worker_that_failed_first_is_the_reason_and_not_those_that_lost_it(stub):
    def pod(index, code, second):
        ended = {"exitCode": code, "reason": "Error", "finishedAt": f"2026-11-21T13:00:0{second}Z"}
        labels = {"training.kubeflow.org/replica-index": str(index)}
        return {
            "metadata": {"name": f"job-worker-{index}", "labels": labels},
            "status": {"containerStatuses": [{"name": "tensorflow", "state": {"terminated": ended}}]},
        }

    with cluster.Cluster() as api:
        watch = job_watch.JobWatch(api, "job", 10)
        error = watch._failure([pod(0, 1, 3), pod(1, 3, 2), pod(2, 138, 1)], "Some failed.")
    assert type(error) is GateStopped
    assert str(error) == "Some failed. (job-worker-1 of the training job job: exit code 3, Error)"


@pytest.mark.parametrize("code", [0, 3])
def test_a_log_that_cannot_be_read_does_not_hide_how_the_job_ended(launch, stub, monkeypatch, said, code):
    monkeypatch.setattr(job_watch, "PATIENCE_SECONDS", 20.0)
    ask = cluster.Cluster._ask

    def without_logs(self, method, path, *more, **told):
        if path.endswith("/log"):
            raise cluster.Refused("the node is gone", 500)
        return ask(self, method, path, *more, **told)

    monkeypatch.setattr(cluster.Cluster, "_ask", without_logs)
    if code:
        with pytest.raises(GateStopped, match=r"exit code 3, Error\)"):
            launch("import sys; sys.exit(3)")
    else:
        assert (launch(PUBLISH) / "model_run/training.json").is_file()
    assert "the log of worker 0: the node is gone" in said.messages


def test_a_line_of_a_program_is_one_line_whatever_is_in_it(launch, stub, said):
    launch(r"""print("10 %\r20 %\x85 and more", flush=True)""" + PUBLISH)
    assert "worker 0: 10 %\r20 %\x85 and more" in said.messages


def test_a_worker_that_was_killed_is_started_again(launch, stub, said):
    again = """
import os, pathlib, sys
mark = pathlib.Path(os.environ["HOME"]).parent / "mark"
if not mark.exists():
    mark.write_text("")
    print("epoch 1/2", flush=True)
    os.kill(os.getpid(), 9)
"""
    here = launch(again + PUBLISH)
    assert (here / "model_run/training.json").is_file()
    assert [code for _, _, code in stub.ends] == [137, 0]


def test_an_upload_that_is_killed_in_the_middle_is_no_model_and_the_next_one_is(launch, stub, s3, bucket, tmp_path):
    puts = []

    def before(method, path):
        if method == "PUT" and "/results/" in path:
            puts.append(path)
            if len(puts) == 3:  # of three files and the manifest
                stub.worker(0).process.kill()
                return object_stores.REFUSED
        return None

    s3.before = before
    here = launch(PUBLISH)
    assert len({path.split("/results/")[1].partition("/")[0] for path in puts} - {"manifest.json"}) == 2
    assert [code for _, _, code in stub.ends] == [137, 0]
    assert len(files(here)) == 3
    assert left_in_the_store(bucket) == []


def test_an_upload_that_is_killed_in_the_middle_for_good_gives_no_model(launch, stub, s3, tmp_path):
    def before(method, path):
        if method == "PUT" and path.endswith("training.json"):
            stub.worker(0).process.kill()
            return object_stores.REFUSED
        return None

    s3.before = before
    with pytest.raises(ProjectError, match="may be started again 1 times"):
        launch(PUBLISH, backoffLimit=1)
    assert files(tmp_path / "task") == set()


def test_workers_that_are_killed_again_and_again_end_the_job(launch, stub, said):
    with pytest.raises(ProjectError, match=r"may be started again 2 times; \S+-worker-0 of .* ended with"):
        launch("import os, time; time.sleep(0.3); os._exit(137)", backoffLimit=2)
    assert stub.jobs == {}
    assert len(stub.ends) >= 3


def test_a_job_that_somebody_deletes_fails(launch, stub, tmp_path):
    def delete():
        cluster_stub.wait_until(stub.runs)
        with stub.lock:
            stub.jobs.clear()

    thread = meanwhile(delete)
    with pytest.raises(ProjectError, match="somebody deleted it"):
        launch(SLEEP)
    thread.join()
    assert files(tmp_path / "task") == set()


@pytest.mark.parametrize(
    ("status", "way_out"),
    [
        (400, "Compare the package with the operator's version"),
        (401, "must be one that the cluster knows"),
        (403, "the Role in deploy/training-job.yaml"),
        (404, "must be installed, with Kubeflow's training operator"),
        (409, "Remove what is in the way"),
        (422, "Compare the package with the operator's version"),
    ],
)
def test_an_api_that_refuses_the_job_says_so_in_one_sentence_with_the_way_out(launch, stub, status, way_out):
    stub.fates["POST", "tfjobs"] = [status]
    with pytest.raises(ProjectError) as caught:
        launch(PUBLISH)
    assert f"must make a training job in the namespace team; it refused: {status} tfjobs is refused" in str(
        caught.value
    )
    assert way_out in str(caught.value)
    assert stub.token not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert stub.requests.count("POST /apis/kubeflow.org/v1/namespaces/team/tfjobs") == 1


@pytest.mark.parametrize("missing", sorted(cluster_stub._rules()), ids=" ".join)
def test_each_right_of_the_role_is_needed(launch, stub, monkeypatch, missing, said, bucket):
    monkeypatch.setattr(job_watch, "PATIENCE_SECONDS", 0.5)
    stub._rules = cluster_stub._rules() - {missing}
    verb, resource = missing[2], missing[1]
    try:
        launch(PUBLISH)
    except ProjectError as error:
        told = str(error)
    else:
        told = said.text
    assert f'{resource} is forbidden: User "system:serviceaccount:team:pipeline-runner" cannot {verb} it' in told
    assert "the Role in deploy/training-job.yaml" in told


@pytest.mark.parametrize("answer", [503, 0], ids=["errors", "cut connections"])
def test_an_api_that_is_away_for_a_while_makes_no_difference(launch, stub, said, answer):
    def interrupt():
        cluster_stub.wait_until(stub.runs)
        stub.answer = answer
        cluster_stub.wait_until(lambda: "the API: " in said.text)
        stub.answer = None

    thread = meanwhile(interrupt)
    here = launch("import time; time.sleep(1)" + PUBLISH)
    thread.join()
    assert (here / "model_run/training.json").is_file()
    assert said.text.count("the API: ") == 1
    assert stub.jobs == {}


def test_an_api_that_stays_away_ends_the_task(launch, stub, said, monkeypatch):
    monkeypatch.setattr(job_watch, "PATIENCE_SECONDS", 0.3)

    def interrupt():
        cluster_stub.wait_until(stub.runs)
        stub.answer = 503

    thread = meanwhile(interrupt)
    with pytest.raises(ProjectError, match="it refused: 503 the server is currently unable"):
        launch(SLEEP)
    thread.join()
    assert re.search(r"training job: (\S+) stays: kubectl delete tfjob \1\.", said.text)


def test_an_answer_that_got_lost_makes_no_second_job(launch, stub):
    stub.fates["POST", "tfjobs"] = ["lost"]
    here = launch(PUBLISH)
    assert (here / "model_run/training.json").is_file()
    assert len(stub.made) == 1
    assert stub.jobs == {}


def test_sigterm_removes_the_job(launch, stub, bucket):
    def end():
        cluster_stub.wait_until(stub.runs)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = meanwhile(end)
    with pytest.raises(SystemExit) as caught:
        launch(SLEEP)
    thread.join()
    assert caught.value.code == 143
    assert stub.jobs == {}
    cluster_stub.wait_until(lambda: not stub.pods)
    assert signal.getsignal(signal.SIGTERM) is before
    assert left_in_the_store(bucket) == []


def test_what_a_former_try_left_running_is_removed_first(launch, stub):
    with pytest.MonkeyPatch.context() as patch:  # killed, it removes nothing
        patch.setattr(cluster.Cluster, "delete", lambda self, name: None)
        patch.setattr(job_watch, "UNTOUCHED_SECONDS", 0.1)
        stub.operates = False
        with pytest.raises(ProjectError, match="must take up the job"):
            launch(SLEEP)
    [former] = stub.jobs
    stub.jobs["another-run"] = {
        "metadata": {"name": "another-run", "labels": {"mnist-tfx/run": "another", "mnist-tfx/task": "train"}},
        "spec": {"tfReplicaSpecs": {"Worker": {"replicas": 0}}},
        "status": {"conditions": [{"type": "Failed"}]},
    }
    stub.pods["another-run"] = {}
    for path in (stub.folder.parent / "task").iterdir():
        path.rmdir()
    stub.operates = True
    cluster_stub.wait_until(lambda: stub.pods[former])
    launch(PUBLISH)
    deletes = [request.rpartition("/")[2] for request in stub.requests if request.startswith("DELETE")]
    assert deletes == [former, stub.made[1]["metadata"]["name"]]
    assert list(stub.jobs) == ["another-run"]


def test_no_operator_takes_up_the_job(launch, stub, monkeypatch):
    monkeypatch.setattr(job_watch, "UNTOUCHED_SECONDS", 0.3)
    stub.operates = False
    with pytest.raises(ProjectError, match="training operator must take up the job"):
        launch(SLEEP)
    assert stub.jobs == {}


def test_why_workers_wait_is_said(launch, stub, said):
    stub.unplaced = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."

    def place():
        cluster_stub.wait_until(lambda: "worker-0: waits: " in said.text)
        del stub.secrets["store"]
        stub.unplaced = ""
        cluster_stub.wait_until(lambda: "CreateContainerConfigError" in said.text)
        stub.secrets["store"] = {"id": "a", "key": "b"}

    thread = meanwhile(place)
    launch(PUBLISH)
    thread.join()
    waits = [line.partition("worker-0: ")[2] for line in said.messages if "worker-0: waits" in line]
    assert waits == [
        "waits: Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        'waits: CreateContainerConfigError: secret "store" not found',
    ]


def test_success_without_a_model_is_a_failure(launch, stub, tmp_path):
    with pytest.raises(ProjectError, match="must leave a model and a manifest of it"):
        launch("print('done')")
    assert files(tmp_path / "task") == set()


def test_a_model_that_is_not_what_its_manifest_says_does_not_come_out(launch, stub, tmp_path):
    spoil = """
from components import storage
store, path = storage.connect(sys.argv[-1])
[name] = [name for name in store.find(path) if name.endswith("model.keras")]
store.pipe_file(name, b"model/keras/model.kerat")
"""
    with pytest.raises(ProjectError, match=r"model/keras/model\.keras is another"):
        launch(PUBLISH + spoil)
    assert files(tmp_path / "task") == set()


def test_outside_of_a_cluster_it_is_refused(launch, monkeypatch, bucket, tmp_path):
    monkeypatch.delenv("KFP_POD_NAME", raising=False)
    with pytest.raises(BadInput, match="made by a task of the open-source Kubeflow Pipelines"):
        launch(PUBLISH)


@pytest.mark.parametrize("lacking", ["KUBERNETES_SERVICE_HOST", "token", "ca.crt", "namespace"])
def test_without_a_service_account_it_is_refused(stub, monkeypatch, lacking):
    if lacking.isupper():
        monkeypatch.delenv(lacking)
    else:
        (stub.account / lacking).unlink()
    with pytest.raises(BadInput, match="by a service account whose token lies in"):
        cluster.Cluster()


def test_another_authority_than_the_clusters_is_not_trusted(stub, tmp_path):
    from tests import certificates

    (stub.account / "ca.crt").write_bytes(certificates.write(tmp_path / "other.pem").read_bytes())
    with cluster.Cluster() as api, pytest.raises(cluster.Refused, match=r"it did not \(ConnectError\)"):
        api.jobs("a=b")
    assert stub.requests == []


def test_a_token_that_is_renewed_is_used(stub):
    with cluster.Cluster() as api:
        assert api.jobs("a=b") == []
        (stub.account / "token").write_text("renewed")
        with pytest.raises(cluster.Refused, match="401 Unauthorized"):
            api.jobs("a=b")
        stub.token = "renewed"
        assert api.jobs("a=b") == []
        assert api.account() == ""
