# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes API as a task's pod reaches it, as far as a training job of the training operator needs it.

Plain requests: there are six of them. The package `kubernetes` comes with kfp, in a version of kfp's choice, and models
every kind of object but this one.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import pathlib
import ssl
from typing import Any

import httpx

from components.errors import BadInput, ProjectError

Json = dict[str, Any]

# Where Kubernetes puts a pod's credentials.
ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
# What a training job asks of the service account: API group, resource, verb.
RIGHTS = (
    *(("kubeflow.org", "tfjobs", verb) for verb in ("create", "get", "list", "delete")),
    ("", "pods", "list"),
    ("", "pods/log", "get"),
)
_SECONDS = 20  # that the API may take for an answer
_MOST_CHARACTERS = 400  # of what the API says, in a message
_NO_CLUSTER = (
    "A training job is made from a pod of the cluster, by a service account whose token lies in {folder}; here {found}."
    " Run the package on Kubeflow, with a service account whose token is mounted, or compile it without --workers."
)
_WAYS_OUT = {
    400: "Compare the package with the operator's version (docs/kubeflow.md).",
    401: "The token of the task's service account must be one that the cluster knows; look at the account.",
    403: "Give the task's service account the Role in deploy/training-job.yaml.",
    404: "TFJob kubeflow.org/v1 must be installed, with Kubeflow's training operator (docs/kubeflow.md).",
    409: "Remove what is in the way: kubectl get tfjobs.",
    422: "Compare the package with the operator's version (docs/kubeflow.md).",
}


def attributes(namespace: str, group: str, resource: str, verb: str) -> dict[str, str]:
    """The ResourceAttributes of an access review; a resource may be `RESOURCE/SUBRESOURCE`."""
    kind, _, part = resource.partition("/")
    return {"namespace": namespace, "group": group, "resource": kind, "subresource": part, "verb": verb}


class Refused(ProjectError):
    """The API did not do what it was asked.

    Attributes:
        status: of its answer; 0 where there was none.
    """

    def __init__(self, sentence: str, status: int = 0) -> None:
        super().__init__(sentence)
        self.status = status


class Cluster:
    """The API, for one namespace: the one of this pod.

    Attributes:
        namespace: its name.

    Raises:
        BadInput: if this is no pod with a service account's token.
        Refused: in every method, if the API refuses or does not answer.
    """

    def __init__(self) -> None:
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
        if not (host and port):
            raise BadInput(_NO_CLUSTER.format(folder=ACCOUNT, found="KUBERNETES_SERVICE_HOST and _PORT are not set"))
        try:
            self.namespace = (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
            authority = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
            self._token()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else "it cannot be read"
            raise BadInput(_NO_CLUSTER.format(folder=ACCOUNT, found=f"that fails: {why}")) from None
        address = f"[{host}]" if ":" in host else host
        # Not by a proxy of the environment: that one is for what lies outside of the cluster.
        self._client = httpx.Client(
            base_url=f"https://{address}:{port}", verify=authority, trust_env=False, timeout=_SECONDS
        )
        self._jobs = f"/apis/kubeflow.org/v1/namespaces/{self.namespace}/tfjobs"
        self._pods = f"/api/v1/namespaces/{self.namespace}/pods"

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *raised: object) -> None:
        self._client.close()

    def account(self) -> str:
        """The name of the service account, which its token says; "" where it says none."""
        try:
            claims = self._token().split(".")[1]
            told = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
            return str(told["kubernetes.io"]["serviceaccount"]["name"])
        except (OSError, ValueError, LookupError, TypeError, binascii.Error):
            return ""

    def may(self, group: str, resource: str, verb: str) -> bool:
        """Says whether this pod's service account has a right in the namespace."""
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes(self.namespace, group, resource, verb)},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self._read("POST", path, "say what this account may do", body=body)["status"]["allowed"])

    def create(self, job: Json) -> Json:
        """Makes a job and returns it as the API has it."""
        return self._read("POST", self._jobs, "make a training job", body=job)

    def job(self, name: str) -> Json | None:
        """A job; None where there is none of this name."""
        try:
            return self._read("GET", f"{self._jobs}/{name}", "read the training job")
        except Refused as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise

    def jobs(self, selector: str) -> list[Json]:
        """The jobs with such labels."""
        told = {"labelSelector": selector}
        found: list[Json] = self._read("GET", self._jobs, "list the training jobs", told)["items"]
        return found

    def delete(self, name: str) -> None:
        """Removes a job, and then, in the background, its pods; does nothing where it is gone already."""
        try:
            self._read(
                "DELETE", f"{self._jobs}/{name}", "remove the training job", body={"propagationPolicy": "Background"}
            )
        except Refused as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise

    def pods(self, job: str) -> list[Json]:
        """The pods of a job."""
        told = {"labelSelector": f"training.kubeflow.org/job-name={job}"}
        found: list[Json] = self._read("GET", self._pods, "list the workers' pods", told)["items"]
        return found

    def log(self, pod: str, **told: str) -> str:
        """What the container of a worker has written; "" where there is no such pod, or it has not begun.

        Args:
            pod: its name.
            told: parameters of the API, such as tailLines.
        """
        query = {"container": "tensorflow", **told}
        try:
            return self._ask("GET", f"{self._pods}/{pod}/log", "read the workers' logs", query).text
        except Refused as error:
            if error.status in {httpx.codes.NOT_FOUND, httpx.codes.BAD_REQUEST}:
                return ""
            raise

    def _token(self) -> str:
        # Read for each request: Kubernetes puts a new one there before the old one ends.
        return (ACCOUNT / "token").read_text(encoding="utf-8").strip()

    def _read(self, *asked: Any, **more: Any) -> Json:
        answer = self._ask(*asked, **more)
        try:
            found: Json = answer.json()
        except ValueError:
            raise Refused(f"The Kubernetes API must answer with JSON; it did not, when asked to {asked[2]}.") from None
        return found

    def _ask(
        self, method: str, path: str, what: str, query: dict[str, str] | None = None, body: Json | None = None
    ) -> httpx.Response:
        try:
            said = {"Authorization": f"Bearer {self._token()}"}
            answer = self._client.request(method, path, params=query, json=body, headers=said)
        except (OSError, httpx.HTTPError) as error:
            raise Refused(
                f"The Kubernetes API must answer; asked to {what}, it did not ({type(error).__name__}). "
                "Check that pods reach it."
            ) from None
        if answer.is_success:
            return answer
        way_out = _WAYS_OUT.get(answer.status_code, "Look at the API server.")
        raise Refused(
            f"The Kubernetes API must {what} in the namespace {self.namespace}; it refused: {_said(answer)}. {way_out}",
            answer.status_code,
        )


def _said(answer: httpx.Response) -> str:
    """What the API gives as its reason, after the number."""
    try:
        message = str(answer.json()["message"])
    except (ValueError, LookupError, TypeError):
        message = answer.reason_phrase
    return f"{answer.status_code} {' '.join(message.split())[:_MOST_CHARACTERS]}".rstrip(" .")
