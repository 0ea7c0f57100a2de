# SPDX-License-Identifier: Apache-2.0
"""Remote files by URL, through fsspec: object stores (s3://, gs://) and web servers (https://).

Credentials and endpoints come from the environment variables of the stores' own clients (docs/kubeflow.md lists them).
They are never part of a URL, as URLs appear in records, reports and logs.

fsspec and the clients are imported when a URL is used: they take a second, and a run on folders needs none.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import pathlib
import urllib.parse
from collections.abc import Iterator
from typing import Any

from components import network
from components.errors import BadInput, ProjectError, Unavailable

OBJECT_STORES = ("s3", "gs")
WEB = ("https", "http")
# Seconds that a server may take to accept a connection, and to send more data after that.
CONNECT_SECONDS, SILENT_SECONDS = 5, 20

# HTTP statuses of transient failures.
_TRANSIENT = {"408", "429", "500", "502", "503", "504"}
_SILENCE = "it does not answer"
_CREDENTIALS = "Check the credentials in the environment (docs/kubeflow.md names the variables)."
_ADDRESS = "Check the address and the network."
_CERTIFICATE = "Name its authority in SSL_CERT_FILE, for s3:// in AWS_CA_BUNDLE."
_ENDPOINT = "Check the address, the endpoint in the environment (AWS_ENDPOINT_URL) and the network."
# By name, so that no client has to be imported.
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError"}
_NOT_TRUSTED = {"ClientConnectorCertificateError", "SSLError"}
# Errors in the AWS clients' settings: the variables to check.
_AWS_SETTINGS = {
    "ProfileNotFound": "AWS_PROFILE",
    "ConfigParseError": "AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE, or the files in ~/.aws",
    "ConfigNotFound": "AWS_CONFIG_FILE",
    "InvalidRegionError": "AWS_DEFAULT_REGION",
    "InvalidRetryModeError": "AWS_RETRY_MODE",
    "InvalidMaxRetryAttemptsError": "AWS_MAX_ATTEMPTS",
}
_NO_RESPONSE = {
    "ClientConnectorError", "ConnectTimeoutError", "ConnectionClosedError", "EndpointConnectionError", "FSTimeoutError",
    "ReadTimeoutError", "ServerDisconnectedError", "ServerTimeoutError", "SocketTimeoutError", "TransportError",
}  # fmt: skip


def is_url(path: str | os.PathLike[str]) -> bool:
    """Returns True for a URL, False for a path."""
    return "://" in os.fspath(path)


def check(url: str, setting: str, *schemes: str) -> str:
    """Returns a URL without its trailing slashes.

    Args:
        url: from the user.
        setting: name of the setting, for the message.
        *schemes: the allowed ones.

    Raises:
        BadInput: another scheme, no bucket or host, a user, a password, a query or a fragment in it, or plain http to
            another machine, as the data could be changed on the way.
    """
    rule = f"{setting} takes a folder or a URL that begins with {', '.join(f'{scheme}://' for scheme in schemes)}"
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        raise BadInput(f"{rule}; received a URL that cannot be read. Check its host and port.") from None
    if parts.scheme not in schemes or not host:
        raise BadInput(f"{rule} and a name; received one that begins with {parts.scheme}://{host}.")
    # The message omits the refused part, which may be a secret.
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise BadInput(
            f"{setting} takes a URL without user, password, query and fragment; that of {host} has one. {_CREDENTIALS}"
        )
    if parts.scheme == "http" and not _is_loopback(host):
        raise BadInput(
            f"{setting} takes https://, and http:// only from this machine; received http://{host}. Use https."
        )
    return url.rstrip("/")


def connect(url: str) -> tuple[Any, str]:
    """Returns the file system of a URL from `check`, and the URL's path in it.

    Returns:
        An `fsspec.AbstractFileSystem` without caches, so that it sees changes by other processes, and the path.
    """
    scheme, _, path = url.partition("://")
    with refusals(url):
        if scheme == "s3":
            from s3fs import S3FileSystem

            timeouts = {"connect_timeout": CONNECT_SECONDS, "read_timeout": SILENT_SECONDS}
            config = {**timeouts, "retries": {"total_max_attempts": 3}}
            files = S3FileSystem(config_kwargs=config, use_listings_cache=False, skip_instance_cache=True)
            files.retries = 1  # s3fs's own, each of which makes three of botocore's
            return files, path
        import aiohttp

        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
        if scheme == "gs":
            # The JSON API alone: the class that gcsfs exports queries each bucket by gRPC first.
            from gcsfs.core import GCSFileSystem

            # It logs the traceback of each error before it raises it.
            logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
            client = {"session_kwargs": {"trust_env": True}, "requests_timeout": timeout}
            return GCSFileSystem(**client, use_listings_cache=False, skip_instance_cache=True), path
        from fsspec.implementations.http import HTTPFileSystem

        # Gzipped files stay so: `ingest.idx` unpacks them with care.
        client = {"client_kwargs": {"timeout": timeout, "trust_env": True, "auto_decompress": False}}
        return HTTPFileSystem(**client, use_listings_cache=False, skip_instance_cache=True), url


def fetch(url: str, folder: pathlib.Path) -> None:
    """Copies every object below a URL into a folder, which is made even if there are none.

    Raises:
        BadInput: the store cannot be used, or the name of an object leads out of the folder.
    """
    files, root = connect(url)
    folder.mkdir(parents=True, exist_ok=True)
    with refusals(url):
        for name in files.find(root):
            files.get_file(name, str(inside(folder, name.removeprefix(f"{root}/"), url)))


def inside(folder: pathlib.Path, name: str, url: str) -> pathlib.Path:
    """Returns the path for an object of this name in a folder, and makes its parent.

    Raises:
        BadInput: the name leads out of the folder.
    """
    target = folder / name
    if not target.resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"{url}: the name of an object leads out of it: {name!r}. Remove it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


@contextlib.contextmanager
def refusals(url: str) -> Iterator[None]:
    """Turns the clients' errors into one sentence without credentials.

    Raises:
        BadInput: the path does not exist, access is refused, or the store cannot be used.
        Unavailable: the store does not respond.
    """
    try:
        yield
    except ProjectError:
        raise
    except Exception as error:  # each client has a family of errors of its own
        reason, way_out = _reason(error)
        kind = Unavailable if reason == _SILENCE or _status(error) in _TRANSIENT else BadInput
        if way_out is not _CREDENTIALS and (fault := network.described(url)):
            kind, way_out = BadInput, f"{fault}."
        elif way_out is _ADDRESS and url.startswith("s3:"):
            way_out = _ENDPOINT
        elif way_out is _ADDRESS and (proxy := network.proxy(url)):
            way_out = f"Check the address, the network and the proxy that {proxy.variable} names."
        raise kind(f"{url}: expected a folder that can be used, found that {reason}. {way_out}") from None


def _reason(error: Exception) -> tuple[str, str]:
    """Returns the meaning of an error, and the way out."""
    names = {kind.__name__ for kind in type(error).__mro__}
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status == "404":
        return "there is no such bucket, folder or file", "Check the address."
    if isinstance(error, PermissionError) or status in {"401", "403"} or str(error).startswith("Forbidden:"):
        return "access to it is refused", _CREDENTIALS
    if names & _NO_CREDENTIALS:
        return "no credentials were found", _CREDENTIALS
    for name in names & _AWS_SETTINGS.keys():
        return f"the AWS client cannot be set up ({name})", f"Check {_AWS_SETTINGS[name]}."
    if names & _NOT_TRUSTED:
        return "its certificate is not trusted", _CERTIFICATE
    if isinstance(error, TimeoutError | ConnectionError) or names & _NO_RESPONSE:
        return _SILENCE, _ADDRESS
    number = getattr(error, "errno", None)
    detail = f"HTTP status {status}" if status.isdecimal() else os.strerror(number).lower() if number else ""
    return f"reading or writing failed ({type(error).__name__}{detail and ': '}{detail})", _ADDRESS


def _status(error: Exception) -> str:
    """Returns the HTTP status of a client's error, or of the botocore error that caused it; "" without one."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    if status is None and isinstance(response := getattr(error.__cause__, "response", None), dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return str(status or "")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
