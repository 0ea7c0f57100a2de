# SPDX-License-Identifier: Apache-2.0
"""Lines of the doctor by a kubeconfig: what the Kubernetes API says of a cluster.

Nothing is changed, and no secret's content is asked for.
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


class NotKnown(Exception):
    """Something that cannot be found out, and why."""


def default() -> str | None:
    """The kubeconfig that kubectl takes, where there is one."""
    files = os.environ.get("KUBECONFIG") or _DEFAULT
    there = any(pathlib.Path(file).expanduser().is_file() for file in files.split(os.pathsep) if file)
    return files if there else None


class Cluster:
    """The API of the cluster that a kubeconfig's current context names.

    Attributes:
        namespace: of the runs.
        reason: why nothing is known of the cluster, "" where it is the one of Kubeflow Pipelines.
        version: of Kubeflow Pipelines, by its image's tag; "" where that says none.
    """

    def __init__(self, file: str, namespace: str):
        """Loads the file and asks for the installation.

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
            client.within(client.SECONDS, lambda: load(file))
        except Exception as error:  # ConfigException, and whatever YAML and certificates raise
            reason = " ".join(str(error).split())[:200] if isinstance(error, config.ConfigException) else "not readable"
            raise BadInput(f"--kubeconfig takes a kubeconfig with a current context; {file}: {reason}") from None
        self._api = api.ApiClient(options)
        self.host = options.host

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *raised: object) -> None:
        self._api.close()
        self._api.rest_client.pool_manager.clear()

    def get(self, path: str, accept: str = "application/json") -> Json | None:
        """Reads an object or a list; None where there is none.

        Raises:
            NotKnown: the API does not answer, or refuses.
        """
        return self._ask("GET", path, accept)

    def may(self, account: str, group: str, resource: str, verb: str) -> bool:
        """Says whether a service account of the namespace has a right in it; raises as `get` does."""
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{self.namespace}", "system:authenticated"]
        spec = {
            "user": f"system:serviceaccount:{self.namespace}:{account}", "groups": groups,
            "resourceAttributes": training.attributes(self.namespace, group, resource, verb),
        }  # fmt: skip
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        made = self._ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body=body)
        return bool((made or {}).get("status", {}).get("allowed"))

    def _ask(self, method: str, path: str, accept: str = "application/json", body: Json | None = None) -> Json | None:
        from kubernetes import client as api
        from urllib3.exceptions import HTTPError

        if self.reason:
            raise NotKnown(self.reason)
        headers = {"Accept": accept, "Content-Type": "application/json"}
        options = {
            "header_params": headers, "body": body, "response_type": "object", "auth_settings": ["BearerToken"],
            "_return_http_data_only": True, "_request_timeout": client.SECONDS,
        }  # fmt: skip
        try:
            answer: Json = client.within(client.SECONDS, lambda: self._api.call_api(path, method, **options))
        except api.ApiException as error:
            if error.status == 404:
                return None
            raise NotKnown(f"to the kubeconfig's account, {method} {path} is answered with {error.status}") from None
        except (HTTPError, OSError, ValueError) as error:
            raise NotKnown(f"the cluster of the kubeconfig does not answer ({type(error).__name__})") from None
        return answer


def installation(cluster: Cluster) -> Check:
    """Whether it is the cluster of Kubeflow Pipelines; what is asked after this rests on it."""
    try:
        made = cluster.get(f"/apis/apps/v1/namespaces/{INSTALLATION}/deployments/ml-pipeline")
    except NotKnown as error:
        cluster.reason = str(error)
        return Check("cluster", WARNING, str(error), "--kubeconfig FILE of the cluster that --host leads to")
    if made is None:
        cluster.reason = f"the cluster of the kubeconfig has no ml-pipeline in the namespace {INSTALLATION}"
        advice = "--kubeconfig FILE of the cluster that --host leads to"
        return Check("cluster", WARNING, f"{cluster.host} has no ml-pipeline in the namespace {INSTALLATION}", advice)
    image = made["spec"]["template"]["spec"]["containers"][0]["image"].partition("@")[0]
    tag = re.search(r":v?(\d+\.\d+[\w.-]*)$", image)
    cluster.version = tag[1] if tag else ""
    return Check("cluster", OK, f"{cluster.host} has ml-pipeline in the namespace {INSTALLATION}")


