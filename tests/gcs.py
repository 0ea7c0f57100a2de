# SPDX-License-Identifier: Apache-2.0
"""Of Google Cloud Storage what gcsfs asks it for here, on the loopback interface: its JSON API, with generations.

https://cloud.google.com/storage/docs/json_api/v1 describes it. It shows which requests are made and that they suffice;
what Google answers to each is taken from there.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class Gcs(http.server.ThreadingHTTPServer):
    """The server.

    Attributes:
        objects: bucket and name of each object -> its content.
        before: called with the method and the path of each request before it is answered; it may wait.
    """

    daemon_threads = True

    def __init__(self, *buckets: str) -> None:
        self.buckets = buckets
        self.objects: dict[tuple[str, str], bytes] = {}
        self.before: Callable[[str, str], Any] = lambda method, path: None
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def response(
        self, method: str, path: str, query: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, Any] | bytes]:
        """Status and answer of a request; the path without `/storage/v1/b/`, still quoted."""
        bucket, _, rest = path.partition("/o")
        if bucket not in self.buckets:
            return 404, {"error": {"code": 404, "message": "The specified bucket does not exist."}}
        name = urllib.parse.unquote(rest.removeprefix("/").partition("/rewriteTo/")[0])
        if method == "POST" and not name:
            _, about, content = body.split(b"\n\n", 2)
            name = json.loads(about.partition(b"\n--==0==")[0])["name"]
            if query.get("ifGenerationMatch") == "0" and (bucket, name) in self.objects:
                return 412, {"error": {"code": 412, "message": "conditionNotMet"}}
            self.objects[bucket, name] = content.removesuffix(b"\n--==0==--")
            return 200, self._about(bucket, name)
        if not name:
            return 200, self._list(bucket, query.get("prefix", ""), query.get("delimiter", ""))
        if (bucket, name) not in self.objects:
            return 404, {"error": {"code": 404, "message": "No such object"}}
        if method == "POST":
            target = urllib.parse.unquote(rest.partition("/rewriteTo/b/")[2].partition("/o/")[2])
            self.objects[bucket, target] = self.objects[bucket, name]
            return 200, {"done": True, "resource": self._about(bucket, target)}
        if method == "DELETE":
            del self.objects[bucket, name]
            return 204, b""
        return 200, self.objects[bucket, name] if query.get("alt") == "media" else self._about(bucket, name)

    def _list(self, bucket: str, prefix: str, delimiter: str) -> dict[str, Any]:
        names = sorted(name for of, name in self.objects if of == bucket and name.startswith(prefix))
        below = {name: name[len(prefix) :].partition("/") for name in names}
        return {
            "items": [self._about(bucket, name) for name in names if not (delimiter and below[name][1])],
            "prefixes": sorted({f"{prefix}{rest[0]}/" for rest in below.values() if delimiter and rest[1]}),
        }

    def _about(self, bucket: str, name: str) -> dict[str, Any]:
        content = self.objects[bucket, name]
        digest = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        moment = "2020-01-01T00:00:00.000Z"
        return {
            "bucket": bucket, "name": name, "size": str(len(content)), "md5Hash": digest, "generation": "1",
            "timeCreated": moment, "updated": moment,
        }  # fmt: skip


class _Handler(http.server.BaseHTTPRequestHandler):
    def __getattr__(self, name: str) -> Any:
        if name in ("do_GET", "do_POST", "do_DELETE"):
            return self._handle
        raise AttributeError(name)

    def _handle(self) -> None:
        assert isinstance(self.server, Gcs)
        address = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(address.query))
        self.server.before(self.command, urllib.parse.unquote(self.path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            path = address.path.partition("/storage/v1/b/")[2]
            status, response = self.server.response(self.command, path, query, body)
        content = response if isinstance(response, bytes) else json.dumps(response).encode()
        if status == 200 and isinstance(response, bytes) and (byte_range := self.headers.get("Range")):
            first, _, last = byte_range.removeprefix("bytes=").partition("-")
            content, status = content[int(first) : int(last) + 1 if last else None], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if content:
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def running(*buckets: str) -> Iterator[Gcs]:
    """A server to which the environment points, without credentials."""
    with Gcs(*buckets) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        patch.setenv("NO_GCE_CHECK", "true")
        patch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
