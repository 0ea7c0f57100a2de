# SPDX-License-Identifier: Apache-2.0
"""Messages for refused URLs and unreachable stores: one sentence, without secrets."""

from __future__ import annotations

import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from components import storage
from components.errors import BadInput
from components.ingest import remote
from components.push.serving_dir import open_destination
from tests import object_stores
from tests.object_stores import REFUSED, S3


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with object_stores.running() as running:
        running.bucket("models")
        yield running


@pytest.fixture
def s3(server: S3) -> Iterator[S3]:
    yield server
    server.reset()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/data", "begins with ftp://host"),
        ("s3://", "begins with s3://"),
        ("https:///data", "begins with https://"),
        ("https://someone:hunter2@host/data", "that of host has one"),
        ("https://hunter2@host/data", "that of host has one"),
        ("https://host/data?X-Amz-Signature=hunter2", "that of host has one"),
        ("s3://bucket/data#hunter2", "that of bucket has one"),
        ("http://host/data", "only from this machine; received http://host"),
        ("http://10.0.0.1/data", "only from this machine; received http://10.0.0.1"),
        ("https://[hunter2/data", "cannot be read"),
        ("https://host:hunter2/data", "cannot be read"),
    ],
)
def test_a_url_is_refused_without_what_may_be_secret_in_it(url: str, message: str) -> None:
    with pytest.raises(BadInput, match=r"^data-dir takes ") as refused:
        storage.check(url, "data-dir", "s3", "https", "http")
    assert message in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/a/b", "http://localhost:80/a", "http://[::1]/a"])
def test_a_url_that_is_taken_loses_its_last_slash(url: str) -> None:
    assert storage.check(f"{url}/", "data-dir", "s3", "http") == url


def test_a_path_is_no_url() -> None:
    assert not any(map(storage.is_url, ("/data", "data", "s3", "C:/data")))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("bucket", "s3://nobody/mnist: expected a folder that can be used, found that there is no such bucket"),
        ("refused", "access to it is refused. Check the credentials in the environment"),
        ("none", "no credentials were found. Check the credentials in the environment"),
        ("closed", "it does not answer. Check the address, the endpoint in the environment (AWS_ENDPOINT_URL)"),
        ("silent", "it does not answer. Check the address"),
    ],
)
def test_a_store_that_cannot_be_used(s3: S3, case: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if case == "refused":
            s3.before = lambda method, path: REFUSED
        elif case == "none":
            monkeypatch.delenv("AWS_ACCESS_KEY_ID")
            monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        elif case == "silent":  # connections are taken, and nothing is ever said on them
            monkeypatch.setattr(storage, "SILENT_SECONDS", 0.2)
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        elif case == "closed":
            listener.close()
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        started = time.monotonic()
        with pytest.raises(BadInput) as refused:
            open_destination("s3://nobody/mnist" if case == "bucket" else "s3://models/mnist").numbers()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not any(secret in str(refused.value) for secret in list(object_stores.ENVIRONMENT.values())[:2])
    assert refused.value.__suppress_context__
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AWS_PROFILE", "secret", "the AWS client cannot be set up (ProfileNotFound). Check AWS_PROFILE."),
        ("AWS_CONFIG_FILE", "", "the AWS client cannot be set up (ConfigParseError). Check AWS_CONFIG_FILE"),
        ("AWS_ENDPOINT_URL", "secret", "(AWS_ENDPOINT_URL)"),
        ("HTTP_PROXY", "http://user:secret@host:x", "HTTP_PROXY in the environment can't be used (it is no address)."),
        ("SSLKEYLOGFILE", "/nonexistent/secret", "SSLKEYLOGFILE in the environment can't be used"),
    ],
)
def test_a_variable_of_the_client_that_cannot_be_used_is_named(
    name: str, value: str, message: str, s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    del s3  # the credentials
    (tmp_path / "broken").write_text("no configuration [[[")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.invalid" if "PROXY" in name else "https://127.0.0.1:9")
    monkeypatch.setenv(name, value or str(tmp_path / "broken"))
    with pytest.raises(BadInput) as refused:
        open_destination("s3://models/mnist").numbers()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_proxy_on_the_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://user:secret@127.0.0.1:9")
    reason = r"does not answer.*the proxy that https_proxy names"
    with pytest.raises(BadInput, match=reason) as refused, remote.local_copy("https://store.invalid/mnist"):
        pass
    assert "secret" not in str(refused.value)


def test_a_run_on_folders_imports_no_client() -> None:
    program = (
        "import sys, runner_local\n"
        "from pipeline import settings\n"
        "from components.ingest import source\n"
        "from components.push import versions, publish\n"
        "versions.serving_state('/nowhere')\n"
        "print({'fsspec', 's3fs', 'gcsfs', 'aiohttp', 'botocore'} & set(sys.modules))\n"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout == "set()\n"
