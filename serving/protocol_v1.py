# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's REST interface, which is also KServe's V1 protocol: predict, status and metadata.

Paths, bodies and statuses follow TensorFlow Serving (its document "RESTful API"; model_servers/
http_rest_api_handler.cc where that is silent). `:classify` and `:regress` are not supported. Two additions:
`GET /v1/models` lists the model, as in KServe, and responses have the version in the header `x-model-version`.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from fastapi import APIRouter, Request, Response

from serving import tensors
from serving.limits import RequestError
from serving.models import VersionStatus
from serving.service import Service
from serving.tensors import Arrays, TensorSpec

VERSION_HEADER = "x-model-version"
_ROWS, _COLUMNS = "instances", "inputs"
_TARGET = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_CALL = re.compile(_TARGET + r":(classify|regress|predict)", re.IGNORECASE | re.ASCII)
_STATUS = re.compile(_TARGET + r"(?:/(metadata))?", re.IGNORECASE | re.ASCII)
_MAX_VERSION = 2**63 - 1


def router(service: Service) -> APIRouter:
    """Returns the routes of the protocol."""
    routes = APIRouter(prefix="/v1", tags=["TensorFlow Serving and KServe V1"])

    async def respond(request: Request) -> Response:
        path = request.scope.get("raw_path", b"").split(b"?", 1)[0].decode("latin-1") or request.url.path
        if request.method == "POST" and (match := _CALL.fullmatch(path)):
            name, version, label, method = match.groups()
            if method.lower() != "predict":
                raise RequestError(404, f":{method.lower()} is not supported; use :predict")
            return await _predict(service, request, _Target.parse(name, version, label))
        if request.method == "GET" and (match := _STATUS.fullmatch(path)):
            name, version, label, metadata = match.groups()
            target = _Target.parse(name, version, label)
            content = _metadata(service, target) if metadata else _status(service, target)
            return Response(tensors.write_json(content), media_type="application/json")
        raise RequestError(400, f"not a call of this protocol: {request.method} {path[:200]}")

    async def models(request: Request) -> Response:
        return Response(tensors.write_json({"models": [service.models.name]}), media_type="application/json")

    # Matches before the documented routes below: FastAPI handles a function with parameters, or with documentation, in
    # a tenth of the time of a request with one image.
    routes.add_route("/v1/models/{rest:path}:predict", respond, methods=["POST"], include_in_schema=False)
    routes.add_api_route("/models", models, methods=["GET"], summary="Names of the models", responses=_OK)
    for target, path in {"model": "", "version": "/versions/{version}", "label": "/labels/{label}"}.items():
        parameters = {"parameters": [_PARAMETERS["name"], *([_PARAMETERS[target]] if path else [])]}
        routes.add_api_route(
            f"/models/{{name}}{path}:predict",
            respond,
            methods=["POST"],
            summary=f"Predict, by {target}",
            operation_id=f"predict_by_{target}",
            openapi_extra=parameters | {"requestBody": _PREDICT_BODY},
            responses=_OK | ERRORS,
        )
        for name, suffix, summary in (("status", "", "Status"), ("metadata", "/metadata", "Signatures")):
            routes.add_api_route(
                f"/models/{{name}}{path}{suffix}",
                respond,
                methods=["GET"],
                summary=f"{summary}, by {target}",
                operation_id=f"{name}_by_{target}",
                openapi_extra=parameters,
                responses=_OK | ERRORS,
            )
    methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]
    routes.add_api_route("/{rest:path}", respond, methods=methods, include_in_schema=False)
    return routes


class _Target(NamedTuple):
    """Model, and version or label, in the path of a request."""

    name: str
    version: int | None
    label: str | None

    @classmethod
    def parse(cls, name: str, version: str | None, label: str | None) -> _Target:
        """Decodes the parts of a path.

        Raises:
            RequestError: the version has more than 63 bits.
        """
        # `int` takes long for thousands of digits.
        if version is not None and (len(version) > 19 or int(version) > _MAX_VERSION):
            raise RequestError(400, f"a version is a number of up to 63 bits; received {version[:80]}")
        return cls(
            urllib.parse.unquote(name),
            None if version is None else int(version),
            None if label is None else urllib.parse.unquote(label),
        )


async def _predict(service: Service, request: Request, target: _Target) -> Response:
    document = tensors.read_json(await service.bodies.read(request))
    signature_name = _signature_name(document)
    service.models.check_name(target.name)
    model = service.models.resolve(target.version, target.label)
    signature = model.signature(signature_name)
    inputs = _read_inputs(document, signature.inputs, service)
    outputs = await service.predict(model, signature, inputs)
    body = _write_columns(outputs) if _COLUMNS in document else _write_rows(outputs)
    return Response(body, media_type="application/json", headers={VERSION_HEADER: str(model.number)})


def _status(service: Service, target: _Target) -> dict[str, Any]:
    models = service.models
    models.check_name(target.name)
    number = target.version if target.label is None else models.resolve(label=target.label).number
    statuses = models.statuses()
    if number is not None:
        if number not in statuses:
            raise RequestError(404, f"there is no version {number} of {target.name}")
        statuses = {number: statuses[number]}
    return {"model_version_status": [_status_entry(number, status) for number, status in statuses.items()]}


