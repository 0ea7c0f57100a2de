# SPDX-License-Identifier: Apache-2.0
"""Data sets in S3 and on a web server, both on loopback, good ones and bad ones."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import os
import pathlib
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from components.errors import BadInput
from components.ingest import download, idx, source
from tests import certificates, object_stores
from tests.object_stores import S3

SHAPE = (28, 28)


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with object_stores.running() as running:
        yield running


@pytest.fixture
def upload(server: S3) -> Callable[..., str]:
    """Puts the files of a folder, and of folders in it, into an empty bucket."""
    bucket = server.bucket("data")

    def upload(folder: pathlib.Path, prefix: str = "digits") -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                bucket.upload_file(str(path), f"{prefix}/{path.relative_to(folder).as_posix()}")
        return f"s3://data/{prefix}"

    return upload


class Web(http.server.ThreadingHTTPServer):
    """Serves `pages`: bytes, a status, or a function that takes the handler."""

    daemon_threads = True

    def __init__(self) -> None:
        self.pages: dict[str, bytes | int | Callable[[http.server.BaseHTTPRequestHandler], None]] = {}
        self.requested: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def __getattr__(self, name: str) -> Any:
        if name in ("do_GET", "do_HEAD"):
            return self.respond
        raise AttributeError(name)

    def respond(self) -> None:
        assert isinstance(self.server, Web)
        self.server.requested.append(f"{self.command} {self.path} {self.headers['Accept-Encoding']}")
        page = self.server.pages.get(self.path, 404)
        if callable(page):
            page(self)
            return
        self.send_response(page if isinstance(page, int) else 200)
        self.send_header("Content-Length", str(0 if isinstance(page, int) else len(page)))
        self.end_headers()
        if not isinstance(page, int):
            self.wfile.write(page)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def pages(write_set: Callable[..., pathlib.Path], tmp_path: pathlib.Path, web: Web) -> dict[str, Any]:
    """A data set on the web server, in /data; the images gzipped."""
    folder = write_set(tmp_path / "original")
    for name in idx.FILES:
        content = (folder / name).read_bytes()
        if "images" in name:
            web.pages[f"/data/{name}.gz"] = gzip.compress(content)
        else:
            web.pages[f"/data/{name}"] = content
    return web.pages


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_bucket_is_read_as_a_folder_is(
    write_set: Any, upload: Any, tmp_path: pathlib.Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_set(tmp_path / "data", suffix=suffix)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    url = upload(folder)
    local, _ = source.load(folder, None, SHAPE)
    remote, contents = source.load(f"{url}/", None, SHAPE)
    assert (remote.data_dir, remote.directory, remote.span) == (url, url, None)
    assert (remote.sha256, remote.digests, remote.images) == (local.sha256, local.digests, 58)
    assert contents[idx.TEST_IMAGES].array.shape == (10, 28, 28)
    assert list((tmp_path / "temporary").iterdir()) == []
    choice = source.resolve("auto", url, image_shape=SHAPE, custom_name="buttons")
    assert choice.sentence == f"Data set buttons: the files in {url}."


def test_spans_of_a_bucket(write_set: Any, upload: Any, server: S3, tmp_path: pathlib.Path) -> None:
    for number in (2, 10):
        write_set(tmp_path / "data" / f"span-{number}", seed=number)
    url = upload(tmp_path / "data")
    for key in ("digits/", "digits/span-2/", "digits/span-10/", "digits/notes/"):  # as a store's own page makes them
        server.resource("data").put_object(Key=key, Body=b"")
    newest, _ = source.load(url, None, SHAPE)
    assert (newest.span, newest.directory, newest.data_dir) == (10, f"{url}/span-10", url)
    older, _ = source.load(url, 2, SHAPE)
    assert (older.span, older.directory) == (2, f"{url}/span-2")
    assert older.sha256 == source.load(tmp_path / "data", 2, SHAPE)[0].sha256 != newest.sha256
    with pytest.raises(BadInput, match=rf"^{url}: span: expected a folder span-3, found spans 2, 10\."):
        source.load(url, 3, SHAPE)


def test_the_executor_writes_the_same_examples_from_a_bucket(
    write_set: Any, upload: Any, run_executor: Any, tmp_path: pathlib.Path
) -> None:
    folder = write_set(tmp_path / "data")
    artifacts = [
        run_executor(to, data_dir=data_dir, dataset_name="custom")
        for to, data_dir in (("a", str(folder)), ("b", upload(folder)))
    ]
    files = [
        {
            path.relative_to(artifact.uri): path.read_bytes()
            for path in pathlib.Path(artifact.uri).rglob("data_tfrecord*")
        }
        for artifact in artifacts
    ]
    assert len(files[0]) == 3
    assert files[0] == files[1]


def in_folders(folder: pathlib.Path) -> None:
    """Each file in a folder of its own name, as some mirrors have them."""
    for name in idx.FILES:
        (folder / name).rename(folder / "file")
        (folder / name).mkdir()
        (folder / "file").rename(folder / name / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / idx.TEST_LABELS).unlink(), f": {idx.TEST_LABELS}: expected .*, found only "),
        (lambda folder: (folder / idx.TEST_LABELS).write_bytes(b""), f"/{idx.TEST_LABELS}: size: .*an empty file"),
        (
            lambda folder: (folder / idx.TEST_LABELS).write_bytes(b"<html>"),
            f"/{idx.TEST_LABELS}: magic number: .*a web page",
        ),
        (
            lambda folder: (folder / f"{idx.TEST_LABELS}.gz").write_bytes(
                gzip.compress(idx.header((10,)) + b"\7" * 10)
            ),
            f"/{idx.TEST_LABELS}: contents: expected those of {idx.TEST_LABELS}.gz beside it, found different",
        ),
        (
            lambda folder: (folder / idx.TEST_LABELS).rename(folder / "t10k-labels.idx1-ubyte"),
            f": {idx.TEST_LABELS}: .* Rename t10k-labels.idx1-ubyte to {idx.TEST_LABELS}\\.",
        ),
        (
            lambda folder: [
                ((folder / "raw").mkdir(exist_ok=True), (folder / name).rename(folder / "raw" / name))
                for name in idx.FILES
            ],
            ": train-images-idx3-ubyte: .* Name that folder: --data-dir s3://data/digits/raw",
        ),
        (
            in_folders,
            f": {idx.TRAIN_IMAGES}: .* Put the file {idx.TRAIN_IMAGES}/{idx.TRAIN_IMAGES} in place of the folder",
        ),
    ],
    ids=["missing", "empty", "page", "both", "dot", "parent", "folders"],
)
def test_errors_name_the_url(write_set: Any, upload: Any, tmp_path: pathlib.Path, change: Any, message: str) -> None:
    folder = write_set(tmp_path / "data")
    change(folder)
    with pytest.raises(BadInput, match=rf"^s3://data/digits{message}"):
        source.load(upload(folder), None, SHAPE)


def test_the_same_file_plain_and_gzipped_is_read(write_set: Any, upload: Any, tmp_path: pathlib.Path) -> None:
    folder = write_set(tmp_path / "data")
    (folder / f"{idx.TEST_LABELS}.gz").write_bytes(gzip.compress((folder / idx.TEST_LABELS).read_bytes()))
    assert source.load(upload(folder), None, SHAPE)[0].sha256 == source.load(folder, None, SHAPE)[0].sha256


def test_an_empty_prefix_and_a_missing_bucket_are_refused(server: S3, upload: Any) -> None:
    for url in ("s3://data/nothing", "s3://nobody/digits"):
        with pytest.raises(
            BadInput, match=rf"^{url}: .*there is no such bucket, folder or file\. Check the address\.$"
        ):
            source.load(url, None, SHAPE)


@pytest.mark.parametrize("url", ["ftp://host/data", "https://someone:hunter2@host/data", "http://host/data"])
def test_a_url_that_is_refused_is_not_requested(url: str) -> None:
    with pytest.raises(BadInput, match=r"^--data-dir takes ") as refused:
        source.load(url, None, SHAPE)
    assert "hunter2" not in str(refused.value)


def test_each_file_of_a_web_server_is_requested_once_as_it_is(web: Web, pages: Any, tmp_path: pathlib.Path) -> None:
    dataset, _ = source.load(f"{web.url}/data", None, SHAPE)
    assert dataset.sha256 == source.load(tmp_path / "original", None, SHAPE)[0].sha256
    assert dataset.directory == f"{web.url}/data"
    images = [f"GET /data/{name}.gz identity" for name in idx.FILES if "images" in name]
    labels = [f"GET /data/{name}{suffix} identity" for name in idx.FILES if "labels" in name for suffix in ("", ".gz")]
    assert sorted(web.requested) == sorted(images + labels)
    with pytest.raises(BadInput, match=r"found a web server\. Give the address of the span's own folder\.$"):
        source.load(f"{web.url}/data", 3, SHAPE)


def test_bad_responses_of_a_web_server(web: Web, pages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = f"/data/{idx.TRAIN_LABELS}"

    def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(bytes(2**16))

    def dripping(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(b"x")
                time.sleep(0.05)

    def broken_off(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        handler.wfile.write(b"x")
        handler.connection.close()

    monkeypatch.setattr(idx, "MAX_BYTES", 2**20)
    monkeypatch.setattr(download, "PATIENCE_SECONDS", 0.3)
    for page, message in (
        (404, "expected .*, found only"),
        (403, "access to it is refused"),
        (500, "HTTP status 500"),
        (endless, "expected at most 1048576 bytes, found more"),
        (dripping, "expected 4096 bytes a second, found only"),
        (broken_off, "reading or writing failed"),
    ):
        pages[labels] = page
        with pytest.raises(BadInput, match=message) as refused:
            source.load(f"{web.url}/data", None, SHAPE)
        assert str(refused.value).startswith(f"{web.url}/data")
        assert "\n" not in str(refused.value)


def test_a_folder_that_is_none_and_a_port_that_is_closed(web: Web) -> None:
    with pytest.raises(BadInput, match=rf"^{web.url}/none: .*, found neither\."):
        source.load(f"{web.url}/none", None, SHAPE)
    web.server_close()
    web.shutdown()
    with pytest.raises(BadInput, match="it does not answer"):
        source.load(f"{web.url}/data", None, SHAPE)


def redirection(to: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    """Redirects to the file of that name below another URL."""

    def redirect(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"{to}/{handler.path.rpartition('/')[2]}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return redirect


@pytest.fixture
def certificate(tmp_path: pathlib.Path) -> pathlib.Path:
    return certificates.write(tmp_path / "certificate.pem")


def test_a_redirection_is_followed_but_not_from_https_to_http(
    web: Web, pages: Any, certificate: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for path in list(pages):
        pages[path.replace("/data", "/moved")] = redirection(f"{web.url}/data")
    assert source.load(f"{web.url}/moved", None, SHAPE)[0].images == 58

    with Web() as secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        secure.pages = {**pages, **{path: redirection(f"{web.url}/data") for path in pages if "/moved" in path}}
        thread = threading.Thread(target=secure.serve_forever, daemon=True)
        thread.start()
        url = secure.url.replace("http", "https")
        # In a process of its own: the client reads the trusted authorities when it is imported.
        program = (
            "import sys\n"
            "from components.errors import BadInput\n"
            "from components.ingest import source\n"
            "for name in ('data', 'moved'):\n"
            "    try: print(source.load(f'{sys.argv[1]}/{name}', None, (28, 28))[0].images)\n"
            "    except BadInput as refusal: print(refusal)\n"
        )
        lines = [
            subprocess.run(
                [sys.executable, "-c", program, url],
                cwd=pathlib.Path(__file__).parents[2],
                env={**os.environ, **trust},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.splitlines()
            for trust in ({"SSL_CERT_FILE": str(certificate)}, {})
        ]
        secure.shutdown()
        thread.join()
    assert lines[0][0] == "58"
    assert "expected https throughout, found a redirect to http. Give the final address." in lines[0][1]
    assert all(
        "found that its certificate is not trusted. Name its authority in SSL_CERT_FILE" in line for line in lines[1]
    )
    assert len(lines[1]) == 2
