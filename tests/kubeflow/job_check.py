# SPDX-License-Identifier: Apache-2.0
"""What the Kubernetes API and the training operator's webhook refuse of a TFJob, or would make another one of.

After the CRD and pkg/webhooks of kubeflow/training-operator 1.7 to 1.9, and for pods the models of `kubernetes`.
"""

from __future__ import annotations

import re
from typing import Any

NAMESPACE = "team"
NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
# Field -> its type, or the values that it may have; of the job, without what is in a pod.
SPEC = {"runPolicy": dict, "successPolicy": {"", "AllWorkers"}, "tfReplicaSpecs": dict, "enableDynamicWorker": bool}
RUN_POLICY = {
    "cleanPodPolicy": {"None", "Running", "All"}, "ttlSecondsAfterFinished": int, "activeDeadlineSeconds": int,
    "backoffLimit": int, "schedulingPolicy": dict, "suspend": bool,
}  # fmt: skip
REPLICA = {"replicas": int, "restartPolicy": {"Always", "OnFailure", "Never", "ExitCode"}, "template": dict}

Json = dict[str, Any]


class Refused(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def check(job: Json) -> None:
    """Refuses a job that the API, or the operator's webhook, would refuse or make another one of."""
    _fields(job, {"apiVersion": {"kubeflow.org/v1"}, "kind": {"TFJob"}, "metadata": dict, "spec": dict}, "the job")
    metadata, spec = job["metadata"], job["spec"]
    if not NAME.fullmatch(metadata.get("name", "")):
        raise Refused(422, f"metadata.name: Invalid value: {metadata.get('name')!r}: a DNS-1035 label")
    if metadata.get("namespace") != NAMESPACE:
        raise Refused(400, "the namespace of the object does not match that of the request")
    for owner in metadata.get("ownerReferences", ()):
        if not all(owner.get(key) for key in ("apiVersion", "kind", "name", "uid")):
            raise Refused(422, "metadata.ownerReferences: Required value")
        if owner.get("blockOwnerDeletion"):  # with the admission plugin that asks for it
            raise Refused(
                403, "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't update"
            )
    _fields(spec, SPEC, "spec")
    _fields(spec.get("runPolicy", {}), RUN_POLICY, "spec.runPolicy")
    replicas = spec.get("tfReplicaSpecs")
    if not replicas or set(replicas) - {"Worker", "Chief", "PS", "Master", "Evaluator"}:
        raise Refused(422, "spec.tfReplicaSpecs: must be required")
    for kind, replica in replicas.items():
        _fields(replica, REPLICA, f"spec.tfReplicaSpecs.{kind}")
        template = replica["template"]
        _pod_fields(template, "V1PodTemplateSpec", f"spec.tfReplicaSpecs.{kind}.template")
        containers = template["spec"].get("containers", [])
        if "tensorflow" not in [one["name"] for one in containers] or not all(one.get("image") for one in containers):
            raise Refused(403, "spec.tfReplicaSpecs: must have at least one container with name tensorflow, and images")
        _volumes(template["spec"])
        if len(f"{metadata['name']}-worker-{replica['replicas'] - 1}") > 63:
            raise Refused(422, "a service's name: must be no more than 63 characters")
    for labels in (metadata.get("labels", {}), *(one["template"]["metadata"]["labels"] for one in replicas.values())):
        for key, value in labels.items():
            if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
                raise Refused(422, f"metadata.labels: Invalid value: {key}={value}")


def _fields(value: Any, known: dict[str, Any], where: str) -> None:
    if not isinstance(value, dict):
        raise Refused(422, f"{where}: Invalid value: must be an object")
    for name, inner in value.items():
        kind = known.get(name)
        fits = inner in kind if isinstance(kind, set) else isinstance(inner, kind) if kind else False
        if not fits or (isinstance(inner, bool) and kind is int):
            raise Refused(422, f"{where}.{name}: Invalid value: {inner!r}")


def _pod_fields(value: Any, kind: str, where: str) -> None:
    """Holds a value against a model of the package `kubernetes`."""
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            raise Refused(422, f"{where}: Invalid value: must be a list")
        for inner in value:
            _pod_fields(inner, match[1], where)
    elif kind.startswith("dict("):
        if not isinstance(value, dict) or not all(isinstance(inner, str) for inner in value.values()):
            raise Refused(422, f"{where}: Invalid value: must be an object of strings")
    elif kind in {"str", "int", "bool"}:
        if type(value).__name__ != kind:
            raise Refused(422, f"{where}: Invalid value: {value!r} in place of {kind}")
    elif kind.startswith("V1"):
        from kubernetes import client

        model = getattr(client, kind)
        kinds = {model.attribute_map[name]: inner for name, inner in model.openapi_types.items()}
        if not isinstance(value, dict) or set(value) - set(kinds):
            raise Refused(422, f"{where}: unknown fields in {value!r}")
        for name, inner in value.items():
            _pod_fields(inner, kinds[name], f"{where}.{name}")


def _volumes(spec: Json) -> None:
    known = {volume["name"] for volume in spec.get("volumes", ())}
    for container in spec["containers"]:
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in known:
                raise Refused(422, f"volumeMounts: Not found: {mount['name']}")
