# SPDX-License-Identifier: Apache-2.0
"""A fake Kubernetes API and training operator on loopback, whose pods are processes of this machine.

The API refuses requests like the real one: without the token, without a right of the Role in deploy/, and jobs that
`job_check` refuses. The operator implements TF_CONFIG, conditions, restarts by exit code and cleanPodPolicy as in
pkg/controller.v1 of kubeflow/training-operator 1.7 to 1.9.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.server
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests import certificates
from tests.kubeflow import launcher
from tests.kubeflow.job_check import NAMESPACE, RequestError, check
from tests.train.workers import free_ports

ROOT = pathlib.Path(__file__).parents[2]
ROLE = ROOT / "deploy" / "training-job.yaml"
ACCOUNT, TOKEN = "pipeline-runner", "the-token-of-the-tests"
GRACE_SECONDS = 2.0

Json = dict[str, Any]


class Pod:
    """A worker: a process, and its object in the API."""

    def __init__(self, name: str, index: int, template: Json, owner: Json):
        labels = {
            **template["metadata"].get("labels", {}),
            "training.kubeflow.org/job-name": owner["metadata"]["name"],
            "training.kubeflow.org/replica-type": "worker",
            "training.kubeflow.org/replica-index": str(index),
        }
        self.name, self.index, self.spec = name, index, template["spec"]
        self.metadata: Json = {"name": name, "uid": str(uuid.uuid4()), "labels": labels}
        self.status: Json = {"phase": "Pending"}
        self.process: subprocess.Popen[bytes] | None = None
        self.log = pathlib.Path()
        self.lines: list[str] = []

    def as_json(self) -> Json:
        return {"metadata": self.metadata, "spec": self.spec, "status": self.status}

    def read_log(self) -> list[str]:
        """Returns the lines so far, each with the time of the first call that returned it."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".") + "Z"
        *lines, rest = (self.log.read_bytes() if self.log.is_file() else b"").decode(errors="replace").split("\n")
        if rest and self.status["phase"] in {"Succeeded", "Failed"}:
            lines.append(rest)
        self.lines += [f"{now} {line}" for line in lines[len(self.lines) :]]
        return self.lines


