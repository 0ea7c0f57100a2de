# SPDX-License-Identifier: Apache-2.0
"""An S3 server on the loopback interface, whose requests a test can watch, hold and refuse."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# The keys are as long as real ones, so that a test can look for them in what is printed.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "THEACCESSKEYOFTHETESTS",
    "AWS_SECRET_ACCESS_KEY": "the-secret-key-of-the-tests",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}

# What can become of a request: answered with status 403, or done and then answered as if it had failed.
REFUSED, LOST = "refused", "lost"


class S3:
    """moto's server.

    Attributes:
        url: where it listens.
        before: called with the method and the path of each request before it is answered. It may wait, and it says
            what becomes of the request: None, REFUSED or LOST.
        conditions: whether it heeds If-None-Match.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        class Quiet(MotoRequestHandler):
            def log_request(self, *args: Any) -> None:
                pass

        self._app = DomainDispatcherApplication(create_backend_app)
        # moto looks whether an object is there and then writes it: the lock makes one step of it, as it is in S3.
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._respond, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.reset()
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Answers every request again."""
        self.before: Callable[[str, str], str | None] = lambda method, path: None
        self.conditions = True

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def bucket(self, name: str) -> Any:
        """Makes a bucket or empties it, and returns boto3's object for it."""
        bucket = self.resource(name)
        bucket.create()
        bucket.objects.delete()
        return bucket

    def resource(self, name: str) -> Any:
        """boto3's object for a bucket."""
        import boto3

        return boto3.resource("s3").Bucket(name)

    def _respond(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        fate = self.before(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if not self.conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if fate != REFUSED:
            with self._lock:
                response = list(self._app(environ, start_response if fate is None else lambda *ignored: None))
            if fate is None:
                return response
        status, code = ("403 Forbidden", "AccessDenied") if fate == REFUSED else ("503 Service Unavailable", "Lost")
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) if fate == REFUSED else 0)
        start_response(status, [("Content-Type", "application/xml")])
        return [f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()]


@contextlib.contextmanager
def running() -> Iterator[S3]:
    """A server to which the environment points, as it would to a MinIO."""
    server = S3()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
                patch.setenv(name, value)
            yield server
    finally:
        server.stop()