def store(cluster: Cluster, endpoint: str) -> Check:
    """The Service of the tasks' endpoint."""
    match = _ENDPOINT.fullmatch(endpoint)
    if not match or (match["namespace"] is None and "." in endpoint.partition("://")[2]):
        raise NotKnown("it is outside of the cluster")
    name, namespace = match["service"], match["namespace"] or cluster.namespace
    port = int(match["port"] or (443 if endpoint.startswith("https") else 80))
    service = cluster.get(f"/api/v1/namespaces/{namespace}/services/{name}")
    ports = [one["port"] for one in service["spec"].get("ports", ())] if service else []
    if port in ports:
        return Check("store", OK, f"{endpoint}, a Service with this port", f"--env AWS_ENDPOINT_URL={endpoint}")
    others = [
        f"--env AWS_ENDPOINT_URL=http://{known}.{INSTALLATION}:{number}"
        for known, number in STORES.items()
        if (one := cluster.get(f"/api/v1/namespaces/{INSTALLATION}/services/{known}"))
        and number in [entry["port"] for entry in one["spec"].get("ports", ())]
    ]
    wrong = f"has the ports {', '.join(map(str, ports))}" if service else "is not there"
    advice = " or ".join(others) or "--storage own with --env and --secret: Kubeflow's own store is not there"
    return Check("store", BLOCKED, f"{endpoint}: the Service {name} in {namespace} {wrong}", advice)


def secret(cluster: Cluster, needs: Needs) -> Check:
    """Whether the secrets of the tasks are there."""
    names = sorted(needs.secrets)
    path = f"/api/v1/namespaces/{cluster.namespace}/secrets"
    missing = [name for name in names if cluster.get(f"{path}/{name}", _NO_CONTENT) is None]
    if missing:
        found = f"{', '.join(missing)}: not in the namespace {cluster.namespace}"
        return Check("secret", BLOCKED, found, "--secret SECRET:KEY=VARIABLE; --storage own leaves Kubeflow's out")
    return Check("secret", OK, f"{', '.join(names)} in {cluster.namespace}; keys are not looked at")


def launcher(cluster: Cluster, root: str) -> Check:
    """Whether Kubeflow's launcher has credentials for the pipeline root."""
    scheme = root.partition("://")[0]
    config = cluster.get(f"/api/v1/namespaces/{cluster.namespace}/configmaps/kfp-launcher") or {}
    if scheme == "minio":
        return Check("launcher", OK, f"{root}, of the installation's own store", f"--pipeline-root {root}")
    if re.search(rf"^\s*\"?{scheme}\"?:", config.get("data", {}).get("providers", ""), re.MULTILINE):
        return Check("launcher", OK, f"kfp-launcher has a provider of {scheme}://", f"--pipeline-root {root}")
    found = f"the ConfigMap kfp-launcher in {cluster.namespace} has no provider of {scheme}://"
    return Check("launcher", WARNING, found, "without one, the credentials are those of the pod's environment and node")


def nodes(cluster: Cluster, needs: Needs) -> Check:
    """Whether each task's requests fit a node."""
    listed = (cluster.get("/api/v1/nodes") or {})["items"]
    unfit = [
        f"{task} ({share.cpu[0]} CPU, {share.memory[0]})"
        for task, share in needs.shares.items()
        if not any(
            all(_allocatable(node, of) >= resources.amount(of, getattr(share, of)[0]) for of in ("cpu", "memory"))
            for node in _taking(listed, needs, task)
        )
    ]
    sizes = ", ".join(
        f"{node['status']['allocatable']['cpu']} CPU, {node['status']['allocatable']['memory']}" for node in listed[:4]
    )
    if unfit:
        advice = "--cpu and --memory ask for less; --node-selector and --toleration name other nodes"
        return Check("nodes", BLOCKED, f"no node takes {', '.join(unfit)}; nodes have {sizes or 'nothing'}", advice)
    return Check("nodes", OK, f"{len(listed)}, each task fits one: {sizes}")


