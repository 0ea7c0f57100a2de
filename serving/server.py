# SPDX-License-Identifier: Apache-2.0
"""The process around the application: sockets, slow clients, SIGTERM."""

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
# Longer than any request in flight may take to arrive, wait and be answered.
_GRACE_SECONDS = 30


def bind(host: str, port: int) -> socket.socket:
    """Opens the socket that the server listens on.

    Raises:
        BadInput: the address cannot be had.
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
            f"--host and --port must be free to listen on; {host}:{port} is not ({reason}): name others"
        ) from None
    return listener


def run(application: Application, listener: socket.socket, limits: Limits) -> None:
    """Serves until SIGTERM or SIGINT; what is in flight then is still answered."""
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
    """Ends normally on a signal: a server that was told to stop and did has not failed."""

    def __init__(self, config: uvicorn.Config, application: Application):
        super().__init__(config)
        self._application = application

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if not self.should_exit:
                _log.info("stopping: what is in flight is still answered")
            self._application.stop_being_ready()
            self.handle_exit(signal.SIGTERM, None)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        yield


def _protocol(seconds: float) -> type[HttpToolsProtocol]:
    """Uvicorn's protocol with the two timeouts that it lacks.

    A connection that opens, or sends the head of a request, must get on with it; and a client must take its answer.
    Without them a few thousand idle sockets hold a server for ever.
    """

    class TimedProtocol(HttpToolsProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(seconds, self._give_up)
            self._write_timer: asyncio.TimerHandle | None = None

        def data_received(self, data: bytes) -> None:
            # The first bytes of a further request on this connection.
            if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
                self._head_timer = self.loop.call_later(seconds, self._give_up)
            super().data_received(data)

        def on_headers_complete(self) -> None:
            self._cancel_head()
            super().on_headers_complete()

        def pause_writing(self) -> None:
            self._write_timer = self.loop.call_later(seconds, self._give_up)
            super().pause_writing()

        def resume_writing(self) -> None:
            self._cancel_write()
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel_head()
            self._cancel_write()
            super().connection_lost(exc)

        def _give_up(self) -> None:
            self.transport.abort()

        def _cancel_head(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _cancel_write(self) -> None:
            if self._write_timer is not None:
                self._write_timer.cancel()
                self._write_timer = None

    return TimedProtocol
