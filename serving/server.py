# SPDX-License-Identifier: Apache-2.0
"""Runs the application: socket, slow clients, SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from components.errors import BadInput
from serving.app import Application
from serving.limits import Limits

_log = logging.getLogger("serving")
# Longer than any request takes to arrive, wait and get its response.
_GRACE_SECONDS = 30


def bind(host: str, port: int) -> socket.socket:
    """Opens the socket that the server listens on.

    Raises:
        BadInput: the address is in use or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise BadInput(
            f"--host and --port take a free address of this machine; {host}:{port} is not ({reason})"
        ) from None
    return listener


def run(application: Application, listener: socket.socket, limits: Limits) -> None:
    """Serves until SIGTERM or SIGINT; requests in flight still get their responses."""
    config = uvicorn.Config(
        application.asgi,
        loop="uvloop",
        http=_protocol(limits.request_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=75,
        limit_concurrency=limits.max_connections,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        backlog=1024,
    )
    _Server(config, application).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends normally on a signal, where uvicorn would end by the signal."""

    def __init__(self, config: uvicorn.Config, application: Application):
        super().__init__(config)
        self._application = application

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if not self.should_exit:
                _log.info("stopping: requests in flight still get their responses")
            self._application.service.stopping = True
            self.handle_exit(signal.SIGTERM, None)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        yield


def _protocol(seconds: float) -> type[HttpToolsProtocol]:
    """Returns uvicorn's protocol with two more timeouts: for the head of a request, and for reading a response.

    Without them, a few thousand idle sockets would block a server for good.
    """

    class TimedProtocol(HttpToolsProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(seconds, self._abort)
            self._write_timer: asyncio.TimerHandle | None = None

        def data_received(self, data: bytes) -> None:
            # The first bytes of a further request on this connection.
            if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
                self._head_timer = self.loop.call_later(seconds, self._abort)
            super().data_received(data)

        def on_headers_complete(self) -> None:
            self._cancel_head_timer()
            super().on_headers_complete()

        def pause_writing(self) -> None:
            self._write_timer = self.loop.call_later(seconds, self._abort)
            super().pause_writing()

        def resume_writing(self) -> None:
            self._cancel_write_timer()
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel_head_timer()
            self._cancel_write_timer()
            super().connection_lost(exc)

        def _abort(self) -> None:
            self.transport.abort()

        def _cancel_head_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _cancel_write_timer(self) -> None:
            if self._write_timer is not None:
                self._write_timer.cancel()
                self._write_timer = None

    return TimedProtocol