def gpus(cluster: Cluster, needs: Needs) -> Check:
    """Whether a node has as many accelerators as are asked for."""
    wanted = needs.gpus or needs.gpus_per_worker
    listed = (cluster.get("/api/v1/nodes") or {})["items"]
    having = [node for node in listed if _allocatable(node, needs.gpu_resource) >= wanted]
    fits = _taking(having, needs, resources.TRAIN)
    if fits:
        flags = f"--gpu{'s-per-worker' if needs.workers else 's'} {wanted} --gpu-resource {needs.gpu_resource}"
        return Check("GPUs", OK, f"{len(fits)} nodes with {wanted} {needs.gpu_resource} or more", flags)
    taints = sorted({f"--toleration {one['key']}:{one['effect']}" for node in having for one in _taints(node)})
    if having:
        advice = " ".join(taints) or "--node-selector with a label of theirs"
        return Check("GPUs", BLOCKED, f"{len(having)} nodes have them, and take no such pod", advice)
    kinds = sorted({name for node in listed for name in node["status"]["allocatable"] if re.search(r"/\w*gpu", name)})
    found = f"no node has {wanted} {needs.gpu_resource}"
    return Check("GPUs", BLOCKED, found, " or ".join(f"--gpu-resource {name}" for name in kinds) or "leave --gpus out")


def volume(cluster: Cluster, needs: Needs) -> Check:
    """The volume claims of the tasks."""
    parts, state, advice = [], OK, ""
    for name, path in needs.volumes.items():
        claim = cluster.get(f"/api/v1/namespaces/{cluster.namespace}/persistentvolumeclaims/{name}")
        phase = claim["status"].get("phase", "Pending") if claim else "not there"
        modes = claim["spec"].get("accessModes", []) if claim else []
        parts.append(f"{name} at {path}: {', '.join([phase, *modes])}")
        if claim is None or phase == "Lost":
            state, advice = BLOCKED, f"make it in {cluster.namespace} (deploy/storage.yaml), or --pvc another"
        elif state == OK and phase == "Pending":
            state, advice = WARNING, "a claim that waits for its first pod is bound then; any other blocks the run"
        elif state == OK and not {"ReadWriteMany"} & set(modes):
            state, advice = WARNING, "tasks on other nodes cannot mount it: ReadWriteMany, or one node"
    return Check("volume", state, "; ".join(parts), advice)


def account(cluster: Cluster, name: str, needs: Needs) -> Check:
    """Whether the service account of the runs is there and has the rights of their pods."""
    if cluster.get(f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts/{name}") is None:
        return Check("account", BLOCKED, f"{name}: not in the namespace {cluster.namespace}", "--service-account NAME")
    rights = (*_RIGHTS, *(training.RIGHTS if needs.workers else ()))
    missing = [f"{verb} {kind}" for group, kind, verb in rights if not cluster.may(name, group, kind, verb)]
    if missing:
        jobs = "deploy/training-job.yaml, or " if needs.workers else ""
        return Check("account", BLOCKED, f"{name} may not {', '.join(missing)}", f"{jobs}--service-account another")
    jobs = ", and make training jobs" if needs.workers else ""
    return Check("account", OK, f"{name} may do what pods of a run do{jobs}", f"--service-account {name}")


def _taking(listed: list[Json], needs: Needs, task: str) -> list[Json]:
    """The nodes that pods of a task may go to."""
    special = task in ON_ACCELERATOR
    selector: Mapping[str, str] = needs.node_selector if special else {}
    tolerations = needs.tolerations if special else ()
    return [
        node
        for node in listed
        if not node["spec"].get("unschedulable")
        and selector.items() <= node["metadata"].get("labels", {}).items()
        and all(any(_tolerates(one, taint) for one in tolerations) for taint in _taints(node))
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
