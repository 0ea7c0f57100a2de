# SPDX-License-Identifier: Apache-2.0
"""The connection to a Kubeflow Pipelines server: `kfp.Client`, without what makes it slow to fail or leaks into it.

The client asks a server that does not answer many times over, reads a namespace and cookies from
~/.config/kfp/context.json, writes there, and prints. Here a request is made once and ends after a while, and every
failure becomes one sentence. A token is never part of one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import re
import threading
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import kfp
import kfp_server_api
import urllib3
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH, TokenCredentialsBase

from components import network
from components.errors import BadInput, ProjectError

TOKEN_VARIABLE = "KFP_TOKEN"
AUTHORITIES = "SSL_CERT_FILE"  # names the file with the authorities that are trusted
CONNECT_SECONDS, READ_SECONDS = 4.0, 9.0
# All of the first request, finding the host's address included, for which there is no other limit.
FIRST_SECONDS = 10.0
_NO_HOST = "http://localhost"  # what the client is left with where it finds no server by itself


class Token(TokenCredentialsBase):
    """A token from the environment, or from a file, which is read for each request: there it may be renewed."""

    def __init__(self, path: pathlib.Path | None):
        self.path = path

    def read(self) -> str:
        """Returns the token.

        Raises:
            BadInput: there is none, or more than one.
        """
        name = f"The token file {self.path}" if self.path else f"The environment variable {TOKEN_VARIABLE}"
        try:
            token = self.path.read_text(encoding="utf-8").strip() if self.path else os.environ[TOKEN_VARIABLE]
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{name} cannot be read ({type(error).__name__}).") from None
        if not re.fullmatch(r"[!-~]+", token):
            raise BadInput(f"{name} must hold one token and nothing else.")
        return token

    def refresh_api_key_hook(self, config: Any) -> None:
        """Gives the token to a request."""
        config.api_key["authorization"] = self.read()


def find_token(token_file: str | None) -> Token | None:
    """Finds the token: in `token_file`, in the environment variable KFP_TOKEN, or where Kubeflow gives one to a pod."""
    pods = pathlib.Path(os.environ.get(KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH))
    if token_file:
        token = Token(pathlib.Path(token_file))
    elif os.environ.get(TOKEN_VARIABLE):
        token = Token(None)
    elif pods.is_file():
        token = Token(pods)
    else:
        return None
    token.read()
    return token


class _Client(kfp.Client):
    """The client with one request for an answer, and with a namespace that is not kept in the home folder."""

    def __init__(self, namespace: str | None, **options: Any):
        self._context_setting = {"namespace": namespace or ""}
        super().__init__(**options)

    def _load_config(self, *args: Any, **options: Any) -> Any:
        config = super()._load_config(*args, **options)
        if not args[0] and config.host == _NO_HOST:
            raise BadInput("No --host is given, this is no pod, and kubectl has no context: give --host URL.")
        config.retries = False  # of redirects too: they lead to login pages
        config.host = config.host.rstrip("/")
        if "://" not in config.host:  # the service's address in the cluster
            config.host = f"http://{config.host}"
        renew, address = config.refresh_api_key_hook, config.host
        if renew:

            def renewed(config: Any) -> None:
                renew(
                    config
                )  # kubectl's credentials put the address of the cluster's own API there, and themselves here
                config.host, config.refresh_api_key_hook = address, renewed

            config.refresh_api_key_hook = renewed
        return config

    def _load_context_setting_or_default(self) -> None:
        pass

    def set_user_namespace(self, namespace: str) -> None:
        self._context_setting = {"namespace": namespace.strip()}

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        limit = (CONNECT_SECONDS, READ_SECONDS)
        answer = self._healthz_api.healthz_service_get_healthz(_preload_content=False, _request_timeout=limit)
        return kfp_server_api.V2beta1GetHealthzResponse(multi_user=json.loads(answer.data).get("multi_user") is True)


class Server:
    """A server that has answered.

    Attributes:
        client: the `kfp.Client`, for use inside `asking`.
        host: where the server is, for messages and links.
        namespace: the user's namespace, "" on a server without users.
    """

    def __init__(self, host: str | None, namespace: str | None, token: Token | None):
        """Connects; see `connect`."""
        self.host = host or "the cluster"
        self.namespace = namespace or ""
        self._token = token
        with self.asking("say how it is"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it needs a server of version 2
            authorities = os.environ.get(AUTHORITIES)
            self.client = _in_time(lambda: _Client(namespace, host=host, credentials=token, ssl_ca_cert=authorities))
        self._api = self.client._run_api.api_client
        self.host = self._api.configuration.host
        self.namespace = self.client.get_user_namespace()
        request = self._api.rest_client.request

        def limited(*args: Any, **options: Any) -> Any:
            return request(*args, **options | {"_request_timeout": (CONNECT_SECONDS, READ_SECONDS)})

        self._api.rest_client.request = limited

    def get(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """Fetches what the client has no call for.

        Args:
            path: below the host, beginning with a slash.
            query: the parameters of the address.

        Raises:
            kfp_server_api.ApiException: for any answer but success.
        """
        headers: dict[str, str] = {}
        self._api.update_params_for_auth(headers, [], ["Bearer"])
        address = self.host + path + ("?" + urllib.parse.urlencode(query) if query else "")
        return bytes(self._api.rest_client.GET(address, headers=headers).data)

    @contextlib.contextmanager
    def asking(self, what: str, taken: str = "") -> Iterator[None]:
        """Turns the failures of requests into sentences, and keeps the client from printing.

        Args:
            what: what is asked for, as in "start a run".
            taken: what to say where a name is taken.

        Raises:
            BadInput: the server does not answer, or refuses.
            ProjectError: the server has failed.
        """
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except kfp_server_api.ApiException as error:
            raise self._refusal(error, what, taken) from None
        except (urllib3.exceptions.HTTPError, TimeoutError) as error:
            way_out = network.described(self.host, direct=True) or "see that it can be reached"
            raise BadInput(f"{self.host} does not answer ({_cause(error)}): {way_out}.") from None
        except (ValueError, AttributeError, kfp_server_api.OpenApiException) as error:
            before = error.__context__  # without an answer, the client fails to read it
            if isinstance(before, kfp_server_api.ApiException) and not before.status:
                raise self._refusal(before, what, taken) from None
            # A page, or JSON of something else.
            raise BadInput(f"{self.host} does not answer as Kubeflow Pipelines does, asked to {what}.") from None

    def _refusal(self, error: Any, what: str, taken: str) -> ProjectError:
        said = self._said(error.body)
        because = f": {said}" if said else ""
        status = error.status
        if not status:
            reason = self._said(error.reason)
            way_out = "see that it can be reached"
            if fault := network.described(self.host, direct=True):
                way_out = fault
            elif "CERTIFICATE_VERIFY_FAILED" in reason:
                way_out = f"name the authority of its certificate in {AUTHORITIES}"
            elif reason.startswith("SSLError"):
                way_out = "give --host with http://, if it is not https"
            return BadInput(f"{self.host} does not answer ({reason}): {way_out}.")
        if status == 401 or 300 <= status < 400:
            refused = "refuses the token" if self._token else "wants a token"
            return BadInput(
                f"{self.host} {refused} ({status}): give one in {TOKEN_VARIABLE} or with --token-file FILE."
            )
        if status == 403:
            where = f"in namespace {self.namespace}" if self.namespace else "without a namespace"
            return BadInput(f"{self.host} does not let this account {what} {where} (403){because}; see --namespace.")
        if status == 409 and taken:
            return BadInput(taken)
        kind = BadInput if status < 500 else ProjectError
        return kind(f"{self.host} did not {what} ({status}){because}.")

    def _said(self, body: str | bytes | None) -> str:
        """What the server gives as the reason: one line without the token, "" for a page."""
        text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
        with contextlib.suppress(ValueError, AttributeError):
            answer = json.loads(text)
            text = str(answer.get("error_message") or answer.get("message") or answer.get("error") or "")
        if text.lstrip().startswith("<"):
            return ""
        with contextlib.suppress(ProjectError):
            text = text.replace(self._token.read(), "…") if self._token else text
        text = "".join(sign for sign in " ".join(text.split()) if sign.isprintable()).rstrip(".")
        return text if len(text) <= 300 else text[:300] + "…"


def connect(host: str | None, namespace: str | None = None, token_file: str | None = None) -> Server:
    """Finds the server and sees that it answers.

    Without `host`, a pod finds the server of its cluster, and elsewhere kubectl's current context leads to it, with its
    credentials. With it, the token is the one that `find_token` finds.

    Args:
        host: the address of the user interface or of the API, with or without its scheme.
        namespace: the user's, on a server with users.
        token_file: a file that holds a token.

    Raises:
        BadInput: no server, within 15 seconds, or no token in the file.
    """
    if host is not None and not re.fullmatch(r"(https?://)?[\w.\-\[\]:]+(/[\w.~%:/-]*)?", host):
        raise BadInput("--host must be an address such as https://kubeflow.example.com/pipeline, without credentials.")
    if host is not None and "://" not in host:
        host = f"https://{host}"
    return Server(host, namespace, find_token(token_file))


def _in_time(make: Callable[[], Any]) -> Any:
    """Returns what `make` does, or raises what it raises, but TimeoutError when it takes too long."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append((make(), None))
        except Exception as error:  # raised again below
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(FIRST_SECONDS)
    if not outcome:
        raise TimeoutError(f"no answer in {FIRST_SECONDS:.0f} s")
    made, error = outcome[0]
    if error:
        raise error
    return made


def _cause(error: BaseException) -> str:
    """What keeps a connection from being made, in a few words."""
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "no such host"
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "connection refused" if "refused" in str(error).lower() else "no connection"
    if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
        return f"no answer in {READ_SECONDS:.0f} s"
    return type(error).__name__
