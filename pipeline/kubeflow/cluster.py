# SPDX-License-Identifier: Apache-2.0
"""Checks of a cluster by the Kubernetes API, with a kubeconfig, for `doctor`.

They change nothing and do not read the content of secrets.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from components.errors import BadInput
from pipeline.cli import BLOCKED, OK, WARNING, Check
from pipeline.kubeflow import client, resources
from pipeline.kubeflow.resources import ON_ACCELERATOR, Needs
from pipeline.kubeflow.training_job import cluster as training

Json = dict[str, Any]

INSTALLATION = "kubeflow"  # the namespace of the manifests
STORES = {"seaweedfs": 8333, "minio-service": 9000}
_DEFAULT = "~/.kube/config"
_ENDPOINT = re.compile(
    r"https?://(?P<service>[\w-]+)(?:\.(?P<namespace>[\w-]+)(?:\.svc[\w.-]*)?)?(?::(?P<port>\d+))?/?"
)
# What driver, launcher and Argo's executor do with the service account of a run.
_RIGHTS = (
    ("argoproj.io", "workflowtaskresults", "create"), ("argoproj.io", "workflowtaskresults", "patch"),
    ("", "configmaps", "get"), ("", "secrets", "get"),
)  # fmt: skip
_NO_CONTENT = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class Unknown(Exception):
    """A fact that cannot be read; the message is the reason."""


def default_kubeconfig() -> str | None:
    """Returns kubectl's kubeconfig, None where there is none."""
    files = os.environ.get("KUBECONFIG") or _DEFAULT
    exists = any(pathlib.Path(file).expanduser().is_file() for file in files.split(os.pathsep) if file)
    return files if exists else None


class KubernetesApi:
    """The API of the cluster that a kubeconfig's current context names.

    Attributes:
        namespace: of the runs.
        reason: of every check being unknown; "" where it is the cluster of Kubeflow Pipelines.
        version: of Kubeflow Pipelines, from its image's tag; "" where that is none.
    """

    def __init__(self, file: str, namespace: str):
        """Loads the file.

        Raises:
            BadInput: the kubeconfig cannot be read.
        """
        from kubernetes import client as api
        from kubernetes import config

        self.namespace, self.reason, self.version = namespace, "", ""
        options = api.Configuration()
        options.retries = 0
        try:
            # It may run a program for the token.
            load = functools.partial(config.load_kube_config, client_configuration=options, persist_config=False)
            client.within(client.SECONDS, load, file)
        except Exception as error:  # ConfigException, and whatever YAML and certificates raise
            reason = " ".join(str(error).split())[:200] if isinstance(error, config.ConfigException) else "not readable"
            raise BadInput(f"--kubeconfig takes a kubeconfig with a current context; {file}: {reason}") from None
        self._api = api.ApiClient(options)
        self.host = options.host

    def __enter__(self) -> KubernetesApi:
        return self

    def __exit__(self, *raised: object) -> None:
        self._api.close()
        self._api.rest_client.pool_manager.clear()

    def get(self, path: str, accept: str = "application/json") -> Json | None:
        """Reads an object or a list; None where there is none.

        Raises:
            Unknown: the API does not respond, or refuses.
        """
        return self._request("GET", path, accept)

    def may(self, account: str, group: str, resource: str, verb: str) -> bool:
        """Returns True where a service account of the namespace has a right in it; raises as `get` does."""
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{self.namespace}", "system:authenticated"]
        spec = {
            "user": f"system:serviceaccount:{self.namespace}:{account}", "groups": groups,
            "resourceAttributes": training.resource_attributes(self.namespace, group, resource, verb),
        }  # fmt: skip
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        review = self._request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body=body)
        return bool((review or {}).get("status", {}).get("allowed"))

    def _request(
        self, method: str, path: str, accept: str = "application/json", body: Json | None = None
    ) -> Json | None:
        from kubernetes import client as api
        from urllib3.exceptions import HTTPError

        if self.reason:
            raise Unknown(self.reason)
        headers = {"Accept": accept, "Content-Type": "application/json"}
        options = {
            "header_params": headers, "body": body, "response_type": "object", "auth_settings": ["BearerToken"],
            "_return_http_data_only": True, "_request_timeout": client.SECONDS,
        }  # fmt: skip
        try:
            response: Json = client.within(client.SECONDS, lambda: self._api.call_api(path, method, **options))
        except api.ApiException as error:
            if error.status == 404:
                return None
            raise Unknown(f"the API refuses {method} {path} to the kubeconfig's account ({error.status})") from None
        except (HTTPError, OSError, ValueError) as error:
            raise Unknown(f"the cluster of the kubeconfig does not respond ({type(error).__name__})") from None
        return response