class Stub:
    """The API and the operator.

    Attributes:
        account: folder of the token, the authority and the namespace, as mounted in a pod.
        secrets: name -> key -> value, for the environment of pods.
        jobs: existing jobs by name, each with its status.
        created_jobs: all jobs that were ever created, as they were sent.
        requests: method and path of all requests, in order.
        outage: status of the response to every request; 0 cuts connections, None ends the outage.
        faults: (method, resource) -> statuses of the next responses: a number refuses the request, "lost" executes it
            and then responds with 503.
        operator_runs: False suspends the operator.
        unschedulable: the scheduler's message for pending pods; "" schedules them.
        exits: (job, index, exit code) of every pod that ended.
        objects: path -> other objects of the API, or the status of an error; if empty, no path is special.
        rights: (group, resource, verb) of the service accounts in access reviews; by default the Role's.
        rules: the same for requests.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.account = folder / "serviceaccount"
        self.account.mkdir(parents=True)
        certificate = certificates.write(folder / "api.pem")
        (self.account / "ca.crt").write_bytes(certificate.read_bytes().partition(b"-----BEGIN PRIVATE")[0])
        (self.account / "namespace").write_text(NAMESPACE)
        claims = {"kubernetes.io": {"serviceaccount": {"name": ACCOUNT}}, "secret": TOKEN}
        part = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        self.token = f"head.{part}.signature"
        (self.account / "token").write_text(self.token)
        self.secrets: dict[str, dict[str, str]] = {}
        self.jobs: dict[str, Json] = {}
        self.created_jobs: list[Json] = []
        self.pods: dict[str, dict[int, Pod]] = {}
        self.requests: list[str] = []
        self.outage: int | None = None
        self.faults: dict[tuple[str, str], list[Any]] = {}
        self.operator_runs, self.unschedulable = True, ""
        self.exits: list[tuple[str, int, int]] = []
        self.lock = threading.RLock()
        self.objects: dict[str, Json | int] = {}
        self.rules = self.rights = role_rules()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_port
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True),
            threading.Thread(target=self._operate, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join()
        for name in list(self.pods):
            self._remove_pods(name)

    @property
    def job(self) -> Json:
        """The only existing job."""
        [job] = self.jobs.values()
        return job

    def worker(self, index: int) -> Pod:
        """Returns a worker of the only job."""
        [pods] = self.pods.values()
        return pods[index]

    def runs(self, index: int = 0) -> bool:
        """Returns whether a worker of the only job is running."""
        with self.lock:
            pods = [pods[index] for pods in self.pods.values() if index in pods]
            return bool(pods) and pods[0].status["phase"] == "Running"

    # The API.

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        stub = self

        class StubHandler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if stub.outage == 0:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                try:
                    result: Any = stub.handle(self.command, self.path, self.headers, body)
                    status = 201 if self.command == "POST" else 200
                except RequestError as error:
                    status = error.status
                    result = {"kind": "Status", "status": "Failure", "code": status, "message": str(error)}
                content = result.encode() if isinstance(result, str) else json.dumps(result).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = respond  # noqa: N815

        return StubHandler

    def handle(self, method: str, path: str, headers: Any, body: bytes) -> Any:
        """Handles a request and returns the content of the response."""
        with self.lock:
            parts = urllib.parse.urlsplit(path)
            self.requests.append(f"{method} {parts.path}")
            query = dict(urllib.parse.parse_qsl(parts.query))
            if self.outage is not None:
                raise RequestError(self.outage, "the server is currently unable to handle the request")
            if headers.get("authorization") != f"Bearer {self.token}":
                raise RequestError(401, "Unauthorized")
            if parts.path.endswith("subjectaccessreviews"):
                return self._review(json.loads(body))
            if method == "GET" and self.objects and not re.search(r"/(tfjobs|pods)(/|$)", parts.path):
                return self._object(self.objects.get(parts.path, 404), headers.get("accept") or "")
            match = re.fullmatch(
                rf"/(?:api/v1|apis/(?P<group>[a-z.]+)/v1)/namespaces/{NAMESPACE}/(?P<kind>[a-z]+)"
                r"(?:/(?P<name>[a-z0-9-]+)(?:/(?P<sub>log))?)?",
                parts.path,
            )
            if match is None:
                raise RequestError(404, "the server could not find the requested resource")
            group, kind, name, sub = match.group("group", "kind", "name", "sub")
            resource = f"{kind}/{sub}" if sub else kind
            verb = {"POST": "create", "DELETE": "delete", "GET": "get" if name else "list"}[method]
            faults = self.faults.get((method, resource)) or [None]
            fault = faults.pop(0) if len(faults) > 1 else faults[0]
            if isinstance(fault, int):
                raise RequestError(fault, f"{resource} is refused")
            if (group or "", resource, verb) not in self.rules:
                raise RequestError(
                    403, f'{resource} is forbidden: User "system:serviceaccount:{NAMESPACE}:{ACCOUNT}" cannot {verb} it'
                )
            result = self._execute(verb, resource, name, query, json.loads(body or b"{}"))
            if fault == "lost":
                self.faults.pop((method, resource))
                raise RequestError(503, "the response was lost")
            return result

    def _review(self, body: Json) -> Json:
        attributes = body["spec"]["resourceAttributes"]
        assert attributes["namespace"] == NAMESPACE
        assert body["spec"].get("user", f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}").endswith(f":{ACCOUNT}")
        resource = "/".join(part for part in (attributes["resource"], attributes.get("subresource")) if part)
        return body | {"status": {"allowed": (attributes["group"], resource, attributes["verb"]) in self.rights}}

    def _object(self, item: Json | int, accept: str) -> Json:
        if isinstance(item, int):
            raise RequestError(item, "it is refused")
        if item.get("kind") == "Secret":
            assert "as=PartialObjectMetadata" in accept, "the content of a secret was requested"
        return item

    def _execute(self, verb: str, resource: str, name: str | None, query: dict[str, str], body: Json) -> Any:
        if resource == "pods":
            pods = [pod.as_json() for pods in self.pods.values() for pod in pods.values()]
            return {"items": _select(pods, query)}
        if resource == "pods/log":
            return self._log(name or "", query)
        if verb == "create":
            return self._create(body)
        if verb == "list":
            return {"items": _select(list(self.jobs.values()), query)}
        if name not in self.jobs:
            raise RequestError(404, f'tfjobs.kubeflow.org "{name}" not found')
        if verb == "delete":
            self.jobs.pop(name)
            return {"kind": "Status", "status": "Success"}
        return self.jobs[name]

    def _create(self, job: Json) -> Json:
        check(job)
        name = job["metadata"]["name"]
        if name in self.jobs:
            raise RequestError(409, f'tfjobs.kubeflow.org "{name}" already exists')
        self.created_jobs.append(json.loads(json.dumps(job)))
        job["metadata"]["uid"] = str(uuid.uuid4())
        self.jobs[name] = job
        self.pods[name] = {}
        return job

    def _log(self, name: str, query: dict[str, str]) -> str:
        pod = next((pod for pods in self.pods.values() for pod in pods.values() if pod.name == name), None)
        if pod is None:
            raise RequestError(404, f'pods "{name}" not found')
        if query.get("container") != "tensorflow":
            raise RequestError(400, f"container {query.get('container')} is not valid for pod {name}")
        if pod.status["phase"] == "Pending":
            raise RequestError(400, f'container "tensorflow" in pod "{name}" is waiting to start: ContainerCreating')
        lines = pod.read_log()
        if since := query.get("sinceTime"):
            datetime.datetime.fromisoformat(since)
            lines = [line for line in lines if line[:19] >= since[:19]]
        if tail := query.get("tailLines"):
            lines = lines[-int(tail) :]
        if query.get("timestamps") != "true":
            lines = [line.partition(" ")[2] for line in lines]
        return "".join(f"{line}\n" for line in lines)

    # The operator.

    def _operate(self) -> None:
        while not self._stopped.wait(0.05):
            with self.lock:
                for name in [name for name in self.pods if name not in self.jobs]:
                    self._remove_pods(name)
                if self.operator_runs:
                    for job in list(self.jobs.values()):
                        self._reconcile(job)

    def _reconcile(self, job: Json) -> None:
        name = job["metadata"]["name"]
        worker = job["spec"]["tfReplicaSpecs"]["Worker"]
        pods = self.pods[name]
        status = job.setdefault("status", {"conditions": []})
        states = {condition["type"] for condition in status["conditions"]}
        if states & {"Succeeded", "Failed"}:
            return
        if not states:
            _add_condition(job, "Created")
        restarted = False
        for pod in list(pods.values()):
            code = pod.process.poll() if pod.process else None
            if code is None or pod.status["phase"] in {"Succeeded", "Failed"}:
                continue
            code = 128 - code if code < 0 else code
            self.exits.append((name, pod.index, code))
            pod.status = _exit_status(code)
            if code >= 128 and worker["restartPolicy"] == "ExitCode":
                del pods[pod.index]
                restarted = True
                _add_condition(job, "Restarting")
        for index in range(worker["replicas"]):
            if index not in pods:
                pods[index] = Pod(f"{name}-worker-{index}", index, worker["template"], job)
            if pods[index].status["phase"] == "Pending":
                self._start(job, pods[index])
        phases = [pod.status["phase"] for pod in pods.values()]
        if "Failed" in phases:
            _add_condition(
                job, "Failed", f"TFJob {name} has failed because {phases.count('Failed')} Worker replica(s) failed."
            )
            if job["spec"]["runPolicy"]["cleanPodPolicy"] == "Running":
                for pod in [pod for pod in pods.values() if pod.status["phase"] in {"Running", "Pending"}]:
                    _kill(pod)
                    del pods[pod.index]
        elif all(phase == "Succeeded" for phase in phases) or (
            job["spec"].get("successPolicy") != "AllWorkers" and pods[0].status["phase"] == "Succeeded"
        ):
            _add_condition(job, "Succeeded")
        elif "Running" in phases and not restarted:
            _add_condition(job, "Running")

    def _start(self, job: Json, pod: Pod) -> None:
        if self.unschedulable:
            condition: Json = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": self.unschedulable,
            }
            pod.status = {"phase": "Pending", "conditions": [condition]}
            return
        [container] = pod.spec["containers"]
        folder = self.folder / "pods" / f"{pod.name}-{pod.metadata['uid'][:6]}"
        folder.mkdir(parents=True, exist_ok=True)
        # The environment of deploy/Dockerfile.
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder), "TMPDIR": str(folder)}
        env |= {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1", "AWS_EC2_METADATA_DISABLED": "true"}
        for variable in container.get("env", ()):
            if "valueFrom" in variable:
                reference = variable["valueFrom"]["secretKeyRef"]
                if reference["key"] not in self.secrets.get(reference["name"], {}):
                    message = f'secret "{reference["name"]}" not found'
                    waiting = {"reason": "CreateContainerConfigError", "message": message}
                    state = {"name": "tensorflow", "state": {"waiting": waiting}}
                    pod.status = {"phase": "Pending", "containerStatuses": [state]}
                    return
                env[variable["name"]] = self.secrets[reference["name"]][reference["key"]]
            else:
                env[variable["name"]] = variable["value"]
        if (config := self._tf_config(job, pod.index)) is not None:
            env["TF_CONFIG"] = json.dumps(config)
        command = [*container["command"], *container.get("args", ())]
        command[0] = sys.executable if command[0] == "python" else command[0]
        pod.log = folder / "log"
        with pod.log.open("wb") as log:
            pod.process = subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        pod.status = {"phase": "Running", "containerStatuses": [{"name": "tensorflow", "state": {"running": {}}}]}

    def _tf_config(self, job: Json, index: int) -> Json | None:
        """Returns TF_CONFIG with ports of this machine in place of services; None for a job of one worker."""
        replicas = job["spec"]["tfReplicaSpecs"]["Worker"]["replicas"]
        if replicas < 2:
            return None
        if "ports" not in job:
            job["ports"] = free_ports(replicas)
        workers = [f"127.0.0.1:{port}" for port in job["ports"]]
        return {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}, "environment": "cloud"}

    def _remove_pods(self, job: str) -> None:
        for pod in self.pods.pop(job).values():
            _kill(pod)


def _select(objects: list[Json], query: dict[str, str]) -> list[Json]:
    labels = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)
    return [item for item in objects if labels.items() <= item["metadata"].get("labels", {}).items()]


def _add_condition(job: Json, kind: str, message: str = "") -> None:
    """Adds a condition like pkg/util/status.go: at the end; Running and Restarting replace each other."""
    conditions = job["status"]["conditions"]
    if conditions[-1:] and conditions[-1]["type"] == kind:
        return
    replaced = {"Running": {"Restarting"}, "Restarting": {"Running"}}.get(kind, set()) | {kind}
    for condition in conditions:
        if kind in {"Succeeded", "Failed"} and condition["type"] == "Running":
            condition["status"] = "False"
    conditions[:] = [condition for condition in conditions if condition["type"] not in replaced]
    name = job["metadata"]["name"]
    message = message or f"TFJob {name} is {kind.lower()}."
    conditions.append({"type": kind, "status": "True", "reason": f"TFJob{kind}", "message": message})


def _exit_status(code: int) -> Json:
    reason = "Completed" if code == 0 else "Error"
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    state = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": now}}
    return {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [{"name": "tensorflow", "state": state}],
    }


def _kill(pod: Pod) -> None:
    """Stops a pod like the kubelet: SIGTERM, then SIGKILL."""
    if pod.process is None:
        return
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 30)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pod.process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            pod.process.wait(seconds)
            return


def role_rules() -> set[tuple[str, str, str]]:
    """Returns the rights of the Role in deploy/ as (group, resource, verb)."""
    documents = {document["kind"]: document for document in yaml.safe_load_all(ROLE.read_text(encoding="utf-8"))}
    binding = documents["RoleBinding"]
    assert binding["roleRef"]["name"] == documents["Role"]["metadata"]["name"]
    assert ACCOUNT in [subject["name"] for subject in binding["subjects"] if subject["kind"] == "ServiceAccount"]
    return {
        (group, resource, verb)
        for rule in documents["Role"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[Stub]:
    """Starts a cluster, with this process as one of its pods."""
    from pipeline.kubeflow.training_job import cluster

    stub = Stub(folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            patch.setenv("KUBERNETES_SERVICE_PORT", str(stub.port))
            patch.setenv("KFP_POD_NAME", "the-task")
            patch.setenv("KFP_POD_UID", "0f1e")
            patch.setattr(cluster, "ACCOUNT", stub.account)
            patch.setenv(launcher.ACCOUNT, str(stub.account))
            yield stub
    finally:
        stub.stop()


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Waits for a condition; fails after the given time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition is not met after {seconds} s"
        time.sleep(0.02)
