# SPDX-License-Identifier: Apache-2.0
"""A package whose training is a job of several workers: what is another in it, and the rules about it, each broken."""

from __future__ import annotations

import copy
import json

import pytest
import yaml

import runner_kfp
from pipeline import code_digest
from pipeline.kubeflow import checks, resources
from tests.kubeflow import job_check, packages

CLUSTER = (
    "--workers", "3", "--gpus-per-worker", "2", "--gpu-image", "b:2", "--gpu-resource", "amd.com/gpu",
    "--node-selector", "accelerator=gpu", "--toleration", "team=vision:NoSchedule", "--shared-memory", "2Gi",
    "--memory", "train=8Gi:16Gi", "--pvc", "images=/data", "--env", "AWS_REGION=x", "--secret", "s3:key=AWS_KEY",
)  # fmt: skip


@pytest.fixture(scope="module")
def text():
    return packages.text(*packages.DIGITS, *CLUSTER)


def inner(spec):
    return spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]


def told(spec, task="train"):
    return inner(spec)[task]["inputs"]["parameters"]


def config(spec, task="train"):
    return json.loads(told(spec, task)["custom_config"]["runtimeValue"]["constant"])


def pod(job):
    return job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]


def complete(job):
    """As the launcher does."""
    made = copy.deepcopy(job)
    made["metadata"] = {"name": "train-1", "namespace": job_check.NAMESPACE, "labels": {}}
    return made


