# SPDX-License-Identifier: Apache-2.0
"""The tasks' needs of the cluster: processors, memory, accelerators, nodes, volumes, secrets, environment."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any

from components.errors import BadInput

EVERY_TASK = "all"
# Tasks that train networks, and so use an accelerator.
TRAIN = "train"
ON_ACCELERATOR = frozenset({"tune", TRAIN})
# Their failures are decisions, which a retry would repeat; a second push would find the model of the first.
NEVER_RETRIED = frozenset({"data-gate", "push", "report"})
# They read or change state outside of their inputs, which the server's cache does not see.
NEVER_CACHED = frozenset({"ingest", "baseline", *NEVER_RETRIED})
# The storage that Kubeflow Pipelines installs, as in its manifests of 2.15 to 2.17, at the only port that their network
# policy opens.
KUBEFLOW_ENV = {"AWS_ENDPOINT_URL": "http://seaweedfs.kubeflow:8333"}
KUBEFLOW_SECRET = "mlpipeline-minio-artifact"
KUBEFLOW_KEYS = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
_SHARED_MEMORY = {"volumeName": "dshm", "mountPath": "/dev/shm"}

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|Ki|Mi|Gi|Ti|k|M|G|T)?")
_UNITS = {
    "m": Decimal("0.001"), "": Decimal(1), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9),
    "T": Decimal(10**12), "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Share:
    """Processors and memory of one task, as Kubernetes writes them.

    Attributes:
        cpu: request and limit.
        memory: request and limit.
    """

    cpu: tuple[str, str]
    memory: tuple[str, str]


# With these requests each task fits on a node with two processors and 8 GiB. The limits are twice the peaks with MNIST,
# and enough for ten times as many images (docs/kubeflow.md).
_SMALL = Share(("250m", "1"), ("1Gi", "2Gi"))
_MIDDLE = Share(("500m", "2"), ("1Gi", "3Gi"))
_LARGE = Share(("1", "2"), ("2Gi", "4Gi"))
_TRAINING = Share(("1", "4"), ("2Gi", "4Gi"))
_ACCELERATED = Share(("1", "4"), ("4Gi", "8Gi"))
# A task that launches a training job only watches it.
LAUNCHER = _SMALL
SHARES: dict[str, Share] = {
    "ingest": _MIDDLE,
    "baseline": _SMALL,
    "statistics": _LARGE,
    "image-check": _LARGE,
    "data-check": _SMALL,
    "data-gate": _SMALL,
    "transform": _MIDDLE,
    "tune": _TRAINING,
    "train": _TRAINING,
    "infra-check": _MIDDLE,
    "evaluate": _LARGE,
    "push": _SMALL,
    "report": _MIDDLE,
}


@dataclasses.dataclass(frozen=True)
class Needs:
    """The tasks' needs of the cluster.

    Attributes:
        shares: of every task.
        gpus: number of accelerators of each task in `ON_ACCELERATOR`.
        workers: number of workers of a training job, each with the share of `TRAIN`; 0: the task itself trains. With
            workers, the fields for nodes, taints and shared memory apply to them instead of the tasks.
        gpus_per_worker: number of accelerators of each worker.
        gpu_resource: name of the accelerators on the nodes.
        node_selector: labels of the nodes for tasks in `ON_ACCELERATOR`.
        tolerations: taints of those nodes, as Kubernetes writes them.
        shared_memory: size of their /dev/shm; empty: that of the node, 64 MiB.
        retries: number of retries of a task by the server, and of a step within the task.
        volumes: name of a volume claim -> its mount path in every task.
        secrets: name of a secret -> its key -> environment variable of every task.
        env: environment variables of every task.
    """

    shares: Mapping[str, Share] = dataclasses.field(default_factory=lambda: SHARES)
    gpus: int = 0
    workers: int = 0
    gpus_per_worker: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tolerations: tuple[Mapping[str, str], ...] = ()
    shared_memory: str = ""
    retries: int = 2
    volumes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def launches(self, task: str) -> bool:
        """Returns whether a task launches a training job."""
        return self.workers > 0 and task == TRAIN

    def container(self, task: str) -> dict[str, Any]:
        """Returns resources and environment for the executor's container in the PipelineSpec."""
        share = LAUNCHER if self.launches(task) else self.shares[task]
        resources: dict[str, Any] = {
            "resourceCpuRequest": share.cpu[0],
            "resourceCpuLimit": share.cpu[1],
            "resourceMemoryRequest": share.memory[0],
            "resourceMemoryLimit": share.memory[1],
        }
        if self.gpus and task in ON_ACCELERATOR:
            resources["accelerator"] = {"resourceType": self.gpu_resource, "resourceCount": str(self.gpus)}
        env = [{"name": name, "value": value} for name, value in sorted(self.env.items())]
        return {"resources": resources, **({"env": env} if env else {})}

    def task(self, task: str) -> dict[str, Any]:
        """Returns the retry policy for the task in the PipelineSpec."""
        if not self.retries or task in NEVER_RETRIED:
            return {}
        backoff = {"backoffDuration": "30s", "backoffFactor": 2.0, "backoffMaxDuration": "600s"}
        return {"retryPolicy": {"maxRetryCount": self.retries, **backoff}}

    def pod(self, task: str) -> dict[str, Any]:
        """Returns the executor's part of the Kubernetes document."""
        pod: dict[str, Any] = {}
        if self.secrets:
            pod["secretAsEnv"] = [
                {
                    # Without the `secretNameParameter` that kfp-kubernetes adds: every server reads this field.
                    "secretName": name,
                    "keyToEnv": [{"secretKey": key, "envVar": env} for key, env in sorted(keys.items())],
                }
                for name, keys in sorted(self.secrets.items())
            ]
        if self.volumes:
            pod["pvcMount"] = [
                {"constant": name, "pvcNameParameter": {"runtimeValue": {"constant": name}}, "mountPath": path}
                for name, path in sorted(self.volumes.items())
            ]
        if task in ON_ACCELERATOR and not self.workers:
            if self.node_selector:
                pod["nodeSelector"] = {"labels": dict(self.node_selector)}
            if self.tolerations:
                pod["tolerations"] = [dict(toleration) for toleration in self.tolerations]
            if self.shared_memory:
                # Not `enabledSharedMemory`: it is in the format, but no server reads it.
                pod["emptyDirMounts"] = [
                    {**_SHARED_MEMORY, "medium": "Memory", "sizeLimit": self.shared_memory},
                ]
        return pod


