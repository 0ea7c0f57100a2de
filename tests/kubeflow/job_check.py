# SPDX-License-Identifier: Apache-2.0
"""The checks of a TFJob by the Kubernetes API and the training operator's webhook.

Sources: the CRD and pkg/webhooks of kubeflow/training-operator 1.7 to 1.9, and for pods the models of `kubernetes`.
"""

from __future__ import annotations

import re
from typing import Any

NAMESPACE = "team"
NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
# Field of the job, without those of pods -> its type, or its allowed values.
SPEC = {"runPolicy": dict, "successPolicy": {"", "AllWorkers"}, "tfReplicaSpecs": dict, "enableDynamicWorker": bool}
RUN_POLICY = {
    "cleanPodPolicy": {"None", "Running", "All"}, "ttlSecondsAfterFinished": int, "activeDeadlineSeconds": int,
    "backoffLimit": int, "schedulingPolicy": dict, "suspend": bool,
}  # fmt: skip
REPLICA = {"replicas": int, "restartPolicy": {"Always", "OnFailure", "Never", "ExitCode"}, "template": dict}

Json = dict[str, Any]


class RequestError(Exception):
    """An error response."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def check(job: Json) -> None:
    """Raises RequestError for a job that the API or the operator's webhook would refuse or change."""
    _fields(job, {"apiVersion": {"kubeflow.org/v1"}, "kind": {"TFJob"}, "metadata": dict, "spec": dict}, "the job")
    metadata, spec = job["metadata"], job["spec"]
    if not NAME.fullmatch(metadata.get("name", "")):
        raise RequestError(422, f"metadata.name: Invalid value: {metadata.get('name')!r}: a DNS-1035 label")
    if metadata.get("namespace") != NAMESPACE:
        raise RequestError(400, "the namespace of the object does not match that of the request")
    for owner in metadata.get("ownerReferences", ()):
        if not all(owner.get(key) for key in ("apiVersion", "kind", "name", "uid")):
            raise RequestError(422, "metadata.ownerReferences: Required value")
        if owner.get("blockOwnerDeletion"):  # with the admission plugin OwnerReferencesPermissionEnforcement
            raise RequestError(
                403, "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't update"
            )
    _fields(spec, SPEC, "spec")
    _fields(spec.get("runPolicy", {}), RUN_POLICY, "spec.runPolicy")
    replicas = spec.get("tfReplicaSpecs")
    if not replicas or set(replicas) - {"Worker", "Chief", "PS", "Master", "Evaluator"}:
        raise RequestError(422, "spec.tfReplicaSpecs: must be required")
    for kind, replica in replicas.items():
        _fields(replica, REPLICA, f"spec.tfReplicaSpecs.{kind}")
        template = replica["template"]
        _pod_fields(template, "V1PodTemplateSpec", f"spec.tfReplicaSpecs.{kind}.template")
        containers = template["spec"].get("containers", [])
        if "tensorflow" not in [container["name"] for container in containers] or not all(
            container.get("image") for container in containers
        ):
            raise RequestError(
                403, "spec.tfReplicaSpecs: must have at least one container with name tensorflow, and images"
            )
        _volumes(template["spec"])
        if len(f"{metadata['name']}-worker-{replica['replicas'] - 1}") > 63:
            raise RequestError(422, "a service's name: must be no more than 63 characters")
    for labels in (metadata.get("labels", {}), *(item["template"]["metadata"]["labels"] for item in replicas.values())):
        for key, value in labels.items():
            if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
                raise RequestError(422, f"metadata.labels: Invalid value: {key}={value}")


def _fields(value: Any, schema: dict[str, Any], path: str) -> None:
    if not isinstance(value, dict):
        raise RequestError(422, f"{path}: Invalid value: must be an object")
    for name, inner in value.items():
        kind = schema.get(name)
        fits = inner in kind if isinstance(kind, set) else isinstance(inner, kind) if kind else False
        if not fits or (isinstance(inner, bool) and kind is int):
            raise RequestError(422, f"{path}.{name}: Invalid value: {inner!r}")


def _pod_fields(value: Any, kind: str, path: str) -> None:
    """Checks a value against a model of the package `kubernetes`."""
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            raise RequestError(422, f"{path}: Invalid value: must be a list")
        for inner in value:
            _pod_fields(inner, match[1], path)
    elif kind.startswith("dict("):
        if not isinstance(value, dict) or not all(isinstance(inner, str) for inner in value.values()):
            raise RequestError(422, f"{path}: Invalid value: must be an object of strings")
    elif kind in {"str", "int", "bool"}:
        if type(value).__name__ != kind:
            raise RequestError(422, f"{path}: Invalid value: {value!r} in place of {kind}")
    elif kind.startswith("V1"):
        from kubernetes import client

        model = getattr(client, kind)
        kinds = {model.attribute_map[name]: inner for name, inner in model.openapi_types.items()}
        if not isinstance(value, dict) or set(value) - set(kinds):
            raise RequestError(422, f"{path}: unknown fields in {value!r}")
        for name, inner in value.items():
            _pod_fields(inner, kinds[name], f"{path}.{name}")


def _volumes(spec: Json) -> None:
    names = {volume["name"] for volume in spec.get("volumes", ())}
    for container in spec["containers"]:
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in names:
                raise RequestError(422, f"volumeMounts: Not found: {mount['name']}")
