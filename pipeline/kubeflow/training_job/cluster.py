# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes API from inside a task's pod: the six requests that a training job needs.

They use httpx. The package `kubernetes`, in the version that kfp requires, has no model for training jobs.
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

# Kubernetes mounts a pod's credentials in this folder.
ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Rights that the service account needs: API group, resource, verb.
RIGHTS = (
    *(("kubeflow.org", "tfjobs", verb) for verb in ("create", "get", "list", "delete")),
    ("", "pods", "list"),
    ("", "pods/log", "get"),
)
_TIMEOUT_SECONDS = 20
_MAX_REASON = 400  # characters of the API's reason in an error message
_NO_CLUSTER = (
    "A training job is created from a pod of the cluster, with the service account's token in {folder}; {reason}. Run "
    "the package on Kubeflow, with a service account whose token is mounted, or compile it without --workers."
)
_ADVICE = {
    400: "Compare the package with the operator's version (docs/kubeflow.md).",
    401: "The cluster must accept the token of the task's service account; check the account.",
    403: "Give the task's service account the Role in deploy/training-job.yaml.",
    404: "TFJob kubeflow.org/v1 must be installed, with Kubeflow's training operator (docs/kubeflow.md).",
    409: "Remove the job that exists already: kubectl get tfjobs.",
    422: "Compare the package with the operator's version (docs/kubeflow.md).",
}


def resource_attributes(namespace: str, group: str, resource: str, verb: str) -> dict[str, str]:
    """Returns the ResourceAttributes of an access review; `resource` may be `RESOURCE/SUBRESOURCE`."""
    kind, _, subresource = resource.partition("/")
    return {"namespace": namespace, "group": group, "resource": kind, "subresource": subresource, "verb": verb}


class ApiError(ProjectError):
    """The API refused a request or did not respond.

    Attributes:
        status: HTTP status of the response; 0 without a response.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class JobClient:
    """Client of the API for the training jobs in this pod's namespace.

    Attributes:
        namespace: of this pod.

    Raises:
        BadInput: this process is not in a pod with a service account's token.
        ApiError: in every method, if the API refuses or does not respond.
    """

    def __init__(self) -> None:
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
        if not (host and port):
            raise BadInput(_NO_CLUSTER.format(folder=ACCOUNT, reason="KUBERNETES_SERVICE_HOST and _PORT are not set"))
        try:
            self.namespace = (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
            authority = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
            self._token()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "it cannot be read"
            raise BadInput(_NO_CLUSTER.format(folder=ACCOUNT, reason=f"reading it failed: {reason}")) from None
        address = f"[{host}]" if ":" in host else host
        # Without the environment's proxy, which is for addresses outside of the cluster.
        self._client = httpx.Client(
            base_url=f"https://{address}:{port}", verify=authority, trust_env=False, timeout=_TIMEOUT_SECONDS
        )
        self._jobs = f"/apis/kubeflow.org/v1/namespaces/{self.namespace}/tfjobs"
        self._pods = f"/api/v1/namespaces/{self.namespace}/pods"

    def __enter__(self) -> JobClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.close()

    def account(self) -> str:
        """Returns the name of the service account from its token; "" if the token has none."""
        try:
            payload = self._token().split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            return str(claims["kubernetes.io"]["serviceaccount"]["name"])
        except (OSError, ValueError, LookupError, TypeError, binascii.Error):
            return ""

    def may(self, group: str, resource: str, verb: str) -> bool:
        """Returns whether this pod's service account has a right in the namespace."""
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": resource_attributes(self.namespace, group, resource, verb)},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self._request_json("POST", path, "review this account's rights", body=body)["status"]["allowed"])

    def create(self, job: Json) -> Json:
        """Creates a job and returns it with the fields that the API adds."""
        return self._request_json("POST", self._jobs, "create a training job", body=job)

    def job(self, name: str) -> Json | None:
        """Returns a job; None if it does not exist."""
        try:
            return self._request_json("GET", f"{self._jobs}/{name}", "read the training job")
        except ApiError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise

    def jobs(self, selector: str) -> list[Json]:
        """Returns the jobs that match a label selector."""
        query = {"labelSelector": selector}
        jobs: list[Json] = self._request_json("GET", self._jobs, "list the training jobs", query)["items"]
        return jobs

    def delete(self, name: str) -> None:
        """Removes a job, and then, in the background, its pods; does nothing if the job does not exist."""
        body = {"propagationPolicy": "Background"}
        try:
            self._request_json("DELETE", f"{self._jobs}/{name}", "remove the training job", body=body)
        except ApiError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise

    def pods(self, job: str) -> list[Json]:
        """Returns the pods of a job."""
        query = {"labelSelector": f"training.kubeflow.org/job-name={job}"}
        pods: list[Json] = self._request_json("GET", self._pods, "list the workers' pods", query)["items"]
        return pods

    def log(self, pod: str, **parameters: str) -> str:
        """Returns the log of a worker's container; "" if there is no such pod, or it has not started.

        Args:
            pod: name of the pod.
            parameters: of the API, such as tailLines.
        """
        query = {"container": "tensorflow", **parameters}
        try:
            return self._request("GET", f"{self._pods}/{pod}/log", "read the workers' logs", query).text
        except ApiError as error:
            if error.status in {httpx.codes.NOT_FOUND, httpx.codes.BAD_REQUEST}:
                return ""
            raise

    def _token(self) -> str:
        # Read for each request, because Kubernetes renews it.
        return (ACCOUNT / "token").read_text(encoding="utf-8").strip()

    def _request_json(
        self, method: str, path: str, action: str, query: dict[str, str] | None = None, body: Json | None = None
    ) -> Json:
        response = self._request(method, path, action, query, body)
        try:
            content: Json = response.json()
        except ValueError:
            raise ApiError(
                f"The Kubernetes API must respond with JSON; to the request to {action} it did not."
            ) from None
        return content

    def _request(
        self, method: str, path: str, action: str, query: dict[str, str] | None = None, body: Json | None = None
    ) -> httpx.Response:
        """Sends a request; `action` describes it in error messages."""
        try:
            headers = {"Authorization": f"Bearer {self._token()}"}
            response = self._client.request(method, path, params=query, json=body, headers=headers)
        except (OSError, httpx.HTTPError) as error:
            raise ApiError(
                f"The Kubernetes API must respond; to the request to {action} it did not ({type(error).__name__}). "
                "Check that pods reach it."
            ) from None
        if response.is_success:
            return response
        advice = _ADVICE.get(response.status_code, "Look at the API server.")
        raise ApiError(
            f"The Kubernetes API must {action} in the namespace {self.namespace}; it refused: {_reason(response)}. "
            f"{advice}",
            response.status_code,
        )


def _reason(response: httpx.Response) -> str:
    """Returns the status and the API's reason."""
    try:
        message = str(response.json()["message"])
    except (ValueError, LookupError, TypeError):
        message = response.reason_phrase
    return f"{response.status_code} {' '.join(message.split())[:_MAX_REASON]}".rstrip(" .")