def installation(cluster: KubernetesApi) -> Check:
    """Checks that it is the cluster of Kubeflow Pipelines; every other check depends on it."""
    try:
        deployment = cluster.get(f"/apis/apps/v1/namespaces/{INSTALLATION}/deployments/ml-pipeline")
    except Unknown as error:
        cluster.reason = str(error)
        return Check("cluster", WARNING, str(error), "--kubeconfig FILE of the cluster that --host leads to")
    if deployment is None:
        cluster.reason = f"the cluster of the kubeconfig has no ml-pipeline in the namespace {INSTALLATION}"
        advice = "--kubeconfig FILE of the cluster that --host leads to"
        return Check("cluster", WARNING, f"{cluster.host} has no ml-pipeline in the namespace {INSTALLATION}", advice)
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].partition("@")[0]
    tag = re.search(r":v?(\d+\.\d+[\w.-]*)$", image)
    cluster.version = tag[1] if tag else ""
    return Check("cluster", OK, f"{cluster.host} has ml-pipeline in the namespace {INSTALLATION}")


def store(cluster: KubernetesApi, endpoint: str) -> Check:
    """Checks the Service of the tasks' endpoint."""
    match = _ENDPOINT.fullmatch(endpoint)
    if not match or (match["namespace"] is None and "." in endpoint.partition("://")[2]):
        raise Unknown("it is outside of the cluster")
    name, namespace = match["service"], match["namespace"] or cluster.namespace
    port = int(match["port"] or (443 if endpoint.startswith("https") else 80))
    service = cluster.get(f"/api/v1/namespaces/{namespace}/services/{name}")
    ports = [entry["port"] for entry in service["spec"].get("ports", ())] if service else []
    if port in ports:
        return Check("store", OK, f"{endpoint}, a Service with this port", f"--env AWS_ENDPOINT_URL={endpoint}")
    alternatives = [
        f"--env AWS_ENDPOINT_URL=http://{store_name}.{INSTALLATION}:{store_port}"
        for store_name, store_port in STORES.items()
        if (store_service := cluster.get(f"/api/v1/namespaces/{INSTALLATION}/services/{store_name}"))
        and store_port in [entry["port"] for entry in store_service["spec"].get("ports", ())]
    ]
    fault = f"has the ports {', '.join(map(str, ports))}" if service else "does not exist"
    advice = " or ".join(alternatives) or "--storage own with --env and --secret: Kubeflow's own store does not exist"
    return Check("store", BLOCKED, f"{endpoint}: the Service {name} in {namespace} {fault}", advice)


def secret(cluster: KubernetesApi, needs: Needs) -> Check:
    """Checks that the secrets of the tasks exist."""
    names = sorted(needs.secrets)
    path = f"/api/v1/namespaces/{cluster.namespace}/secrets"
    missing = [name for name in names if cluster.get(f"{path}/{name}", _NO_CONTENT) is None]
    if missing:
        summary = f"{', '.join(missing)}: not in the namespace {cluster.namespace}"
        return Check("secret", BLOCKED, summary, "--secret SECRET:KEY=VARIABLE; --storage own leaves Kubeflow's out")
    return Check("secret", OK, f"{', '.join(names)} in {cluster.namespace}; their keys are not checked")


def launcher(cluster: KubernetesApi, root: str) -> Check:
    """Checks that Kubeflow's launcher has credentials for the pipeline root."""
    scheme = root.partition("://")[0]
    config = cluster.get(f"/api/v1/namespaces/{cluster.namespace}/configmaps/kfp-launcher") or {}
    if scheme == "minio":
        return Check("launcher", OK, f"{root}, of the installation's own store", f"--pipeline-root {root}")
    if re.search(rf"^\s*\"?{scheme}\"?:", config.get("data", {}).get("providers", ""), re.MULTILINE):
        return Check("launcher", OK, f"kfp-launcher has a provider of {scheme}://", f"--pipeline-root {root}")
    summary = f"the ConfigMap kfp-launcher in {cluster.namespace} has no provider of {scheme}://"
    return Check("launcher", WARNING, summary, "the launcher takes the credentials of the pod's environment and node")


def nodes(cluster: KubernetesApi, needs: Needs) -> Check:
    """Checks that each task's requests fit a node."""
    listed = (cluster.get("/api/v1/nodes") or {})["items"]
    unfit = [
        f"{task} ({share.cpu[0]} CPU, {share.memory[0]})"
        for task, share in needs.shares.items()
        if not any(
            all(
                _allocatable(node, name) >= resources.amount(name, getattr(share, name)[0])
                for name in ("cpu", "memory")
            )
            for node in _schedulable(listed, needs, task)
        )
    ]
    sizes = ", ".join(
        f"{node['status']['allocatable']['cpu']} CPU, {node['status']['allocatable']['memory']}" for node in listed[:4]
    )
    if unfit:
        advice = "lower --cpu and --memory, or name other nodes with --node-selector and --toleration"
        return Check("nodes", BLOCKED, f"no node takes {', '.join(unfit)}; nodes have {sizes or 'nothing'}", advice)
    return Check("nodes", OK, f"{len(listed)}, each task fits one: {sizes}")


