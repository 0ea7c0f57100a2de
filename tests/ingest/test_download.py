# SPDX-License-Identifier: Apache-2.0
"""Downloads from mirrors on the loopback, good ones and all kinds of bad ones."""

import contextlib
import gzip
import http.server
import pathlib
import re
import socket
import threading
import time

import pytest

from components.errors import BadInput
from components.ingest import download, idx, source

HTML = b"<!DOCTYPE html><html><body>Please log in to the network</body></html>"


@pytest.fixture
def mnist(write_set, tmp_path, monkeypatch):
    """A tiny data set that plays MNIST: the four files, gzipped, by name."""
    original, _ = source.load(write_set(tmp_path / "original"), None, (28, 28))
    for name, digest in original.digests.items():
        monkeypatch.setitem(download.DIGESTS, name, digest)
    folder = pathlib.Path(original.directory)
    return {f"{name}.gz": gzip.compress((folder / name).read_bytes(), mtime=0) for name in idx.FILES}


class MirrorServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.requests = []

    def url(self, behaviour):
        return f"http://127.0.0.1:{self.server_port}/{behaviour}/"


@pytest.fixture
def mirror(mnist, monkeypatch):
    """A server whose folders are mirrors, one for each behaviour; `requests` lists what was requested."""
    stopped = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            behaviour, name = self.path.split("/")[-2:]  # the request to a proxy has the whole address
            server.requests.append((behaviour, name))
            with contextlib.suppress(OSError):  # the client has hung up
                self.respond(behaviour, mnist[name])

        def respond(self, behaviour, body):
            if behaviour == "silent":
                stopped.wait()
                return
            self.send_response(404 if behaviour == "missing" else 200)
            body = {"html": HTML, "html-as-gzip": gzip.compress(HTML), "wrong": mnist[f"{idx.TRAIN_LABELS}.gz"]}.get(
                behaviour, body
            )
            if behaviour == "damaged":
                body = body[:-6] + b"abcdef"
            if behaviour != "endless":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if behaviour == "truncated":
                body = body[: len(body) // 2]
            while behaviour == "endless":
                self.wfile.write(bytes(2**20))
            if behaviour == "stalls":
                self.wfile.write(body[:10])
                stopped.wait()
            for byte in body if behaviour == "drips" else ():
                self.wfile.write(bytes([byte]))
                if stopped.wait(0.02):
                    return
            if behaviour != "drips":
                self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = MirrorServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    stopped.set()
    server.shutdown()
    server.server_close()
    thread.join()


# Failures of a mirror, and the message for each.
BAD_MIRRORS = {
    "missing": "HTTP status 404",
    "html": "a web page",
    "html-as-gzip": "a web page",
    "truncated": "incomplete|without sending complete",
    "damaged": "gzip",
    "wrong": "magic number|SHA-256",
    "endless": "more than",
    "silent": r"silent for 0.3 s\)",
    "stalls": r"silent for 0.3 s\)",
}


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def test_the_files_are_downloaded_and_kept(mirror, mnist, tmp_path):
    calls = []

    download.fetch(tmp_path / "cache", mirrors=[mirror.url("good")], progress=lambda *bytes_: calls.append(bytes_))

    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == mnist
    assert [name for _, name in mirror.requests] == [f"{name}.gz" for name in idx.FILES]
    received, total = zip(*calls, strict=True)
    assert sorted(received) == list(received)
    assert received[-1] == sum(map(len, mnist.values()))
    assert min(total) >= received[-1]

    download.fetch(tmp_path / "cache", mirrors=[mirror.url("good")])
    assert len(mirror.requests) == 4


@pytest.mark.parametrize("behaviour", BAD_MIRRORS)
def test_the_next_mirror_is_tried(behaviour, mirror, mnist, tmp_path):
    download.fetch(tmp_path / "cache", mirrors=[mirror.url(behaviour), mirror.url("good")], timeout=0.3)

    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == mnist
    # A mirror that has failed is not tried again while another delivers.
    failed = [name for mirror_behaviour, name in mirror.requests if mirror_behaviour == behaviour]
    assert failed[0] == f"{idx.TRAIN_IMAGES}.gz"
    assert len(failed) == 1


@pytest.mark.parametrize(("behaviour", "reason"), BAD_MIRRORS.items())
def test_without_a_good_mirror_the_error_names_each_reason(behaviour, reason, mirror, tmp_path):
    closed = f"http://127.0.0.1:{unused_port()}/"

    with pytest.raises(BadInput, match=reason) as error:
        download.fetch(tmp_path / "cache", mirrors=[mirror.url(behaviour), closed], timeout=0.3)

    message = str(error.value)
    assert message.isprintable()
    assert f"{mirror.url(behaviour)} (" in message
    assert f"{closed} (" in message
    assert "--data-dir" in message
    assert "--dataset digits" in message
    assert files(tmp_path / "cache") == []


def test_a_file_with_other_contents_is_refused_by_its_digest(mirror, tmp_path, monkeypatch):
    monkeypatch.setitem(download.DIGESTS, idx.TRAIN_IMAGES, "0" * 64)

    with pytest.raises(BadInput, match="contents with another SHA-256"):
        download.fetch(tmp_path / "cache", mirrors=[mirror.url("good")])

    assert files(tmp_path / "cache") == []


def test_a_mirror_that_drips_is_given_up(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE_SECONDS", 0.2)

    download.fetch(tmp_path / "cache", mirrors=[mirror.url("drips"), mirror.url("good")])

    assert mirror.requests[:2] == [("drips", f"{idx.TRAIN_IMAGES}.gz"), ("good", f"{idx.TRAIN_IMAGES}.gz")]


def test_a_damaged_file_in_the_cache_is_fetched_again(mirror, mnist, tmp_path):
    download.fetch(tmp_path / "cache", mirrors=[mirror.url("good")])
    labels = tmp_path / "cache" / f"{idx.TEST_LABELS}.gz"
    labels.write_bytes(labels.read_bytes()[:-1])

    download.fetch(tmp_path / "cache", mirrors=[mirror.url("good")])

    assert labels.read_bytes() == mnist[labels.name]
    assert mirror.requests[4:] == [("good", labels.name)]


def test_a_cache_that_cannot_be_written_is_named(mirror, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(BadInput, match=r"file/mnist cannot be written .* XDG_CACHE_HOME"):
        download.fetch(tmp_path / "file" / "mnist", mirrors=[mirror.url("good")])


def test_the_first_mirror_to_respond_comes_first(mirror):
    mirrors = [mirror.url("missing"), mirror.url("silent"), mirror.url("good")]

    assert download.order_mirrors(mirrors) == [mirrors[2], *mirrors[:2]]


@pytest.mark.parametrize(
    ("behaviour", "seconds", "reason"),
    [("missing", 30, "HTTP status 404"), ("silent", 0.3, "(silent for|no response within) 0.3 s")],
)
def test_without_a_response_each_mirror_has_a_reason(behaviour, seconds, reason, mirror):
    url = mirror.url(behaviour)

    with pytest.raises(download.MirrorsFailedError, match=rf"\.gz: {url} \({reason}\)\. Give") as error:
        download.order_mirrors([url], seconds=seconds)

    assert re.fullmatch(rf"{url} \({reason}\)", error.value.reasons)
    wait_for_probes()


def test_a_name_server_that_hangs_ends_in_time(tmp_path, monkeypatch):
    hang = threading.Event()

    def getaddrinfo(*arguments, **options):
        hang.wait()
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        with pytest.raises(download.MirrorsFailedError, match=r"mirror\.invalid/ \(no response within 0\.2 s\)"):
            download.order_mirrors(["http://mirror.invalid/"], seconds=0.2)
    finally:
        hang.set()
        wait_for_probes()


# Variables that httpx, left to itself, raises one of many kinds of errors for.
UNUSABLE = {
    "ALL_PROXY": "socks5://user:secret@127.0.0.1:9",
    "http_proxy": "http://user:secret@host:port",
    "HTTP_PROXY": "http://[::1",
    "SSL_CERT_FILE": "/nonexistent/secret",
    "SSL_CERT_DIR": "/nonexistent/secret",
    "SSLKEYLOGFILE": "/nonexistent/secret",
}


@pytest.fixture
def no_proxies(monkeypatch):
    """This process's environment without what its user has set for the network."""
    for name in (*UNUSABLE, "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(("name", "value"), UNUSABLE.items())
def test_a_variable_that_cannot_be_used_is_named_and_its_value_is_not(name, value, no_proxies, tmp_path):
    no_proxies.setenv(name, value)
    mirror = f"http://mirror.invalid:{unused_port()}/"
    no_proxies.setattr(socket, "getaddrinfo", lambda *arguments, **options: [])

    with pytest.raises(BadInput, match=rf"\(.*{name} in the environment can't be used \(") as error:
        download.fetch(tmp_path / "cache", mirrors=[mirror])
    with pytest.raises(BadInput, match=f"{name} in the environment can't be used") as no_response:
        download.order_mirrors([mirror])

    assert "secret" not in f"{error.value} {no_response.value}"
    wait_for_probes()


def test_a_proxy_is_gone_through(mirror, mnist, no_proxies, tmp_path):
    no_proxies.setenv("HTTP_PROXY", f"127.0.0.1:{mirror.server_port}")

    download.fetch(tmp_path / "cache", mirrors=["http://mirror.invalid/good/"])

    assert files(tmp_path / "cache") == sorted(mnist)


@pytest.mark.parametrize("excepted", ["127.0.0.1,fd00::/8,[::1]", "[, 127.0.0.1 ,http://a b", "*"])
def test_hosts_without_a_proxy_may_be_written_in_any_way(excepted, mirror, mnist, no_proxies, tmp_path):
    no_proxies.setenv("NO_PROXY", excepted)
    no_proxies.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_port()}")

    download.fetch(tmp_path / "cache", mirrors=[mirror.url("good")])

    assert files(tmp_path / "cache") == sorted(mnist)


def test_a_proxy_that_does_not_answer_is_named(no_proxies, tmp_path):
    no_proxies.setenv("http_proxy", f"http://user:secret@127.0.0.1:{unused_port()}")

    with pytest.raises(BadInput, match="refused, through the proxy that http_proxy names") as error:
        download.fetch(tmp_path / "cache", mirrors=["http://mirror.invalid/good/"])

    assert "secret" not in str(error.value)


def test_an_unexpected_error_of_a_probe_is_a_reason(no_proxies):
    def fail(*arguments):
        raise RuntimeError

    no_proxies.setattr(download, "_connect", fail)
    with pytest.raises(download.MirrorsFailedError, match=r"http://mirror\.invalid/ \(RuntimeError\)"):
        download.order_mirrors(["http://mirror.invalid/"])


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for_probes() -> None:
    """Waits for the threads of `order_mirrors`, so that they don't reach into the next test."""
    deadline = time.monotonic() + 10
    for thread in threading.enumerate():
        if thread.name == "mnist-mirror":
            thread.join(deadline - time.monotonic())