def shares(
    cpu: Iterable[str], memory: Iterable[str], accelerated: Collection[str] = (), shared_memory: str = ""
) -> dict[str, Share]:
    """Reads `TASK=REQUEST:LIMIT` for processors and memory; a task's own value overrides that of TASK `all`.

    Args:
        cpu: values for processors.
        memory: values for memory.
        accelerated: tasks that get accelerators.
        shared_memory: size of the /dev/shm of the training, which counts as its memory; "" for none.

    Raises:
        BadInput: an unknown task, no quantity of Kubernetes, or a request above the limit.
    """
    by_task = SHARES | dict.fromkeys(accelerated, _ACCELERATED)
    if shared_memory:
        for task in ON_ACCELERATOR:
            request, limit = by_task[task].memory
            total = sum(amount("--shared-memory", size) for size in (limit, shared_memory))
            by_task[task] = dataclasses.replace(by_task[task], memory=(request, f"{math.ceil(total / 2**20)}Mi"))
    for flag, field, texts in (("--cpu", "cpu", cpu), ("--memory", "memory", memory)):
        for text in sorted(texts, key=lambda text: not text.startswith(f"{EVERY_TASK}=")):
            name, _, amounts = text.partition("=")
            request, _, limit = amounts.partition(":")
            limit = limit or request
            if name != EVERY_TASK and name not in by_task:
                names = ", ".join((EVERY_TASK, *by_task))
                raise BadInput(f"{flag} takes TASK=REQUEST:LIMIT, where TASK is one of {names}; received {text!r}")
            if not amount(flag, request) <= amount(flag, limit):
                raise BadInput(f"{flag} takes a request that is at most the limit; received {text!r}")
            for task in by_task if name == EVERY_TASK else [name]:
                by_task[task] = dataclasses.replace(by_task[task], **{field: (request, limit)})
    return by_task


def amount(flag: str, text: str) -> Decimal:
    """Reads a quantity of Kubernetes, such as 500m or 4Gi.

    Raises:
        BadInput: it is not a quantity, or 0.
    """
    match = _QUANTITY.fullmatch(text)
    value = Decimal(match[1]) * _UNITS[match[2] or ""] if match else Decimal(0)
    if value <= 0:
        raise BadInput(f"{flag} takes quantities above 0, such as 500m or 2 processors or 4Gi of memory; not {text!r}")
    return value
