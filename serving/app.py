# SPDX-License-Identifier: Apache-2.0
"""The web application: protocols, health, metrics, the page to draw on and the API documentation."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components import features
from serving import metrics, protocol_v1, protocol_v2
from serving.batching import Batcher
from serving.limits import BodyReader, Limits, RequestError
from serving.models import STABLE, ModelVersions
from serving.sampling import Sampler
from serving.service import Service
from serving.tensors import write_json

_FOLDER = pathlib.Path(__file__).parent
# The pages load nothing from other hosts.
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'self' data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    "cache-control": "no-cache",
}


@dataclasses.dataclass(frozen=True)
class About:
    """Response of `/about`: the production version, its classes and its training data."""

    model: str
    version: int
    image_shape: tuple[int, int]
    classes: tuple[str, ...]
    dataset: Mapping[str, Any] | None
    metrics: Mapping[str, float] | None


@dataclasses.dataclass(frozen=True)
class Application:
    """The ASGI application, and its state for the process around it."""

    asgi: ASGIApp
    service: Service


def build(models: ModelVersions, limits: Limits, sampler: Sampler | None = None) -> Application:
    """Builds the application.

    Args:
        models: with a loaded version.
        limits: of a request.
        sampler: None without sampling.
    """
    registry = metrics.ServerMetrics(models)
    batcher = Batcher(limits.max_batch, limits.max_queue, registry.count_batch)
    service = Service(models, batcher, limits, BodyReader(limits), registry, sampler)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        try:
            yield
        finally:
            batcher.stop()

    app = FastAPI(
        title="MNIST model server",
        version="1",
        description="TensorFlow Serving's REST interface, KServe's V1 and V2 protocols, health and metrics.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from other hosts
        redoc_url=None,
    )
    app.add_exception_handler(RequestError, _respond_to_request_error)
    app.add_exception_handler(HTTPException, _respond_to_http_exception)
    app.include_router(protocol_v1.router(service))
    app.include_router(protocol_v2.router(service))
    _add_operations(app, service)
    _add_pages(app, service)
    return Application(_MetricsMiddleware(app, registry), service)


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["operations"], summary="Liveness of the process")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", tags=["operations"], summary="Readiness, versions and labels", responses={503: {}})
    async def readyz() -> Response:
        content = {"ready": service.ready, "versions": service.models.numbers, "labels": service.models.labels}
        return Response(write_json(content), 200 if service.ready else 503, media_type="application/json")

    @app.get("/about", tags=["operations"], summary="The model, its classes and its training data")
    async def about() -> Response:
        return Response(write_json(_about(service)), media_type="application/json")

    @app.get("/metrics", tags=["operations"], summary="Metrics in Prometheus's text format")
    async def metrics_page() -> Response:
        return Response(service.metrics.render(service.batcher.waiting_images), media_type=metrics.CONTENT_TYPE)


def _add_pages(app: FastAPI, service: Service) -> None:
    page, docs = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.html", "docs.html"))

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        about = write_json(_about(service)).decode().replace("<", "\\u003c")
        return Response(page.replace('"ABOUT"', about), media_type="text/html", headers=_PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        return Response(docs, media_type="text/html", headers=_PAGE_HEADERS)


def _about(service: Service) -> About:
    model = service.models.resolve(label=STABLE)
    return About(
        service.models.name,
        model.number,
        model.image_shape,
        features.CLASSES,
        model.provenance.get("dataset"),
        model.provenance.get("metrics"),
    )


def _respond_to_request_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestError):
        raise error
    headers = {"retry-after": "1"} if error.status == 429 else {}
    if error.status in (408, 413):
        headers["connection"] = "close"  # the rest of the body may still arrive
    return _error_response(error.status, error.message, headers)


def _respond_to_http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    message = f"{error.detail}: {request.method} {request.url.path[:200]}"
    return _error_response(error.status_code, message, error.headers)


def _error_response(status: int, message: str, headers: Mapping[str, str] | None) -> Response:
    # Not orjson: the message may repeat lone surrogates of the request.
    return Response(json.dumps({"error": message}), status, headers, media_type="application/json")


class _MetricsMiddleware:
    """Counts and times the requests of the protocols."""

    def __init__(self, app: ASGIApp, registry: metrics.ServerMetrics):
        self._app = app
        self._metrics = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        protocol = path[1:3].lower()
        if scope["type"] != "http" or protocol not in ("v1", "v2"):
            await self._app(scope, receive, send)
            return
        if path.startswith("/V"):  # TensorFlow Serving ignores the case of paths
            scope = {**scope, "path": path[:4].lower() + path[4:]}
        start = time.perf_counter()
        status = 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note_status)
        finally:
            method = "predict" if path.endswith((":predict", "/infer")) else "other"
            self._metrics.count_request(protocol, method, status, time.perf_counter() - start)