def gpus(cluster: KubernetesApi, needs: Needs) -> Check:
    """Checks that a node has as many accelerators as the training requests."""
    count = needs.gpus or needs.gpus_per_worker
    listed = (cluster.get("/api/v1/nodes") or {})["items"]
    equipped = [node for node in listed if _allocatable(node, needs.gpu_resource) >= count]
    if nodes := _schedulable(equipped, needs, resources.TRAIN):
        flags = f"--gpu{'s-per-worker' if needs.workers else 's'} {count} --gpu-resource {needs.gpu_resource}"
        return Check("GPUs", OK, f"{len(nodes)} nodes with {count} {needs.gpu_resource} or more", flags)
    if equipped:
        taints = {f"--toleration {taint['key']}:{taint['effect']}" for node in equipped for taint in _taints(node)}
        advice = " ".join(sorted(taints)) or "--node-selector with a label of theirs"
        return Check("GPUs", BLOCKED, f"{len(equipped)} nodes have them, and do not accept such a pod", advice)
    kinds = sorted({name for node in listed for name in node["status"]["allocatable"] if re.search(r"/\w*gpu", name)})
    advice = " or ".join(f"--gpu-resource {name}" for name in kinds) or "leave --gpus out"
    return Check("GPUs", BLOCKED, f"no node has {count} {needs.gpu_resource}", advice)


def volume(cluster: KubernetesApi, needs: Needs) -> Check:
    """Checks the volume claims of the tasks."""
    parts, state, advice = [], OK, ""
    for name, path in needs.volumes.items():
        claim = cluster.get(f"/api/v1/namespaces/{cluster.namespace}/persistentvolumeclaims/{name}")
        phase = claim["status"].get("phase", "Pending") if claim else "missing"
        modes = claim["spec"].get("accessModes", []) if claim else []
        parts.append(f"{name} at {path}: {', '.join([phase, *modes])}")
        if claim is None or phase == "Lost":
            state, advice = BLOCKED, f"create it in {cluster.namespace} (deploy/storage.yaml), or give another --pvc"
        elif state == OK and phase == "Pending":
            state, advice = WARNING, "fine if it is bound with its first pod; else it blocks the run"
        elif state == OK and not {"ReadWriteMany"} & set(modes):
            state, advice = WARNING, "tasks on other nodes cannot mount it: ReadWriteMany, or one node"
    return Check("volume", state, "; ".join(parts), advice)


def account(cluster: KubernetesApi, name: str, needs: Needs) -> Check:
    """Checks that the service account of the runs exists and has the rights that their pods need."""
    if cluster.get(f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts/{name}") is None:
        return Check("account", BLOCKED, f"{name}: not in the namespace {cluster.namespace}", "--service-account NAME")
    rights = (*_RIGHTS, *(training.RIGHTS if needs.workers else ()))
    missing = [f"{verb} {kind}" for group, kind, verb in rights if not cluster.may(name, group, kind, verb)]
    if missing:
        jobs = "deploy/training-job.yaml, or " if needs.workers else ""
        return Check("account", BLOCKED, f"{name} may not {', '.join(missing)}", f"{jobs}--service-account another")
    jobs = ", and create training jobs" if needs.workers else ""
    return Check("account", OK, f"{name} may do what pods of a run do{jobs}", f"--service-account {name}")


def _schedulable(listed: list[Json], needs: Needs, task: str) -> list[Json]:
    """Returns the nodes that accept pods of a task."""
    is_training = task in ON_ACCELERATOR
    selector: Mapping[str, str] = needs.node_selector if is_training else {}
    tolerations = needs.tolerations if is_training else ()
    return [
        node
        for node in listed
        if not node["spec"].get("unschedulable")
        and selector.items() <= node["metadata"].get("labels", {}).items()
        and all(any(_tolerates(toleration, taint) for toleration in tolerations) for taint in _taints(node))
    ]


def _taints(node: Json) -> list[Json]:
    return [taint for taint in node["spec"].get("taints", ()) if taint["effect"] in ("NoSchedule", "NoExecute")]


def _tolerates(toleration: Mapping[str, str], taint: Json) -> bool:
    return (
        toleration["key"] == taint["key"]
        and toleration.get("effect", taint["effect"]) == taint["effect"]
        and (toleration["operator"] == "Exists" or toleration.get("value") == taint.get("value"))
    )


def _allocatable(node: Json, name: str) -> float:
    try:
        return float(resources.amount(name, str(node["status"]["allocatable"].get(name, "0"))))
    except BadInput:  # none
        return 0.0
