# SPDX-License-Identifier: Apache-2.0
"""KServe's V2 protocol, also called Open Inference Protocol: health, metadata and inference in JSON.

Source: KServe's document "Open Inference Protocol (V2)". The names of the inputs select the signature, unless the
parameter `signature_name` does. BYTES elements are text, or base64 if the input's parameter `content_type` is
"base64" or its name ends in `_bytes`: JSON cannot hold the bytes of an image otherwise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response

from serving import tensors
from serving.limits import RequestError
from serving.models import DEFAULT_SIGNATURE, LoadedModel, Signature
from serving.protocol_v1 import ERRORS, VERSION_HEADER
from serving.service import Service
from serving.tensors import TensorSpec

_DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "string": "BYTES",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TensorMetadata:
    """An input or output in the metadata of a model."""

    name: str
    datatype: str
    shape: list[int]


@dataclasses.dataclass(frozen=True)
class InputTensor:
    """An input of a request; `data` are the elements in row order."""

    name: str
    shape: list[int]
    datatype: object
    data: list[Any]
    base64: bool


@dataclasses.dataclass(frozen=True)
class OutputTensor:
    """An output of a response; `data` are the elements in row order."""

    name: str
    shape: list[int]
    datatype: str
    data: list[str] | npt.NDArray[Any]


def router(service: Service) -> APIRouter:
    """Returns the routes of the protocol."""
    routes = APIRouter(prefix="/v2", tags=["KServe V2 (Open Inference Protocol)"])

    @routes.get("", summary="The server")
    async def server() -> dict[str, Any]:
        return {"name": "mnist-tfx", "version": "1", "extensions": []}

    @routes.get("/health/live", summary="Liveness")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/health/ready", summary="Readiness")
    async def ready() -> Response:
        return _json({"ready": service.ready}, 200 if service.ready else 503)

    async def model_ready(request: Request) -> Response:
        _resolve(service, request)
        return _json({"ready": True})

    async def metadata(request: Request) -> Response:
        return _json(_metadata(service, _resolve(service, request)))

    async def infer(request: Request) -> Response:
        body = await service.bodies.read(request)
        return await _infer(service, _resolve(service, request), tensors.read_json(body))

    for target, path in {"model": "", "version": "/versions/{version}"}.items():
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in ("name", "version")[: 1 + bool(path)]
        ]
        for name, suffix, handler in (("metadata", "", metadata), ("ready", "/ready", model_ready)):
            routes.add_api_route(
                f"/models/{{name}}{path}{suffix}",
                handler,
                methods=["GET"],
                summary=f"{name.capitalize()}, by {target}",
                operation_id=f"v2_{name}_by_{target}",
                openapi_extra={"parameters": parameters},
                responses=ERRORS,
            )
        routes.add_api_route(
            f"/models/{{name}}{path}/infer",
            infer,
            methods=["POST"],
            summary=f"Infer, by {target}",
            operation_id=f"v2_infer_by_{target}",
            openapi_extra={"parameters": parameters, "requestBody": _INFER_BODY},
            responses=ERRORS,
        )
    return routes


def _resolve(service: Service, request: Request) -> LoadedModel:
    """Returns the version in the path of a request; raises `RequestError` 404 if it is not loaded."""
    version = request.path_params.get("version")
    service.models.check_name(request.path_params["name"])
    if version is None:
        return service.models.resolve()
    if not (version.isascii() and version.isdecimal() and len(version) < 20):
        raise RequestError(404, f"a version is a number; received {version[:80]!r}")
    return service.models.resolve(int(version))


def _metadata(service: Service, model: LoadedModel) -> dict[str, Any]:
    signature = model.signatures.get(DEFAULT_SIGNATURE) or next(iter(model.signatures.values()))
    return {
        "name": service.models.name,
        "versions": [str(number) for number in service.models.numbers],
        "platform": "tensorflow_savedmodel",
        "inputs": _tensor_metadata(signature.inputs),
        "outputs": _tensor_metadata(signature.outputs),
    }


def _tensor_metadata(specs: Mapping[str, TensorSpec]) -> list[TensorMetadata]:
    return [
        TensorMetadata(name, _DATATYPES.get(spec.type_name, spec.type_name), list(spec.shape or ()))
        for name, spec in specs.items()
    ]


async def _infer(service: Service, model: LoadedModel, document: Any) -> Response:
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise RequestError(400, "an inference request must be an object with a list of inputs")
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise RequestError(400, f"the id of a request must be a string; received {tensors.describe(request_id)}")
    inputs = {tensor.name: tensor for tensor in map(_parse_input, document["inputs"])}
    for tensor in inputs.values():
        service.limits.check_instances(tensor.shape[0] if tensor.shape else 1)
    signature = _signature(model, document, inputs)
    arrays = {name: _to_array(inputs[name], spec) for name, spec in signature.inputs.items()}
    output_names = _output_names(document, signature)
    outputs = await service.predict(model, signature, arrays)
    response = {
        "model_name": service.models.name,
        "model_version": str(model.number),
        "outputs": [_to_output(name, outputs[name], signature.outputs[name]) for name in output_names],
    }
    if request_id:
        response["id"] = request_id
    return _json(response, headers={VERSION_HEADER: str(model.number)})


def _parse_input(tensor: Any) -> InputTensor:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise RequestError(400, "each input must be an object with name, shape, datatype and data")
    name, shape, data = tensor["name"], tensor.get("shape"), tensor.get("data")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise RequestError(400, f"the shape of {name[:80]} must be a list of whole numbers from 0")
    if not isinstance(data, list):
        raise RequestError(400, f"the data of {name[:80]} must be a list; received {tensors.describe(data)}")
    elements = _flatten(name, data)
    if len(elements) != math.prod(shape):
        raise RequestError(
            400, f"{name[:80]} of shape {shape[:16]} must have {math.prod(shape)} elements; received {len(elements)}"
        )
    parameters = tensor.get("parameters")
    content_type = parameters.get("content_type") if isinstance(parameters, dict) else None
    return InputTensor(
        name, shape, tensor.get("datatype"), elements, content_type == "base64" or name.endswith("_bytes")
    )


def _flatten(name: str, data: list[Any]) -> list[Any]:
    """Returns the elements in row order; the protocol allows nested lists as well as flat ones."""
    for _ in range(tensors.MAX_DIMENSIONS):
        if not any(isinstance(item, list) for item in data):
            return data
        data = [inner for item in data for inner in (item if isinstance(item, list) else [item])]
    raise RequestError(400, f"{name[:80]} may have {tensors.MAX_DIMENSIONS} dimensions; its lists are nested deeper")


def _signature(model: LoadedModel, document: dict[str, Any], inputs: Mapping[str, InputTensor]) -> Signature:
    """Returns the signature for a request: by its name, or by the names of the inputs."""
    parameters = document.get("parameters")
    name = parameters.get("signature_name") if isinstance(parameters, dict) else None
    if name is not None:
        if not isinstance(name, str):
            raise RequestError(400, f"signature_name must be a string; received {tensors.describe(name)}")
        candidates = [model.signature(name)]
    else:
        candidates = list(model.signatures.values())
    signature = next((signature for signature in candidates if signature.inputs.keys() == inputs.keys()), None)
    if signature is None:
        expected = "; or ".join(", ".join(signature.inputs) for signature in candidates)
        raise RequestError(400, f"the inputs must be {expected}; received {', '.join(inputs)[:200] or 'none'}")
    return signature


def _to_array(tensor: InputTensor, spec: TensorSpec) -> npt.NDArray[Any]:
    datatype = _DATATYPES.get(spec.type_name)
    if tensor.datatype != datatype:
        received = tensors.describe(tensor.datatype)
        raise RequestError(400, f"the datatype of {tensor.name} must be {datatype}; received {received}")
    data = tensor.data
    if spec.type_name == "string" and tensor.base64:
        data = [{"b64": value} if isinstance(value, str) else value for value in data]
    if not data:
        return np.zeros(tensor.shape, spec.dtype)
    return tensors.from_json(tensor.name, data, spec).reshape(tensor.shape)


def _output_names(document: dict[str, Any], signature: Signature) -> list[str]:
    """Returns the names of the outputs that a request asks for: all unless it lists some."""
    outputs = document.get("outputs")
    if outputs is None:
        return list(signature.outputs)
    if not isinstance(outputs, list) or not all(isinstance(item, dict) for item in outputs):
        raise RequestError(400, "the outputs of a request must be a list of objects with a name")
    names = [item.get("name") for item in outputs]
    for name in names:
        if not isinstance(name, str) or name not in signature.outputs:
            raise RequestError(
                400, f"the model has the outputs {', '.join(signature.outputs)}; received {tensors.describe(name)}"
            )
    return names or list(signature.outputs)


def _to_output(name: str, array: npt.NDArray[Any], spec: TensorSpec) -> OutputTensor:
    elements = array.ravel()
    data = [tensors.to_text(value) for value in elements.tolist()] if spec.type_name == "string" else elements
    return OutputTensor(name, list(array.shape), _DATATYPES[spec.type_name], data)


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(tensors.write_json(content), status, media_type="application/json", headers=headers)


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
