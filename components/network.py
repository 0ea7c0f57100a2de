# SPDX-License-Identifier: Apache-2.0
"""The environment variables of proxies and certificates: the ones in force for a URL, and the unusable ones.

Clients fail in different ways on an unusable variable, and none names it. No message has a variable's value, as a
proxy's address may hold a password. Needs the standard library alone, as `doctor` does.
"""

from __future__ import annotations

import os
import pathlib
import ssl
import urllib.parse
import urllib.request
from typing import NamedTuple

_SCHEMES = ("http", "https")
_PROXIES = tuple(f"{kind}_proxy" for kind in (*_SCHEMES, "all"))
_BUNDLES, _BUNDLES_OF_S3 = ("SSL_CERT_FILE",), ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
_FOLDER, _KEY_LOG = "SSL_CERT_DIR", "SSLKEYLOGFILE"


class Proxy(NamedTuple):
    """A proxy: the name of its variable, and its address, which may hold a password."""

    variable: str
    address: str


def proxy(url: str) -> Proxy | None:
    """Returns the proxy for an http or https URL; None if the connection is direct."""
    parts = urllib.parse.urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    for lower in (f"{parts.scheme}_proxy", "all_proxy"):
        for name in (lower, lower.upper()):
            if address := os.environ.get(name):
                return Proxy(name, address if "://" in address else f"http://{address}")
    return None


def faults(url: str = "", *, direct: bool = False) -> dict[str, str]:
    """Returns the names of the unusable variables, each with the reason but not with its value.

    Args:
        url: limits the check to the variables in force for it; "" for all.
        direct: skips the variables of proxies, for a client that uses none.
    """
    scheme = url.partition(":")[0]
    kinds = () if direct else (f"{scheme}_proxy", "all_proxy") if scheme in _SCHEMES else _PROXIES
    bundles = _BUNDLES if scheme in _SCHEMES else (*_BUNDLES, *_BUNDLES_OF_S3)
    checks = {name: _proxy_fault for kind in kinds for name in (kind, kind.upper())}
    checks.update(dict.fromkeys(bundles, _bundle_fault), **{_FOLDER: _folder_fault, _KEY_LOG: _key_log_fault})
    reasons = {name: check(os.environ[name]) for name, check in checks.items() if os.environ.get(name)}
    return {name: reason for name, reason in reasons.items() if reason}


def described(url: str = "", *, direct: bool = False) -> str:
    """Returns `faults` as a part of a sentence: "HTTPS_PROXY in the environment can't be used (it is no address)"."""
    unusable = faults(url, direct=direct).items()
    return "; ".join(f"{name} in the environment can't be used ({reason})" for name, reason in unusable)


def _proxy_fault(value: str) -> str:
    try:
        parts = urllib.parse.urlsplit(value if "://" in value else f"http://{value}")
        _ = parts.port
    except ValueError:
        return "it is no address"
    if parts.scheme.startswith("socks"):
        return "SOCKS proxies are not supported, only http:// and https://"
    if parts.scheme not in _SCHEMES:
        return "a proxy's address begins with http:// or https://"
    if not parts.hostname or any(sign.isspace() or not sign.isprintable() for sign in value):
        return "it is no address"
    return ""


def _bundle_fault(value: str) -> str:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(**{"capath" if pathlib.Path(value).is_dir() else "cafile": value})
    except ssl.SSLError:
        return "it holds no certificates"
    except (OSError, ValueError) as error:
        return _reason(error)
    return ""


def _folder_fault(value: str) -> str:
    return "" if any(pathlib.Path(folder).is_dir() for folder in value.split(os.pathsep)) else "there is no such folder"


def _key_log_fault(value: str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).keylog_filename = value
    except (OSError, ValueError) as error:
        return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or type(error).__name__).lower()
