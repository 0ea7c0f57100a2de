# SPDX-License-Identifier: Apache-2.0
"""Packages with a training job: their difference from other packages, and the rules for the job."""

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


def parameters(spec, task="train"):
    return inner(spec)[task]["inputs"]["parameters"]


def config(spec, task="train"):
    return json.loads(parameters(spec, task)["custom_config"]["runtimeValue"]["constant"])


def pod(job):
    return job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]


def complete(job):
    """Adds the metadata like the launcher."""
    job = copy.deepcopy(job)
    job["metadata"] = {"name": "train-1", "namespace": job_check.NAMESPACE, "labels": {}}
    return job


def test_the_workers_get_the_resources_of_the_task(text):
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
                    secret_variable("AWS_ACCESS_KEY_ID", "mlpipeline-minio-artifact", "accesskey"),
                    secret_variable("AWS_SECRET_ACCESS_KEY", "mlpipeline-minio-artifact", "secretkey"),
                    secret_variable("AWS_KEY", "s3", "key"),
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
    accelerated = {"nodeSelector", "tolerations", "emptyDirMounts"}
    pods = kubernetes["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert not [name for name, executor in pods.items() if accelerated & set(executor)]
    assert (config(spec)["accelerator"], config(spec)["gpus"]) == ("gpu", 2)


def secret_variable(variable, name, key):
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def test_only_the_training_task_differs():
    plain, plain_kubernetes = packages.documents(*packages.DIGITS)
    spec, kubernetes = packages.documents(*packages.DIGITS, "--workers", "2", "--gpus-per-worker", "0")
    job = config(spec)["training_job"]
    assert pod(job)["containers"][0]["image"] == packages.IMAGE
    assert set(pod(job)["containers"][0]["resources"]["limits"]) == {"cpu", "memory"}
    changed = config(spec)
    assert changed.pop("training_job")
    assert changed["accelerator"] == "cpu"
    assert changed == config(plain) | {"accelerator": "cpu", "gpus": 1}
    assert parameters(spec)["run_fn"]["runtimeValue"]["constant"] == "pipeline.kubeflow.training_job.tfjob.run_fn"
    for document in (plain, spec):
        del parameters(document)["custom_config"], parameters(document)["run_fn"]
        del document["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"]
    assert spec == plain
    assert kubernetes == plain_kubernetes
    assert "training_job" not in packages.text(*packages.DIGITS)


def test_a_worker_has_one_accelerator_by_default():
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
def test_contradictory_flags_are_refused_in_one_line(arguments, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert runner_kfp.main(["compile", "--image", "a", *arguments]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_gpus_of_a_config_file_without_gpus_per_worker_are_refused(tmp_path, capfd):
    (tmp_path / "config.toml").write_text('accelerator = "gpu"\n')
    flags = ["--workers", "2", "--gpus-per-worker", "0", "--output", str(tmp_path / "pipeline.yaml")]
    assert runner_kfp.main(["compile", "--image", "a", "--config", str(tmp_path / "config.toml"), *flags]) == 2
    assert "the config file asks for GPUs" in capfd.readouterr().err


def test_gpus_of_a_config_file_go_to_the_workers_and_not_to_the_search(tmp_path):
    (tmp_path / "config.toml").write_text("gpus = 2\n")
    flags = ("--workers", "2", "--gpus-per-worker", "2", "--tune", "3", "--config", str(tmp_path / "config.toml"))
    spec, _ = packages.documents(*packages.DIGITS, *flags)
    devices = {task: (config(spec, task)["accelerator"], config(spec, task)["gpus"]) for task in ("tune", "train")}
    assert devices == {"tune": ("auto", 1), "train": ("gpu", 2)}


# name -> change of the job, broken rule, part of the finding
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
def test_a_job_that_breaks_a_rule_is_a_finding(text, name):
    """The job is JSON inside of a parameter."""
    change, rule, reason = BROKEN[name]
    spec, kubernetes = yaml.safe_load_all(text)
    assert checks.check(text) == []
    changed = config(spec)
    change(changed["training_job"])
    parameters(spec)["custom_config"]["runtimeValue"]["constant"] = json.dumps(changed)
    findings = checks.check("\n---\n".join(map(json.dumps, (spec, kubernetes))))
    assert [finding for finding in findings if finding.rule == rule and reason in finding.message], findings
    assert "hunter2" not in str(findings)


@pytest.mark.parametrize(
    "arguments",
    [CLUSTER, ("--workers", "1"), ("--workers", "2", "--gpus-per-worker", "0")],
    ids=("all flags", "one worker", "cpu"),
)
def test_every_job_is_valid_restricted_and_limited(arguments):
    """No compiled job has fields that Kubernetes would drop, more rights than needed, or no end."""
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
    assert parameters(spec)["run_fn"]["runtimeValue"]["constant"] == "pipeline.kubeflow.training_job.tfjob.run_fn"
