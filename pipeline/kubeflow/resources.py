# SPDX-License-Identifier: Apache-2.0
"""What the tasks need of the cluster: processors, memory, accelerators, nodes, volumes, secrets, environment."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any

from components.errors import BadInput

EVERY_TASK = "all"
# They train networks, so that an accelerator is of use.
TRAIN = "train"
ON_ACCELERATOR = frozenset({"tune", TRAIN})
# What they do not pass is a decision, and the same a minute later; a second push would find the first one's model.
NEVER_RETRIED = frozenset({"data-gate", "push", "report"})
# What they read or change lies outside of their inputs, so that the server's cache would be blind to it.
NEVER_CACHED = frozenset({"ingest", "baseline", *NEVER_RETRIED})
# The storage of Kubeflow Pipelines' own installation, as its manifests of 2.15 to 2.17 name it, at the one port that
# their network policy opens.
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


# Requests let each task run on a node with two processors and 8 GiB. Limits are twice what was measured with MNIST, and
# more than ten times as many images take (docs/kubeflow.md).
_SMALL = Share(("250m", "1"), ("1Gi", "2Gi"))
_MIDDLE = Share(("500m", "2"), ("1Gi", "3Gi"))
_LARGE = Share(("1", "2"), ("2Gi", "4Gi"))
_TRAINING = Share(("1", "4"), ("2Gi", "4Gi"))
_ACCELERATED = Share(("1", "4"), ("4Gi", "8Gi"))
# Of a task that has workers train: it looks on.
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
    """What the tasks need of the cluster.

    Attributes:
        shares: of every task.
        gpus: how many accelerators each task of `ON_ACCELERATOR` gets.
        workers: how many workers train in the place of the task `TRAIN`, each with what is said here of it; 0: the task
            does. Where they do, nodes, taints and shared memory are theirs.
        gpus_per_worker: accelerators of each.
        gpu_resource: their name on the nodes.
        node_selector: labels of the nodes for the same tasks.
        tolerations: taints of those nodes, as Kubernetes writes them.
        shared_memory: size of their /dev/shm; empty: that of the node, 64 MiB.
        retries: how often a task is tried again, by the server and within the task.
        volumes: name of a volume claim -> where every task finds it.
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
        """Whether workers do the work of a task."""
        return self.workers > 0 and task == TRAIN

    def container(self, task: str) -> dict[str, Any]:
        """Resources and environment, for the executor's container in the PipelineSpec."""
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
        """The retry policy, for the task in the PipelineSpec."""
        if not self.retries or task in NEVER_RETRIED:
            return {}
        backoff = {"backoffDuration": "30s", "backoffFactor": 2.0, "backoffMaxDuration": "600s"}
        return {"retryPolicy": {"maxRetryCount": self.retries, **backoff}}

    def pod(self, task: str) -> dict[str, Any]:
        """The executor's part of the Kubernetes document."""
        pod: dict[str, Any] = {}
        if self.secrets:
            pod["secretAsEnv"] = [
                {
                    # Not by `secretNameParameter` too, as kfp-kubernetes writes it: every server reads this one.
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
                pod["tolerations"] = [dict(one) for one in self.tolerations]
            if self.shared_memory:
                # Not `enabledSharedMemory`, which the format knows and no server reads.
                pod["emptyDirMounts"] = [
                    {**_SHARED_MEMORY, "medium": "Memory", "sizeLimit": self.shared_memory},
                ]
        return pod


def shares(
    cpu: Iterable[str], memory: Iterable[str], accelerated: Collection[str] = (), shared_memory: str = ""
) -> dict[str, Share]:
    """Reads `TASK=REQUEST:LIMIT` for processors and for memory; TASK may be `all`, and a task's own goes over it.

    Args:
        cpu: what was given for processors.
        memory: the same for memory.
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
    for flag, field, given in (("--cpu", "cpu", cpu), ("--memory", "memory", memory)):
        for text in sorted(given, key=lambda one: not one.startswith(f"{EVERY_TASK}=")):
            name, _, amounts = text.partition("=")
            request, _, limit = amounts.partition(":")
            limit = limit or request
            if name != EVERY_TASK and name not in by_task:
                known = ", ".join((EVERY_TASK, *by_task))
                raise BadInput(f"{flag} takes TASK=REQUEST:LIMIT with a TASK of {known}; received {text!r}")
            if not amount(flag, request) <= amount(flag, limit):
                raise BadInput(f"{flag} takes a request that is at most the limit; received {text!r}")
            for task in by_task if name == EVERY_TASK else [name]:
                by_task[task] = dataclasses.replace(by_task[task], **{field: (request, limit)})
    return by_task


def amount(flag: str, text: str) -> Decimal:
    """Reads a quantity of Kubernetes, such as 500m or 4Gi.

    Raises:
        BadInput: it is none, or 0.
    """
    match = _QUANTITY.fullmatch(text)
    value = Decimal(match[1]) * _UNITS[match[2] or ""] if match else Decimal(0)
    if value <= 0:
        raise BadInput(f"{flag} takes quantities above 0, such as 500m or 2 processors or 4Gi of memory; not {text!r}")
    return value
