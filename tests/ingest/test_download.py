# SPDX-License-Identifier: Apache-2.0
"""Downloads from mirrors on the loopback, good ones and all kinds of bad ones."""

import contextlib
import gzip
import http.server
import pathlib
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
    found, _ = source.load(write_set(tmp_path / "original"), None, (28, 28))
    for name, digest in found.digests.items():
        monkeypatch.setitem(download.DIGESTS, name, digest)
    folder = pathlib.Path(found.directory)
    return {f"{name}.gz": gzip.compress((folder / name).read_bytes(), mtime=0) for name in idx.FILES}


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.requests = []

    def url(self, behaviour):
        return f"http://127.0.0.1:{self.server_port}/{behaviour}/"


@pytest.fixture
def mirror(mnist, monkeypatch):
    """A server whose folders are mirrors, one for each behaviour; `requests` lists what was asked for."""
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            behaviour, name = self.path.split("/")[-2:]  # of a proxy, the whole address is asked for
            server.requests.append((behaviour, name))
            with contextlib.suppress(OSError):  # the client has hung up
                self.answer(behaviour, mnist[name])

        def answer(self, behaviour, body):
            if behaviour == "silent":
                done.wait()
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
                done.wait()
            for byte in body if behaviour == "drips" else ():
                self.wfile.write(bytes([byte]))
                if done.wait(0.02):
                    return
            if behaviour != "drips":
                self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    done.set()
    server.shutdown()
    server.server_close()
    thread.join()


# How a mirror fails, and what is said about it.
BAD_MIRRORS = {
    "missing": "HTTP status 404",
    "html": "a web page",
    "html-as-gzip": "a web page",
    "truncated": "incomplete|without sending complete",
    "damaged": "gzip",
    "wrong": "magic number|SHA-256",
    "endless": "more than",
    "silent": "silent for 0.3 seconds",
    "stalls": "silent for 0.3 seconds",
}


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def test_the_files_are_downloaded_and_kept(mirror, mnist, tmp_path):
    seen = []

    download.fetch(tmp_path / "cache", mirrors=[mirror.url("good")], progress=lambda *bytes_: seen.append(bytes_))

    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == mnist
    assert [name for _, name in mirror.requests] == [f"{name}.gz" for name in idx.FILES]
    done, total = zip(*seen, strict=True)
    assert sorted(done) == list(done)
    assert done[-1] == sum(map(len, mnist.values()))
    assert min(total) >= done[-1]

    download.fetch(tmp_path / "cache", mirrors=[mirror.url("good")])
    assert len(mirror.requests) == 4


@pytest.mark.parametrize("behaviour", BAD_MIRRORS)
def test_the_next_mirror_is_tried(behaviour, mirror, mnist, tmp_path):
    download.fetch(tmp_path / "cache", mirrors=[mirror.url(behaviour), mirror.url("good")], timeout=0.3)

    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == mnist
    # Once a mirror has failed, it is not waited for again while another delivers.
    failed = [name for which, name in mirror.requests if which == behaviour]
    assert failed[0] == f"{idx.TRAIN_IMAGES}.gz"
    assert len(failed) == 1


@pytest.mark.parametrize(("behaviour", "reason"), BAD_MIRRORS.items())
def test_without_a_good_mirror_it_says_why_and_keeps_nothing(behaviour, reason, mirror, tmp_path):
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


def test_within_its_time_it_downloads(mirror, mnist, tmp_path):
    assert download.fetch_within(tmp_path / "cache", mirrors=[mirror.url("missing"), mirror.url("good")]) is None

    assert files(tmp_path / "cache") == sorted(mnist)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("missing", "it could be had from no mirror"),
        ("silent", "no mirror answered within 0.4 seconds"),
        ("drips", "the download would take longer than 0.8 seconds"),
    ],
)
def test_it_gives_up_in_time(behaviour, reason, mirror, tmp_path):
    mirrors = [mirror.url(behaviour)]

    failure = download.fetch_within(tmp_path / "cache", mirrors=mirrors, answer_seconds=0.4, total_seconds=0.8)

    assert failure == reason
    wait_for_downloads()
    assert files(tmp_path / "cache") == []


def test_a_name_server_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    hang = threading.Event()

    def getaddrinfo(*arguments, **options):
        hang.wait()
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        failure = download.fetch_within(tmp_path, mirrors=["http://mirror.invalid/"], answer_seconds=0.2)
        assert failure == "no mirror answered within 0.2 seconds"
    finally:
        hang.set()
        wait_for_downloads()


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
    failure = download.fetch_within(tmp_path / "cache", mirrors=[mirror])

    assert failure is not None
    assert failure.startswith(f"it could be had from no mirror, as {name} in the environment can't be used (")
    assert "secret" not in str(error.value) + failure
    wait_for_downloads()


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


def test_whatever_a_download_raises_it_ends_with_a_reason(monkeypatch, tmp_path):
    def fail(*arguments):
        raise RuntimeError

    monkeypatch.setattr(download, "_fetch", fail)
    assert download.fetch_within(tmp_path) == "the download failed (RuntimeError)"


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for_downloads() -> None:
    """Waits for the threads that were left behind, so that they don't reach into the next test."""
    deadline = time.monotonic() + 10
    for thread in threading.enumerate():
        if thread.name == "mnist-download":
            thread.join(deadline - time.monotonic())
