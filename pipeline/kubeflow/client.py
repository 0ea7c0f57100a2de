# SPDX-License-Identifier: Apache-2.0
"""Connection to a Kubeflow Pipelines server: `kfp.Client` for what it has a method for, plain HTTP for the rest.

`kfp.Client` waits for a silent server without limit, repeats requests that fail, prints, and reads ~/.config/kfp and
variables of its own. So a request with a time limit goes first, every call has a time limit, its output is dropped, and
it sees neither that folder nor those variables. Every failure becomes one sentence, which never holds the token.
"""

from __future__ import annotations

import concurrent.futures
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
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import httpx

from components import network
from components.errors import BadInput, ProjectError

if TYPE_CHECKING:
    import kfp

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

SECONDS = 8.0  # limit of a request, the look-up of the host included
DOWNLOAD_SECONDS = 120.0  # limit of a log, an artifact or a workflow
HEALTH = "/apis/v2beta1/healthz"
IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
PORT_FORWARD = "kubectl port-forward --namespace kubeflow svc/ml-pipeline-ui 8080:80"
_HOST = re.compile(r"(https?://)?(\w[\w-]*(\.[\w-]+)*\.?|\[[\da-fA-F:]+\])(:\d{1,5})?(/[\w.~%:/-]*)?")
_POD_NAMESPACE = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_POD_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"
_REACH = "check the address and the network"
# Pattern in an error -> the cause, and the way out.
_CAUSES = (
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate is not trusted",
        "name its authority's certificate in SSL_CERT_FILE",
    ),
    ("SSL", "it does not speak https", "give --host with http:// if it has plain HTTP"),
    ("refused", "connection refused", _REACH),
    ("not known|resol|nodename|No address|UnicodeError", "no such host", _REACH),
    ("(?i)timed ?out|timeout", f"nothing in {SECONDS:.0f} s", _REACH),
)


class Unauthorized(BadInput):
    """The server wants a token, or refuses the one that it got."""


class Conflict(BadInput):
    """The server has something of this name."""