def test_the_workers_have_what_the_task_would_have_had(text):
    spec, kubernetes = yaml.safe_load_all(text)
    job = config(spec)["training_job"]
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "TFJob")
    assert job["spec"]["successPolicy"] == "AllWorkers"
    assert job["spec"]["runPolicy"] == {
        "cleanPodPolicy": "Running", "backoffLimit": 10, "activeDeadlineSeconds": 86400,
        "ttlSecondsAfterFinished": 3600,
    }  # fmt: skip
    assert set(job["spec"]["tfReplicaSpecs"]) == {"Worker"}
    worker = job["spec"]["tfReplicaSpecs"]["Worker"]
    assert (worker["replicas"], worker["restartPolicy"]) == (3, "ExitCode")
    assert pod(job) == {
        "containers": [
            {
                "name": "tensorflow",
                "image": "b:2",
                "command": ["python", "-m", "pipeline.kubeflow.training_job.worker"],
                "args": ["--code_digest", code_digest.of_project()[:16]],
                "env": [
                    {"name": "AWS_ENDPOINT_URL", "value": "http://seaweedfs.kubeflow:8333"},
                    {"name": "AWS_REGION", "value": "x"},
                    _of_secret("AWS_ACCESS_KEY_ID", "mlpipeline-minio-artifact", "accesskey"),
                    _of_secret("AWS_SECRET_ACCESS_KEY", "mlpipeline-minio-artifact", "secretkey"),
                    _of_secret("AWS_KEY", "s3", "key"),
                ],
                "resources": {
                    "requests": {"cpu": "1", "memory": "8Gi"},
                    "limits": {"cpu": "4", "memory": "16Gi", "amd.com/gpu": "2"},
                },
                "volumeMounts": [
                    {"name": "volume-0", "mountPath": "/data"}, {"name": "dshm", "mountPath": "/dev/shm"},
                ],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "nodeSelector": {"accelerator": "gpu"},
        "tolerations": [{"key": "team", "operator": "Equal", "value": "vision", "effect": "NoSchedule"}],
        "volumes": [
            {"name": "volume-0", "persistentVolumeClaim": {"claimName": "images"}},
            {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
        ],
    }  # fmt: skip
    job_check.check(complete(job))
    launcher = spec["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert launcher["image"] == packages.IMAGE
    assert launcher["resources"] == {
        "resourceCpuRequest": "250m", "resourceCpuLimit": "1", "resourceMemoryRequest": "1Gi",
        "resourceMemoryLimit": "2Gi",
    }  # fmt: skip
    alone = {"nodeSelector", "tolerations", "emptyDirMounts"}
    pods = kubernetes["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert not [name for name, one in pods.items() if alone & set(one)]
    assert (config(spec)["accelerator"], config(spec)["gpus"]) == ("gpu", 2)


def _of_secret(variable, name, key):
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def test_but_for_the_training_the_package_is_the_same():
    plain, plain_kubernetes = packages.documents(*packages.DIGITS)
    spec, kubernetes = packages.documents(*packages.DIGITS, "--workers", "2", "--gpus-per-worker", "0")
    job = config(spec)["training_job"]
    assert pod(job)["containers"][0]["image"] == packages.IMAGE
    assert set(pod(job)["containers"][0]["resources"]["limits"]) == {"cpu", "memory"}
    changed = config(spec)
    assert changed.pop("training_job")
    assert changed["accelerator"] == "cpu"
    assert changed == config(plain) | {"accelerator": "cpu", "gpus": 1}
    assert told(spec)["run_fn"]["runtimeValue"]["constant"] == "pipeline.kubeflow.training_job.tfjob.run_fn"
    for one in (plain, spec):
        del told(one)["custom_config"], told(one)["run_fn"]
        del one["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"]
    assert spec == plain
    assert kubernetes == plain_kubernetes
    assert "training_job" not in packages.text(*packages.DIGITS)


def test_a_worker_has_one_accelerator_unless_said_otherwise():
    spec, _ = packages.documents(*packages.DIGITS, "--workers", "1")
    [container] = pod(config(spec)["training_job"])["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", "2", "--gpus", "1"), "leave --gpus out"),
        (("--gpus-per-worker", "1"), "say how many with --workers N"),
        (("--workers", "0"), "--workers takes numbers from 1"),
        (("--workers", "2", "--gpus-per-worker", "-1"), "--gpus-per-worker from 0"),
        (("--workers", "2", "--gpus-per-worker", "0", "--gpu-image", "b"), "--gpu-image is for the training on"),
    ],
    ids=lambda value: "=".join(value) if isinstance(value, tuple) else "",
)
def test_what_makes_no_sense_is_refused_in_one_line(arguments, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert runner_kfp.main(["compile", "--image", "a", *arguments]) == 2
    said = capfd.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_gpus_that_a_config_file_asks_for_are_not_left_out(tmp_path, capfd):
    (tmp_path / "config.toml").write_text('accelerator = "gpu"\n')
    told = ["--workers", "2", "--gpus-per-worker", "0", "--output", str(tmp_path / "pipeline.yaml")]
    assert runner_kfp.main(["compile", "--image", "a", "--config", str(tmp_path / "config.toml"), *told]) == 2
    assert "the config file asks for GPUs" in capfd.readouterr().err


def test_gpus_of_a_config_file_are_the_workers_and_a_search_has_none(tmp_path):
    (tmp_path / "config.toml").write_text("gpus = 2\n")
    flags = ("--workers", "2", "--gpus-per-worker", "2", "--tune", "3", "--config", str(tmp_path / "config.toml"))
    spec, _ = packages.documents(*packages.DIGITS, *flags)
    devices = {task: (config(spec, task)["accelerator"], config(spec, task)["gpus"]) for task in ("tune", "train")}
    assert devices == {"tune": ("auto", 1), "train": ("gpu", 2)}


# name -> the change of the job, the rule that it breaks, and a part of what is said
BROKEN = {
    "secret": (
        lambda job: pod(job)["containers"][0]["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "hunter2"}),
        "secret", "received a value of AWS_SECRET_ACCESS_KEY",
    ),
    "local path": (
        lambda job: pod(job)["containers"][0]["args"].append("/home/me/mnist"),
        "local-path", "received '/home/me/mnist'",
    ),
    "image": (lambda job: pod(job)["containers"][0].update(image="MNIST"), "image", "received 'MNIST'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_must_not_be_in_a_job_is_found_in_it(text, name):
    """The job is JSON in a text of the package."""
    change, rule, reason = BROKEN[name]
    spec, kubernetes = yaml.safe_load_all(text)
    assert checks.check(text) == []
    changed = config(spec)
    change(changed["training_job"])
    told(spec)["custom_config"]["runtimeValue"]["constant"] = json.dumps(changed)
    findings = checks.check("\n---\n".join(map(json.dumps, (spec, kubernetes))))
    assert [finding for finding in findings if finding.rule == rule and reason in finding.message], findings
    assert "hunter2" not in str(findings)


@pytest.mark.parametrize(
    "arguments", [CLUSTER, ("--workers", "1"), ("--workers", "2", "--gpus-per-worker", "0")], ids=("all", "one", "cpu")
)
def test_every_job_takes_little_and_ends(arguments):
    """What Kubernetes would drop or refuse, or what nobody should run, is in no job that is compiled."""
    spec, _ = packages.documents(*packages.DIGITS, *arguments)
    job = config(spec)["training_job"]
    job_check.check(
        complete(job)
    )  # fields of CRD and pod models, one container of the name that the operator looks for
    policy, replicas = job["spec"]["runPolicy"], job["spec"]["tfReplicaSpecs"]
    assert min(policy[name] for name in ("activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished")) > 0
    assert (set(replicas), replicas["Worker"]["restartPolicy"]) == ({"Worker"}, "ExitCode")
    [container] = pod(job)["containers"]
    settings = pod(job)["securityContext"] | container["securityContext"]
    assert (settings["runAsNonRoot"], settings["allowPrivilegeEscalation"]) == (True, False)
    assert settings["capabilities"] == {"drop": ["ALL"]}
    assert not {"runAsUser", "privileged"} & set(settings)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod(job))
    assert not [volume for volume in pod(job).get("volumes", ()) if "hostPath" in volume]
    assert pod(job)["automountServiceAccountToken"] is False
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    for name in ("cpu", "memory"):
        assert resources.amount(name, requests[name]) <= resources.amount(name, limits[name])
    launcher = spec["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert "accelerator" not in launcher["resources"]
    assert container["args"][container["args"].index("--code_digest") + 1] in launcher["args"]
    assert told(spec)["run_fn"]["runtimeValue"]["constant"] == "pipeline.kubeflow.training_job.tfjob.run_fn"
