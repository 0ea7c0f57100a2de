# SPDX-License-Identifier: Apache-2.0
"""The training job of a package: a TFJob of Kubeflow's training operator, without the fields that depend on the run.

Source of the fields: kubeflow/training-operator 1.7 to 1.9 (pkg/apis/kubeflow.org/v1, pkg/controller.v1).
"""

from __future__ import annotations

import json
from typing import Any

from components.train.devices import CPU, GPU, Compute
from pipeline.kubeflow.resources import TRAIN, Needs
from pipeline.kubeflow.training_job import exchange

RUN_FN = "pipeline.kubeflow.training_job.tfjob.run_fn"
COMMAND = ("python", "-m", "pipeline.kubeflow.training_job.worker")
API_VERSION, KIND, REPLICA, CONTAINER = "kubeflow.org/v1", "TFJob", "Worker", "tensorflow"
# Restarts of a worker; limit of a training; lifetime of a finished job that is not removed.
RESTARTS, DEADLINE_SECONDS, RETENTION_SECONDS = 10, 24 * 3600, 3600

Json = dict[str, Any]


def launch(task: Json, needs: Needs, image: str, digest: str) -> None:
    """Makes a compiled training task launch a training job.

    Args:
        task: of the PipelineSpec; two of its parameters are changed.
        needs: the workers' resources.
        image: the workers' image.
        digest: of the code that the image must have.
    """
    parameters = task["inputs"]["parameters"]
    config = json.loads(parameters["custom_config"]["runtimeValue"]["constant"])
    compute = Compute.of(GPU, needs.gpus_per_worker) if needs.gpus_per_worker else Compute.of(CPU)
    config |= {name: compute.to_config()[name] for name in ("accelerator", "gpus")}
    config[exchange.MANIFEST] = build_manifest(needs, image, digest)
    parameters["custom_config"]["runtimeValue"]["constant"] = json.dumps(config, sort_keys=True)
    parameters["run_fn"]["runtimeValue"]["constant"] = RUN_FN


def build_manifest(needs: Needs, image: str, digest: str) -> Json:
    """Returns the TFJob."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "spec": {
            "runPolicy": {
                # Pods that have ended remain, so that the log of a failed one can be read.
                "cleanPodPolicy": "Running",
                "backoffLimit": RESTARTS,
                "activeDeadlineSeconds": DEADLINE_SECONDS,
                "ttlSecondsAfterFinished": RETENTION_SECONDS,
            },
            "successPolicy": "AllWorkers",
            "tfReplicaSpecs": {
                REPLICA: {
                    "replicas": needs.workers,
                    # Restarts workers with exit codes from 128: they or a peer were killed.
                    "restartPolicy": "ExitCode",
                    "template": {
                        # A sidecar proxy would outlive the worker and intercept its peers' connections.
                        "metadata": {"labels": {"sidecar.istio.io/inject": "false"}},
                        "spec": _pod(needs, image, digest),
                    },
                }
            },
        },
    }


def _pod(needs: Needs, image: str, digest: str) -> Json:
    share = needs.shares[TRAIN]
    limits = {"cpu": share.cpu[1], "memory": share.memory[1]}
    if needs.gpus_per_worker:
        limits[needs.gpu_resource] = str(needs.gpus_per_worker)
    env: list[Json] = [{"name": name, "value": value} for name, value in sorted(needs.env.items())]
    for secret, keys in sorted(needs.secrets.items()):
        for key, variable in sorted(keys.items()):
            env.append({"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    volumes: list[Json] = []
    mounts: list[Json] = []
    for number, (claim, path) in enumerate(sorted(needs.volumes.items())):
        volumes.append({"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": f"volume-{number}", "mountPath": path})
    if needs.shared_memory:
        volumes.append({"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": needs.shared_memory}})
        mounts.append({"name": "dshm", "mountPath": "/dev/shm"})
    container = {
        "name": CONTAINER,  # required by the operator
        "image": image,
        "command": list(COMMAND),
        "args": ["--code_digest", digest],
        "env": env,
        "resources": {"requests": {"cpu": share.cpu[0], "memory": share.memory[0]}, "limits": limits},
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "containers": [{name: value for name, value in container.items() if value}],
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        **({"nodeSelector": dict(needs.node_selector)} if needs.node_selector else {}),
        **({"tolerations": [dict(toleration) for toleration in needs.tolerations]} if needs.tolerations else {}),
        **({"volumes": volumes} if volumes else {}),
    }