class Server:
    """A server that responds as Kubeflow Pipelines does.

    Attributes:
        host: its URL.
        namespace: the user's, "" on a server without users.
        has_users: True on a server with users.
        has_token: True where requests carry a token.
        version: of Kubeflow Pipelines, "" where the server does not give it.
        kfp: the `kfp.Client`, for use with `call`.
    """

    def __init__(self, url: str, namespace: str | None, token: Callable[[], str] | None):
        """See `connect`."""
        self.host, self.namespace, self._token, self.has_token = url, namespace or "", token, token is not None
        is_local = urllib.parse.urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
        if fault := network.described(url, direct=is_local):
            raise BadInput(f"{url} cannot be reached: {fault}.")
        proxy = None if is_local else network.proxy(url)
        self._route = f" through the proxy of {proxy.variable}" if proxy else ""
        address, authorities = proxy and proxy.address, os.environ.get("SSL_CERT_FILE") or None
        trust = ssl.create_default_context(cafile=authorities) if authorities else True
        options: dict[str, Any] = {"verify": trust, "proxy": address, "trust_env": False, "timeout": SECONDS}
        self._http = httpx.Client(auth=self._authorize, **options)
        response = self.get(HEALTH, seconds=SECONDS)
        if response.status_code != httpx.codes.OK:
            raise self._refusal(response.status_code, response.text, "report its health")
        health = read_object(response)
        if not {"multi_user", "commit_sha", "apiServerReady"} & health.keys():
            raise self._not_kubeflow("report its health")
        tag = str(health.get("tag_name") or health.get("apiServerTagName") or "")
        self.version, self.has_users = tag if re.match(r"v?\d", tag) else "", health.get("multi_user") is True
        if self.has_users and not namespace and _POD_NAMESPACE.is_file():
            self.namespace = _POD_NAMESPACE.read_text(encoding="utf-8").strip()
        self.kfp: kfp.Client = self.call("report its health", self._client, authorities, address)

    def get(self, path: str, query: Mapping[str, str] | None = None, seconds: float | None = None) -> httpx.Response:
        """Returns the response of any status to a GET without the empty parameters in `query`.

        Raises:
            BadInput: there is none in `seconds`, by default DOWNLOAD_SECONDS, or nothing of it for SECONDS.
        """
        params = {name: value for name, value in (query or {}).items() if value}
        try:
            return within(seconds or DOWNLOAD_SECONDS, self._http.get, self.host + path, params=params)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise self._no_response(error) from None

    def call(
        self, purpose: str, method: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Returns the result of a method of `kfp`; `purpose` is for messages, as in "start a run".

        Raises:
            BadInput: the server does not respond, or refuses (Unauthorized, Conflict).
            ProjectError: the server has failed.
        """
        import kfp_server_api
        import urllib3

        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                return within(SECONDS, method, *args, **kwargs)
        except kfp_server_api.ApiException as error:
            if not error.status:
                raise self._no_response(error) from None
            raise self._refusal(error.status, error.body, purpose) from None
        except (urllib3.exceptions.HTTPError, TimeoutError) as error:
            raise self._no_response(error) from None
        except (ValueError, AttributeError, TypeError, kfp_server_api.OpenApiException):  # a page, or other JSON
            raise self._not_kubeflow(purpose) from None

    def _client(self, authorities: str | None, proxy: str | None) -> kfp.Client:
        variables, token = dict(os.environ), self._token
        try:
            os.environ["HOME"] = os.devnull  # kfp looks for ~/.config/kfp when it is imported
            import kfp
            from kfp.client import TokenCredentialsBase

            class Credentials(TokenCredentialsBase):
                def refresh_api_key_hook(self, config: Any) -> None:
                    config.api_key["authorization"] = token() if token else ""

            for name in [name for name in os.environ if name.startswith("KF_PIPELINES_")]:
                del os.environ[name]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it needs a server of version 2
                return kfp.Client(
                    host=self.host, namespace=self.namespace, credentials=Credentials() if token else None,
                    ssl_ca_cert=authorities, proxy=proxy,
                )  # fmt: skip
        finally:
            os.environ.clear()
            os.environ.update(variables)

    def _authorize(self, request: httpx.Request) -> httpx.Request:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token()}"
        return request

    def _not_kubeflow(self, purpose: str) -> BadInput:
        return BadInput(f"{self.host} does not respond as Kubeflow Pipelines does when asked to {purpose}: see --host.")

    def _no_response(self, error: Exception) -> BadInput:
        name = type(error).__name__
        causes = (row[1:] for row in _CAUSES if re.search(row[0], f"{name}: {error}"))
        cause, advice = next(causes, (name, _REACH))
        return BadInput(f"{self.host} does not respond{self._route} ({cause}): {advice}.")

    def _refusal(self, status: int, body: str | bytes | None, purpose: str) -> ProjectError:
        text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
        with contextlib.suppress(ValueError, AttributeError):
            response = json.loads(text)
            text = str(response.get("error_message") or response.get("message") or response.get("error") or "")
        if self._token:
            text = text.replace(self._token(), "…")
        line = "".join(character for character in " ".join(text.split()) if character.isprintable()).rstrip(".")
        reason = "" if line.startswith("<") or not line else f": {line[:300]}{'…' * (len(line) > 300)}"
        if status == 401 or 300 <= status < 400:
            state = "refuses the token" if self._token else "wants a token"
            return Unauthorized(f"{self.host} {state} ({status}): give one in KFP_TOKEN or with --token-file FILE.")
        if status == 403:
            scope = f"in namespace {self.namespace}" if self.namespace else "without a namespace"
            return BadInput(f"{self.host} does not let this account {purpose} {scope} (403){reason}; see --namespace.")
        kind = Conflict if status == 409 else BadInput if status < 500 else ProjectError
        return kind(f"{self.host} did not {purpose} ({status}){reason}.")


def connect(host: str | None, namespace: str | None = None, token_file: str | None = None) -> Server:
    """Connects to a server.

    Args:
        host: address of the user interface or the API; default: KF_PIPELINES_ENDPOINT, and in a pod its cluster's API.
        namespace: the user's, on a server with users.
        token_file: file that holds a token.

    Raises:
        BadInput: no server responds within 15 seconds, the file holds no token, or a variable for proxies or
            certificates is wrong.
    """
    host = os.environ.get("KF_PIPELINES_ENDPOINT") if host is None else host
    if host is None and "KUBERNETES_SERVICE_HOST" not in os.environ:
        raise BadInput(f"Outside of a cluster, --host must be given. One way to the server is `{PORT_FORWARD}`.")
    host = IN_CLUSTER if host is None else host
    if not _HOST.fullmatch(host):
        raise BadInput("--host must be an address such as https://kubeflow.example.com/pipeline, without credentials.")
    return Server((host if "://" in host else f"https://{host}").rstrip("/"), namespace, _token_reader(token_file))


def _token_reader(token_file: str | None) -> Callable[[], str] | None:
    """Returns a function that reads the token, as those in files are renewed; it raises BadInput where there is none.

    The token is in `token_file`, in KFP_TOKEN, or in the file that Kubeflow gives to a pod.
    """
    variable, in_pod = os.environ.get("KFP_TOKEN"), os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", _POD_TOKEN)
    path = token_file or (in_pod if not variable and pathlib.Path(in_pod).is_file() else None)
    if not path and not variable:
        return None

    def read() -> str:
        source = f"The token file {path}" if path else "The environment variable KFP_TOKEN"
        try:
            token = pathlib.Path(path).read_text(encoding="utf-8").strip() if path else str(variable)
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{source} cannot be read ({type(error).__name__}).") from None
        if not re.fullmatch(r"[!-~]+", token):
            raise BadInput(f"{source} must hold one token and nothing else.")
        return token

    read()
    return read


def read_object(response: httpx.Response) -> dict[str, Any]:
    """Returns the JSON object in a response, {} where it holds anything else or is no success."""
    with contextlib.suppress(ValueError):
        if response.status_code == httpx.codes.OK and isinstance(content := response.json(), dict):
            return content
    return {}


def within(
    seconds: float, work: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Returns what `work` returns, or raises TimeoutError: no limit of a socket covers the look-up of a host."""
    future: concurrent.futures.Future[Result] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work(*args, **kwargs))
        except Exception as error:  # raised again by `result`
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)
