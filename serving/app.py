# SPDX-License-Identifier: Apache-2.0
"""The web application: the protocols, health, metrics, the page and its documentation, put together."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components import features
from serving import json_text, metrics, openinference, rest
from serving.batcher import Batcher
from serving.limits import BodyReader, Limits
from serving.models import STABLE, Models
from serving.refusal import Refusal
from serving.service import Sampler, Service

_HERE = pathlib.Path(__file__).parent
# Pages use what is in them and this server, nothing from elsewhere.
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'self' data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    "cache-control": "no-cache",
}


@dataclasses.dataclass
class Application:
    """The ASGI application and what it shares with the process around it."""

    asgi: ASGIApp
    fastapi: FastAPI
    stop_being_ready: Callable[[], None]


def build(models: Models, limits: Limits, sampler: Sampler | None = None) -> Application:
    """Builds the application.

    Args:
        models: loaded already.
        limits: what a request may cost.
        sampler: None where nothing is sampled.
    """
    counted = metrics.Metrics(models)
    # The queue belongs to the event loop, which is not there yet.
    service = Service(models, None, limits, BodyReader(limits), counted, sampler)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.batcher = Batcher(limits.max_batch, limits.max_queue, counted.batch)
        try:
            yield
        finally:
            service.batcher.stop()

    app = FastAPI(
        title="MNIST model server",
        version="1",
        description="TensorFlow Serving's REST interface, KServe's V1 and V2 protocols, health and metrics.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
    )
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.include_router(rest.router(service))
    app.include_router(openinference.router(service))
    _add_operations(app, service)
    _add_pages(app, service)

    def stop_being_ready() -> None:
        service.stopping = True

    return Application(_Counting(app, counted), app, stop_being_ready)


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["operations"], summary="Whether the process is alive")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", tags=["operations"], summary="Whether a version can answer", responses={503: {}})
    async def readyz() -> Response:
        ready = service.models.ready and not service.stopping
        body = {"ready": ready, "versions": service.models.served, "labels": service.models.labels}
        return Response(json_text.write(body), 200 if ready else 503, media_type="application/json")

    @app.get("/about", tags=["operations"], summary="The model, its classes, and what it was trained on")
    async def about() -> Response:
        return Response(json_text.write(_about(service)), media_type="application/json")

    @app.get("/metrics", tags=["operations"], summary="What the server counts, in Prometheus's text format")
    async def metrics_page() -> Response:
        service.metrics.waiting.set(service.batcher.waiting)
        return Response(service.metrics.page(), media_type=metrics.CONTENT_TYPE)


def _add_pages(app: FastAPI, service: Service) -> None:
    page, docs = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.html", "docs.html"))

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        text = json_text.write(_about(service)).decode().replace("<", "\\u003c")
        return Response(page.replace('"ABOUT"', text), media_type="text/html", headers=_PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        return Response(docs, media_type="text/html", headers=_PAGE_HEADERS)


def _about(service: Service) -> dict[str, Any]:
    model = service.models.resolve(label=STABLE)
    return {
        "model": service.models.name,
        "version": model.number,
        "image_shape": model.image_shape(),
        "classes": features.CLASSES,
        "dataset": model.provenance.get("dataset"),
        "metrics": model.provenance.get("metrics"),
    }


def _refused(_: Request, error: Exception) -> Response:
    refusal = error if isinstance(error, Refusal) else Refusal(500, "internal error")
    status = refusal.status
    headers = {"retry-after": "1"} if status == 429 else {}
    if status in (408, 413):
        headers["connection"] = "close"  # the rest of the body may still be on its way
    return Response(json_text.write({"error": refusal.message}), status, headers, media_type="application/json")


def _not_found(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "Not found", 405: "Method not allowed"}.get(status, "Refused")
    message = f"{words}: {request.method} {request.url.path[:200]}"
    headers = getattr(error, "headers", None)
    return Response(json_text.write({"error": message}), status, headers, media_type="application/json")


class _Counting:
    """Counts and times what the protocols answer."""

    def __init__(self, app: ASGIApp, counted: metrics.Metrics):
        self._app = app
        self._metrics = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        protocol = path[1:3].lower()
        if scope["type"] != "http" or protocol not in ("v1", "v2"):
            await self._app(scope, receive, send)
            return
        if path.startswith("/V"):  # TensorFlow Serving takes its paths in any case
            scope = {**scope, "path": path[:4].lower() + path[4:]}
        start = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            predicts = path.endswith((":predict", "/infer"))
            method = "predict" if predicts else "other"
            self._metrics.request(protocol, method, status, time.perf_counter() - start)