def _status_entry(number: int, status: VersionStatus) -> dict[str, Any]:
    return {
        "version": str(number),
        "state": status.state,
        "status": {"error_code": status.error_code, "error_message": status.error_message},
    }


def _metadata(service: Service, target: _Target) -> dict[str, Any]:
    service.models.check_name(target.name)
    model = service.models.resolve(target.version, target.label)
    return {
        "model_spec": {"name": target.name, "signature_name": "", "version": str(model.number)},
        "metadata": {"signature_def": {"signature_def": model.signature_def}},
    }


def _signature_name(document: Any) -> str:
    """Returns the signature name of a request, empty for the default one; raises `RequestError` for a bad type."""
    if not isinstance(document, dict):
        raise RequestError(400, f"the body must be a JSON object; received {tensors.describe(document)}")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise RequestError(400, f"signature_name must be a string; received {tensors.describe(name)}")
    return name


def _read_inputs(document: dict[str, Any], specs: Mapping[str, TensorSpec], service: Service) -> Arrays:
    """Returns the tensors of a predict request.

    Raises:
        RequestError: the document does not have these tensors, or too many instances.
    """
    if (_ROWS in document) == (_COLUMNS in document):
        raise RequestError(400, f'a request has either "{_ROWS}" (row form) or "{_COLUMNS}" (column form)')
    if _ROWS in document:
        rows = document[_ROWS]
        if not isinstance(rows, list) or not rows:
            raise RequestError(400, f"{_ROWS} must be a list with at least one item; received {_describe(rows)}")
        service.limits.check_instances(len(rows))
        columns = _to_columns(rows, specs)
        return {name: tensors.from_json(name, columns[name], spec) for name, spec in specs.items()}
    value = document[_COLUMNS]
    if not _is_object(value) and len(specs) > 1:
        raise RequestError(400, f"{_COLUMNS} must be an object with {', '.join(specs)}; received {_describe(value)}")
    columns = value if _is_object(value) else dict.fromkeys(specs, value)
    if missing := [name for name in specs if name not in columns]:
        raise RequestError(400, f"{_COLUMNS} must have {', '.join(specs)}; it lacks {', '.join(missing)}")
    arrays = {name: tensors.from_json(name, columns[name], spec) for name, spec in specs.items()}
    service.limits.check_instances(max((len(array) for array in arrays.values() if array.ndim), default=1))
    return arrays


def _to_columns(rows: list[Any], specs: Mapping[str, TensorSpec]) -> dict[str, list[Any]]:
    """Returns the rows of each input."""
    if not any(map(_is_object, rows)):
        if len(specs) > 1:
            raise RequestError(400, f"each instance must be an object with {', '.join(specs)}")
        return dict.fromkeys(specs, rows)
    for number, row in enumerate(rows):
        if not _is_object(row):
            raise RequestError(400, f"either all instances are objects or none is; instance {number} is not")
        if row.keys() != specs.keys():
            names = ", ".join(row)[:80] or "none"
            raise RequestError(400, f"each instance must have {', '.join(specs)}; instance {number} has {names}")
    return {name: [row[name] for row in rows] for name in specs}


def _is_object(value: Any) -> bool:
    """Returns True if a value is an object with an item for each input."""
    return isinstance(value, dict) and not tensors.is_base64(value)


def _describe(value: Any) -> str:
    return "an empty list" if value == [] else tensors.describe(value)


def _write_columns(outputs: Arrays) -> bytes:
    columns = {name: tensors.to_json(name, array) for name, array in outputs.items()}
    return _write(outputs, {"outputs": columns if len(columns) > 1 else next(iter(columns.values()))})


def _write_rows(outputs: Arrays) -> bytes:
    """Returns the body in row form.

    Raises:
        RequestError: the outputs do not have the same number of rows.
    """
    counts = {len(array) if array.ndim else 0 for array in outputs.values()}
    if len(counts) > 1 or 0 in counts:
        raise RequestError(400, f'the outputs have no common rows: use the column form, "{_COLUMNS}"')
    columns = {name: tensors.to_json(name, array) for name, array in outputs.items()}
    if len(columns) == 1:
        return _write(outputs, {"predictions": next(iter(columns.values()))})
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return _write(outputs, {"predictions": rows})


def _write(outputs: Arrays, document: dict[str, Any]) -> bytes:
    finite = all(array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in outputs.values())
    return tensors.write_json(document) if finite else tensors.write_json_with_special_numbers(document)


_PARAMETERS = {
    name: {"name": name, "in": "path", "required": True, "schema": schema}
    for name, schema in {
        "name": {"type": "string", "minLength": 1},
        "version": {"type": "integer", "minimum": 0},
        "label": {"type": "string", "minLength": 1},
    }.items()
}
_PREDICT_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "signature_name": {"type": "string"},
                    "instances": {"type": "array", "items": {}, "description": "Row form: one item for each image."},
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
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
    for status, description in {
        400: "The model does not take this request",
        404: "No such model or version",
        408: "The request arrived too slowly",
        413: "The body is too large",
        429: "The queue is full: try again later",
        503: "Too many connections",
    }.items()
}
_OK: dict[int | str, dict[str, Any]] = {
    200: {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}}
}
