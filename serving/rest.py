# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's REST interface: predict, status and metadata of models, versions and labels.

Paths, bodies, statuses and error texts are TensorFlow Serving's (its document "RESTful API"; its
model_servers/http_rest_api_handler.cc where that is silent), with two additions: `GET /v1/models` lists the models, as
KServe's V1 protocol has it, and every answer of a model bears its version in the header `x-model-version`.
"""

from __future__ import annotations

import re
import urllib.parse
from typing import Any

from fastapi import APIRouter, Request, Response

from serving import answers, examples, json_text, tensors
from serving.refusal import Refusal
from serving.service import Service

VERSION_HEADER = "x-model-version"
_TARGET = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_PREDICTION = re.compile(_TARGET + r":(classify|regress|predict)", re.IGNORECASE | re.ASCII)
_STATUS = re.compile(_TARGET + r"(?:/(metadata))?", re.IGNORECASE | re.ASCII)
_MAX_INT64 = 2**63 - 1


def router(service: Service) -> APIRouter:
    """The routes of the interface."""
    routes = APIRouter(prefix="/v1", tags=["TensorFlow Serving and KServe V1"])

    async def answer(request: Request) -> Response:
        path = request.scope.get("raw_path", b"").split(b"?", 1)[0].decode("latin-1") or request.url.path
        if request.method == "POST" and (match := _PREDICTION.fullmatch(path)):
            name, version, label, method = match.groups()
            return await _predict(service, request, _Target(name, version, label), method.lower())
        if request.method == "GET" and (match := _STATUS.fullmatch(path)):
            name, version, label, metadata = match.groups()
            target = _Target(name, version, label)
            return _json(_metadata(service, target) if metadata else _status(service, target))
        raise Refusal(400, f"Malformed request: {request.method} {path[:200]}")

    async def models(request: Request) -> Response:
        return _json({"models": [service.models.name]})

    # Matched before the routes that document it: what FastAPI does for a function with parameters takes a tenth of the
    # time of a request with one image, and `answer` has none.
    routes.add_route("/v1/models/{rest:path}:predict", answer, methods=["POST"], include_in_schema=False)
    routes.add_api_route("/models", models, methods=["GET"], summary="The models that are served", responses=_OK)
    for place in ("", "/versions/{version}", "/labels/{label}"):
        parameters = _PARAMETERS[: 1 + bool(place)] if "version" in place or not place else [_PARAMETERS[0], _LABEL]
        of = place.split("/")[1].removesuffix("s") if place else "model"
        routes.add_api_route(
            f"/models/{{name}}{place}:predict",
            answer,
            methods=["POST"],
            summary=f"Predict, by {of}",
            operation_id=f"predict_by_{of}",
            openapi_extra={"parameters": parameters, "requestBody": _PREDICT_BODY},
            responses=_PREDICT_RESPONSES,
        )
        for method in ("classify", "regress"):
            routes.add_api_route(f"/models/{{name}}{place}:{method}", answer, methods=["POST"], include_in_schema=False)
        for what in ("", "/metadata"):
            routes.add_api_route(
                f"/models/{{name}}{place}{what}",
                answer,
                methods=["GET"],
                summary=f"{'Signatures' if what else 'Status'}, by {of}",
                operation_id=f"{what[1:] or 'status'}_by_{of}",
                openapi_extra={"parameters": parameters},
                responses=_OK | _ERRORS,
            )
    every = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]
    routes.add_api_route("/{rest:path}", answer, methods=every, include_in_schema=False)
    return routes


class _Target:
    """Which model a path names."""

    def __init__(self, name: str, version: str | None, label: str | None):
        self.name = urllib.parse.unquote(name)
        self.label = urllib.parse.unquote(label) if label is not None else None
        self.version: int | None = None
        if version is not None:
            # Longer than any number that fits, and not worth the time that `int` takes for thousands of digits.
            if len(version) > 19 or int(version) > _MAX_INT64:
                raise Refusal(400, f"Failed to convert version: {version[:80]} to numeric.")
            self.version = int(version)


async def _predict(service: Service, request: Request, target: _Target, method: str) -> Response:
    body = await service.bodies.read(request)
    document = json_text.read(body)
    name = tensors.signature_name(document)
    service.models.check_name(target.name)
    model = service.models.resolve(target.version, target.label)
    signature = service.signature(model, name)
    if method == "predict":
        inputs, form = tensors.read_inputs(document, signature.inputs, service.limits.max_instances)
        body = answers.write_outputs(await service.predict(model, signature, inputs), form)
    else:
        inputs = examples.read(document, signature, method, service.limits.max_instances)
        body = examples.write(await service.predict(model, signature, inputs), method)
    return Response(body, media_type="application/json", headers={VERSION_HEADER: str(model.number)})


def _status(service: Service, target: _Target) -> dict[str, Any]:
    models = service.models
    if target.name != models.name:
        raise Refusal(404, f"Could not find any versions of model {target.name}")
    number = target.version
    if target.label is not None:
        number = models.resolve(label=target.label).number
    statuses = models.statuses()
    if number is not None:
        if number not in statuses:
            raise Refusal(404, f"Could not find version {number} of model {target.name}")
        statuses = {number: statuses[number]}
    return {
        "model_version_status": [
            {"version": str(version), "state": state, "status": {"error_code": code, "error_message": message}}
            for version, (state, code, message) in statuses.items()
        ]
    }


def _metadata(service: Service, target: _Target) -> dict[str, Any]:
    service.models.check_name(target.name)
    model = service.models.resolve(target.version, target.label)
    return {
        "model_spec": {"name": target.name, "signature_name": "", "version": str(model.number)},
        "metadata": {"signature_def": {"signature_def": model.signature_def}},
    }


def _json(value: Any) -> Response:
    return Response(json_text.write(value), media_type="application/json")


def _path_parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


_PARAMETERS = [
    _path_parameter("name", {"type": "string", "minLength": 1}),
    _path_parameter("version", {"type": "integer", "minimum": 0}),
]
_LABEL = _path_parameter("label", {"type": "string", "minLength": 1})
_PREDICT_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "signature_name": {"type": "string"},
                    "instances": {"type": "array", "items": {}, "description": "Row form: one value for each image."},
                    "inputs": {"description": "Column form: one tensor for each input."},
                },
            },
            "examples": {
                "png": {"value": {"instances": [{"b64": "iVBORw0KGgo…"}]}, "summary": "A PNG file of 28x28, base64"},
                "pixels": {
                    "value": {"signature_name": "serving_pixels", "instances": [[[0, 255], [0, 0]]]},
                    "summary": "Rows of pixels, 0 to 255",
                },
            },
        }
    },
}
_ERROR_SCHEMA = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
    for status, text in {
        400: "Not what the model takes",
        404: "No such model or version",
        408: "Too slow",
        413: "Too long",
        429: "The queue is full: try again later",
        503: "Too many connections",
    }.items()
}
_OK: dict[int | str, dict[str, Any]] = {
    200: {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}}
}
_PREDICT_RESPONSES = _OK | _ERRORS
