# SPDX-License-Identifier: Apache-2.0
"""KServe's V2 protocol, also called Open Inference Protocol: health, metadata and inference.

Source: KServe's document "Open Inference Protocol (V2)". The inputs choose the signature by their names, unless the
parameter `signature_name` does. BYTES elements are text, or base64 where the input's parameter `content_type` is
"base64"; so is every input whose name ends in `_bytes`, as JSON cannot hold the bytes of an image otherwise.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response

from serving import answers, json_text, tensors
from serving.refusal import Refusal
from serving.rest import VERSION_HEADER
from serving.savedmodel import SavedModel, Signature, TensorSpec
from serving.service import DEFAULT_SIGNATURE, Service

_DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "string": "BYTES",
}  # fmt: skip


def router(service: Service) -> APIRouter:
    """The routes of the protocol."""
    routes = APIRouter(prefix="/v2", tags=["KServe V2 (Open Inference Protocol)"])

    @routes.get("", summary="The server")
    async def server() -> dict[str, Any]:
        return {"name": "mnist-tfx", "version": "1", "extensions": []}

    @routes.get("/health/live", summary="Alive")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/health/ready", summary="Ready")
    async def ready() -> Response:
        answers = service.models.ready and not service.stopping
        return _json({"ready": answers}, 200 if answers else 503)

    async def model_ready(request: Request) -> Response:
        _find(service, request)
        return _json({"ready": True})

    async def metadata(request: Request) -> Response:
        return _json(_metadata(service, _find(service, request)))

    async def infer(request: Request) -> Response:
        body = await service.bodies.read(request)
        return await _infer(service, _find(service, request), json_text.read(body))

    for place in ("", "/versions/{version}"):
        parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
                      for name in ("name", "version")[: 1 + bool(place)]]  # fmt: skip
        of = "version" if place else "model"
        for what, handler, method in (("", metadata, "GET"), ("/ready", model_ready, "GET"), ("/infer", infer, "POST")):
            extra: dict[str, Any] = {"parameters": parameters}
            if method == "POST":
                extra["requestBody"] = _INFER_BODY
            routes.add_api_route(
                f"/models/{{name}}{place}{what}",
                handler,
                methods=[method],
                summary=f"{what[1:].capitalize() or 'Metadata'}, by {of}",
                operation_id=f"v2_{what[1:] or 'metadata'}_by_{of}",
                openapi_extra=extra,
                responses=_RESPONSES,
            )
    return routes


def _find(service: Service, request: Request) -> SavedModel:
    name, version = request.path_params["name"], request.path_params.get("version")
    if name != service.models.name:
        raise Refusal(404, f"Model {name[:80]} is not served here: {service.models.name} is")
    if version is None:
        return service.models.resolve()
    if not (version.isascii() and version.isdecimal() and len(version) < 20):
        raise Refusal(404, f"A version is a number; received {version[:80]}")
    return service.models.resolve(int(version))


def _metadata(service: Service, model: SavedModel) -> dict[str, Any]:
    default = model.signatures.get(DEFAULT_SIGNATURE) or next(iter(model.signatures.values()))

    def told(specs: Any) -> list[dict[str, Any]]:
        return [
            {"name": name, "datatype": _DATATYPES.get(spec.type_name, spec.type_name), "shape": list(spec.shape or ())}
            for name, spec in specs.items()
        ]

    return {
        "name": service.models.name,
        "versions": [str(number) for number in service.models.served],
        "platform": "tensorflow_savedmodel",
        "inputs": told(default.inputs),
        "outputs": told(default.outputs),
    }


async def _infer(service: Service, model: SavedModel, document: Any) -> Response:
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise Refusal(400, "An inference request is an object with a list of inputs")
    identifier = document.get("id", "")
    if not isinstance(identifier, str):
        raise Refusal(400, "The id of an inference request is a string")
    given: dict[str, dict[str, Any]] = {}
    for tensor in document["inputs"]:
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise Refusal(400, "Each input is an object with a name, a shape, a datatype and data")
        given[tensor["name"]] = tensor
    signature = _signature(service, model, document, given)
    inputs = {name: _read(given[name], spec, service) for name, spec in signature.inputs.items()}
    outputs = await service.predict(model, signature, inputs)
    answer = {
        "model_name": service.models.name,
        "model_version": str(model.number),
        "outputs": [_written(name, outputs[name], signature.outputs[name]) for name in _wanted(document, outputs)],
    }
    if identifier:
        answer["id"] = identifier
    return _json(answer, headers={VERSION_HEADER: str(model.number)})


def _signature(
    service: Service, model: SavedModel, document: dict[str, Any], given: dict[str, dict[str, Any]]
) -> Signature:
    parameters = document.get("parameters")
    name = parameters.get("signature_name") if isinstance(parameters, dict) else None
    if name is not None:
        if not isinstance(name, str):
            raise Refusal(400, "The parameter signature_name is a string")
        signature = service.signature(model, name)
        if signature.inputs.keys() != given.keys():
            raise Refusal(400, f"The signature {signature.name} takes {', '.join(signature.inputs)}")
        return signature
    for signature in model.signatures.values():
        if signature.inputs.keys() == given.keys():
            return signature
    taken = "; or ".join(", ".join(signature.inputs) for signature in model.signatures.values())
    raise Refusal(400, f"The model takes these inputs: {taken}; received {', '.join(given)[:200] or 'none'}")


def _read(tensor: dict[str, Any], spec: TensorSpec, service: Service) -> npt.NDArray[Any]:
    name = tensor["name"]
    shape, datatype = tensor.get("shape"), tensor.get("datatype")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise Refusal(400, f"The shape of {name} is a list of sizes")
    if shape and shape[0] > service.limits.max_instances:
        raise Refusal(400, f"a request may hold {service.limits.max_instances} instances, but holds {shape[0]}")
    if datatype != _DATATYPES.get(spec.type_name):
        raise Refusal(400, f"{name} has the datatype {_DATATYPES.get(spec.type_name)}; received {str(datatype)[:40]}")
    data = tensor.get("data")
    if not isinstance(data, list):
        raise Refusal(400, f"The data of {name} is a list")
    parameters = tensor.get("parameters")
    content_type = parameters.get("content_type") if isinstance(parameters, dict) else None
    flat = _flattened(data)
    if len(flat) != math.prod(shape):
        raise Refusal(400, f"{name} of shape {shape[:16]} has {math.prod(shape)} elements; received {len(flat)}")
    if spec.type_name == "string" and (content_type == "base64" or name.endswith("_bytes")):
        flat = [{"b64": value} if isinstance(value, str) else value for value in flat]
    if not flat:
        return np.zeros(shape, spec.dtype)
    return tensors.to_array(flat, spec).reshape(shape)


def _flattened(data: list[Any]) -> list[Any]:
    """The elements in row order; V2 allows nested lists as well as flat ones."""
    for _ in range(tensors.MAX_DIMENSIONS):
        if not any(isinstance(item, list) for item in data):
            return data
        data = [inner for item in data for inner in (item if isinstance(item, list) else [item])]
    raise Refusal(400, f"a tensor may have {tensors.MAX_DIMENSIONS} dimensions; lists are nested deeper than that")


def _wanted(document: dict[str, Any], outputs: dict[str, Any]) -> list[str]:
    wanted = document.get("outputs")
    if wanted is None:
        return list(outputs)
    if not isinstance(wanted, list) or not all(isinstance(item, dict) for item in wanted):
        raise Refusal(400, "The outputs of an inference request are a list of objects with a name")
    names = [item.get("name") for item in wanted]
    for name in names:
        if not isinstance(name, str) or name not in outputs:
            raise Refusal(400, f"The model has the outputs {', '.join(outputs)}; received {str(name)[:80]}")
    return names or list(outputs)


def _written(name: str, array: npt.NDArray[Any], spec: TensorSpec) -> dict[str, Any]:
    data = array.ravel()
    values = [answers.as_text(value) for value in data.tolist()] if spec.type_name == "string" else data
    return {"name": name, "shape": list(array.shape), "datatype": _DATATYPES[spec.type_name], "data": values}


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json_text.write(value), status, media_type="application/json", headers=headers)


_INFER_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "id": {"type": "string"},
                    "inputs": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "name": {"type": "string"},
                                "shape": {"type": "array", "items": {"type": "integer"}},
                                "datatype": {"type": "string"},
                                "data": {"type": "array", "items": {}},
                            },
                        },
                    },
                },
                "required": ["inputs"],
            }
        }
    },
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in {
        400: "Not what the model takes",
        404: "No such model or version",
        408: "Too slow",
        413: "Too long",
        429: "The queue is full: try again later",
        503: "Too many connections",
    }.items()
}
