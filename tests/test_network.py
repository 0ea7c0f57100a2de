# SPDX-License-Identifier: Apache-2.0
"""The variables that name proxies and certificates."""

from __future__ import annotations

import pytest

from components import network
from tests import certificates

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
FILES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The environment, without what its user has set for the network."""
    for name in (*VARIABLES, *map(str.upper, VARIABLES), *FILES):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("HTTP_PROXY", "socks5h://a:1", "SOCKS proxies are not supported, only http:// and https://"),
        ("https_proxy", "ftp://a", "a proxy's address begins with http:// or https://"),
        ("HTTPS_PROXY", "http://user:pa ss@a:1", "it is no address"),
        ("ALL_PROXY", "http://a:99999", "it is no address"),
        ("all_proxy", "http://:1", "it is no address"),
        ("HTTP_PROXY", "http://[::1", "it is no address"),
        ("SSL_CERT_FILE", "/nonexistent", "no such file or directory"),
        ("AWS_CA_BUNDLE", __file__, "it holds no certificates"),
        ("SSL_CERT_DIR", "/nonexistent:/none", "there is no such folder"),
        ("SSLKEYLOGFILE", "/nonexistent/log", "no such file or directory"),
    ],
)
def test_a_variable_that_cannot_be_used_has_a_reason(environment, name, value, reason):
    environment.setenv(name, value)
    assert network.faults() == {name: reason}
    assert network.described() == f"{name} in the environment can't be used ({reason})"


def test_variables_that_can_be_used_have_none(environment, tmp_path):
    certificate = certificates.write(tmp_path / "certificate.pem")
    environment.setenv("HTTP_PROXY", "a:1")
    environment.setenv("https_proxy", "http://user:p%40ss@a:1/")
    environment.setenv("ALL_PROXY", "https://[::1]:1")
    environment.setenv("SSL_CERT_FILE", str(certificate))
    environment.setenv("SSL_CERT_DIR", f"/nonexistent:{tmp_path}")
    environment.setenv("AWS_CA_BUNDLE", str(tmp_path))
    environment.setenv("NO_PROXY", "[,fd00::/8")
    assert network.faults() == {}
    assert network.described() == ""


def test_only_what_counts_for_an_address_is_described(environment):
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        environment.setenv(name, "socks5://a:1")
    environment.setenv("AWS_CA_BUNDLE", "/nonexistent")
    assert list(network.faults("https://a/b")) == ["HTTPS_PROXY"]
    assert list(network.faults("https://a/b", direct=True)) == []
    assert list(network.faults("s3://a/b")) == ["HTTP_PROXY", "HTTPS_PROXY", "AWS_CA_BUNDLE"]


def test_the_proxy_of_an_address(environment):
    assert network.proxy("https://a/b") is None
    environment.setenv("ALL_PROXY", "all:1")
    environment.setenv("HTTPS_PROXY", "https://secure:1")
    environment.setenv("NO_PROXY", "fd00::/8,.inside,127.0.0.1")
    assert network.proxy("https://a/b") == ("HTTPS_PROXY", "https://secure:1")
    assert network.proxy("http://a/b") == ("ALL_PROXY", "http://all:1")
    assert network.proxy("http://a.inside/b") is None
    assert network.proxy("http://127.0.0.1:80/b") is None
