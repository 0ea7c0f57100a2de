# SPDX-License-Identifier: Apache-2.0
"""The training job of a package: a TFJob of Kubeflow's training operator, complete but for what is known at run time.

Its fields were read in kubeflow/training-operator 1.7 to 1.9 (pkg/apis/kubeflow.org/v1, pkg/controller.v1).
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
# How often a worker may be started again; how long a training may take; how long a job stays that nobody removes.
RESTARTS, DEADLINE_SECONDS, LEFT_SECONDS = 10, 24 * 3600, 3600

Json = dict[str, Any]


def launch(task: Json, needs: Needs, image: str, digest: str) -> None:
    """Changes a compiled training task so that a job of workers does its work.

    Args:
        task: of the PipelineSpec; it gets other values of two parameters.
        needs: what the workers need.
        image: theirs.
        digest: of the code that the image must hold.
    """
    given = task["inputs"]["parameters"]
    config = json.loads(given["custom_config"]["runtimeValue"]["constant"])
    compute = Compute.of(GPU, needs.gpus_per_worker) if needs.gpus_per_worker else Compute.of(CPU)
    config |= {name: compute.to_config()[name] for name in ("accelerator", "gpus")}
    config[exchange.MANIFEST] = build_manifest(needs, image, digest)
    given["custom_config"]["runtimeValue"]["constant"] = json.dumps(config, sort_keys=True)
    given["run_fn"]["runtimeValue"]["constant"] = RUN_FN


def build_manifest(needs: Needs, image: str, digest: str) -> Json:
    """The TFJob."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "spec": {
            "runPolicy": {
                # Those that ended stay, so that the log of one that failed can be read.
                "cleanPodPolicy": "Running",
                "backoffLimit": RESTARTS,
                "activeDeadlineSeconds": DEADLINE_SECONDS,
                "ttlSecondsAfterFinished": LEFT_SECONDS,
            },
            "successPolicy": "AllWorkers",
            "tfReplicaSpecs": {
                REPLICA: {
                    "replicas": needs.workers,
                    # Again where the code is 128 or above: killed, or another one was.
                    "restartPolicy": "ExitCode",
                    "template": {
                        # A proxy beside the worker would outlive it, and stand between the workers.
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
        "name": CONTAINER,  # the operator looks for this one
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
        **({"tolerations": [dict(one) for one in needs.tolerations]} if needs.tolerations else {}),
        **({"volumes": volumes} if volumes else {}),
    }
