# SPDX-License-Identifier: Apache-2.0
"""Connection to a Kubeflow Pipelines server: `kfp.Client` for what it has a method for, plain HTTP for the rest.

`kfp.Client` waits for a silent server without end, asks one that fails again and again, prints, and reads
~/.config/kfp. So a probe with a limit goes first, each call has a limit, its output is dropped, and it sees neither
that folder nor its own environment variables. Every failure becomes one sentence, which never holds a token.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import re
import ssl
import threading
import urllib.parse
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from components import network
from components.errors import BadInput, ProjectError

if TYPE_CHECKING:
    import kfp

Result = TypeVar("Result")

SECONDS = 8.0  # for an answer, the look-up of the host included
DOWNLOAD_SECONDS = 120.0  # for all of a log or an artifact, from a server that has answered before
PORT_FORWARD = "kubectl port-forward --namespace kubeflow svc/ml-pipeline-ui 8080:80"
IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
_POD_NAMESPACE = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_POD_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"


class Unauthorized(BadInput):
    """A server that wants a token, or refuses the one that it got."""


class Server:
    """Server that has answered.

    Attributes:
        host: its URL.
        namespace: the user's, "" on a server without users.
        has_users: whether it has.
        version: of Kubeflow Pipelines, "" where the server does not say it.
        kfp: the `kfp.Client`, for use inside `call`.
    """

    def __init__(self, url: str, namespace: str | None, token: Callable[[], str] | None):
        """See `connect`."""
        self.host, self.namespace, self._token, self._limit = url, namespace or "", token, SECONDS
        direct = urllib.parse.urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
        if fault := network.described(url, direct=direct):
            raise BadInput(f"{url} cannot be asked: {fault}.")
        way = None if direct else network.proxy(url)
        proxy, self._proxy_variable = (way.address, way.variable) if way else (None, "")
        authorities = os.environ.get("SSL_CERT_FILE") or None
        trust = ssl.create_default_context(cafile=authorities) if authorities else True
        self._http = httpx.Client(auth=self._authorize, verify=trust, proxy=proxy, trust_env=False)
        health = self.get_json("report its health", "/apis/v2beta1/healthz")
        if not {"multi_user", "commit_sha", "apiServerReady"} & health.keys():
            raise self._no_kubeflow("report its health")
        self._limit = DOWNLOAD_SECONDS
        tag = str(health.get("tag_name") or health.get("apiServerTagName") or "")
        self.version, self.has_users = tag if re.match(r"v?\d", tag) else "", health.get("multi_user") is True
        if self.has_users and not namespace and _POD_NAMESPACE.is_file():
            self.namespace = _POD_NAMESPACE.read_text(encoding="utf-8").strip()
        self.kfp: kfp.Client = self.call("report its health", lambda: self._client(authorities, proxy))

    def get(self, path: str, **query: str) -> httpx.Response:
        """Fetches what `kfp.Client` has no method for, whatever the status; empty parameters are left out.

        Raises:
            BadInput: the server does not answer.
        """
        parameters = {name: value for name, value in query.items() if value}
        try:
            return within(self._limit, lambda: self._http.get(self.host + path, params=parameters, timeout=SECONDS))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # ValueError: a host like ".."
            raise self._no_answer(error) from None

    def get_json(self, purpose: str, path: str) -> dict[str, Any]:
        """Fetches a JSON object; raises as `call` does."""
        response = self.get(path)
        if response.status_code != httpx.codes.OK:
            raise self._refusal(response.status_code, response.text, purpose)
        with contextlib.suppress(ValueError):
            if isinstance(answer := response.json(), dict):
                return answer
        raise self._no_kubeflow(purpose)

    def call(self, purpose: str, work: Callable[[], Result], taken: str = "") -> Result:
        """Runs a method of `kfp.Client`.

        Args:
            purpose: for messages, as in "start a run".
            work: the call.
            taken: message where a name is taken.

        Raises:
            BadInput: the server does not answer, or refuses.
            ProjectError: the server has failed.
        """
        import kfp_server_api
        import urllib3

        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                return within(SECONDS, work)
        except kfp_server_api.ApiException as error:
            if not error.status:
                raise self._no_answer(error) from None
            raise self._refusal(error.status, error.body, purpose, taken) from None
        except (urllib3.exceptions.HTTPError, TimeoutError) as error:
            raise self._no_answer(error) from None
        except (ValueError, AttributeError, TypeError, kfp_server_api.OpenApiException):  # a page, or other JSON
            raise self._no_kubeflow(purpose) from None

    def _client(self, authorities: str | None, proxy: str | None) -> kfp.Client:
        variables, read = dict(os.environ), self._token
        try:
            os.environ["HOME"] = os.devnull  # the module looks for ~/.config/kfp when it is imported
            import kfp
            from kfp.client import TokenCredentialsBase

            class Credentials(TokenCredentialsBase):
                def refresh_api_key_hook(self, config: Any) -> None:
                    config.api_key["authorization"] = read() if read else ""

            for name in [name for name in os.environ if name.startswith("KF_PIPELINES_")]:
                del os.environ[name]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it needs a server of version 2
                return kfp.Client(
                    host=self.host, namespace=self.namespace, credentials=Credentials() if read else None,
                    ssl_ca_cert=authorities, proxy=proxy,
                )  # fmt: skip
        finally:
            os.environ.clear()
            os.environ.update(variables)

    def _authorize(self, request: httpx.Request) -> httpx.Request:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token()}"
        return request

    def _no_kubeflow(self, purpose: str) -> BadInput:
        return BadInput(f"{self.host} does not answer as Kubeflow Pipelines does, asked to {purpose}: see --host.")

    def _no_answer(self, error: Exception) -> BadInput:
        text, way_out = str(error), "see that it can be reached"
        if "CERTIFICATE_VERIFY_FAILED" in text:
            cause, way_out = "its certificate is not trusted", "name the authority of its certificate in SSL_CERT_FILE"
        elif "SSL" in text:
            cause, way_out = "no https", "give --host with http://, if it is not https"
        elif isinstance(error, TimeoutError | httpx.TimeoutException) or "timed out" in text:
            cause = f"nothing in {SECONDS:.0f} s"
        elif "refused" in text:
            cause = "connection refused"
        elif isinstance(error, UnicodeError) or re.search(r"not known|resol|nodename|No address", text):
            cause = "no such host"
        else:
            cause = type(error).__name__
        through = f" through the proxy of {self._proxy_variable}" if self._proxy_variable else ""
        return BadInput(f"{self.host} does not answer{through} ({cause}): {way_out}.")

    def _refusal(self, status: int, body: str | bytes | None, purpose: str, taken: str = "") -> ProjectError:
        text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
        with contextlib.suppress(ValueError, AttributeError):
            answer = json.loads(text)
            text = str(answer.get("error_message") or answer.get("message") or answer.get("error") or "")
        if self._token:
            text = text.replace(self._token(), "…")
        line = "".join(sign for sign in " ".join(text.split()) if sign.isprintable()).rstrip(".")
        because = "" if line.startswith("<") or not line else f": {line[:300]}{'…' * (len(line) > 300)}"
        if status == 401 or 300 <= status < 400:
            refused = "refuses the token" if self._token else "wants a token"
            return Unauthorized(f"{self.host} {refused} ({status}): give one in KFP_TOKEN or with --token-file FILE.")
        if status == 403:
            scope = f"in namespace {self.namespace}" if self.namespace else "without a namespace"
            return BadInput(f"{self.host} does not let this account {purpose} {scope} (403){because}; see --namespace.")
        if status == 409 and taken:
            return BadInput(taken)
        return (BadInput if status < 500 else ProjectError)(f"{self.host} did not {purpose} ({status}){because}.")


def connect(host: str | None, namespace: str | None = None, token_file: str | None = None) -> Server:
    """Connects to a server that answers.

    Args:
        host: address of the user interface or the API; default: KF_PIPELINES_ENDPOINT, and in a pod its cluster's API.
        namespace: the user's, on a server with users.
        token_file: file that holds a token.

    Raises:
        BadInput: no server within 15 seconds, no token in the file, or a broken proxy or certificate variable.
    """
    host = os.environ.get("KF_PIPELINES_ENDPOINT") if host is None else host
    if host is None and "KUBERNETES_SERVICE_HOST" not in os.environ:
        raise BadInput(f"Outside of a cluster, --host must be given. One way to the server is `{PORT_FORWARD}`.")
    host = IN_CLUSTER if host is None else host
    if not re.fullmatch(r"(https?://)?([\w.-]+|\[[\da-fA-F:]+\])(:\d{1,5})?(/[\w.~%:/-]*)?", host):
        raise BadInput("--host must be an address such as https://kubeflow.example.com/pipeline, without credentials.")
    return Server((host if "://" in host else f"https://{host}").rstrip("/"), namespace, find_token(token_file))


def find_token(token_file: str | None) -> Callable[[], str] | None:
    """Returns what reads the token: of `token_file`, of KFP_TOKEN, or of the file that Kubeflow gives to a pod.

    A file is read anew for each request, as tokens in it are renewed.

    Raises:
        BadInput: there is no token, or more than one, where one is named.
    """
    variable, in_pod = os.environ.get("KFP_TOKEN"), os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", _POD_TOKEN)
    path = token_file or (in_pod if not variable and pathlib.Path(in_pod).is_file() else None)
    if not path and not variable:
        return None

    def read() -> str:
        name = f"The token file {path}" if path else "The environment variable KFP_TOKEN"
        try:
            token = pathlib.Path(path).read_text(encoding="utf-8").strip() if path else variable
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{name} cannot be read ({type(error).__name__}).") from None
        if not re.fullmatch(r"[!-~]+", token or ""):
            raise BadInput(f"{name} must hold one token and nothing else.")
        return token or ""

    read()
    return read


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """Returns what `work` returns, or raises what it raises, or TimeoutError: no socket's limit covers the look-up."""
    outcome: list[Result | Exception] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # raised again below
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"nothing in {seconds:.0f} s")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]
