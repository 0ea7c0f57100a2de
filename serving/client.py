# SPDX-License-Identifier: Apache-2.0
"""Clients of a model: behind a server with TensorFlow Serving's REST interface, or loaded into this process."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import pathlib
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from components import features, network
from components.errors import BadInput, ProjectError

_TIMEOUT_SECONDS = 30.0
_MODELS = "/v1/models"


class Prediction(NamedTuple):
    """Class index, probabilities and model version for one image; the version is empty if unknown."""

    label: int
    probabilities: list[float]
    version: str


class Client(Protocol):
    """A model to predict with.

    Attributes:
        image_shape: height and width in pixels of the images.
        dataset: name of the data set that the model was trained on, empty if unknown.
    """

    image_shape: tuple[int, int]
    dataset: str

    def predict(self, images: npt.NDArray[np.uint8]) -> list[Prediction]:
        """Returns the predictions for uint8 [n, height, width]."""


class HttpClient:
    """A model behind a server.

    Args:
        url: of the server, as in http://127.0.0.1:8501, or of a model or version, as in …/v1/models/mnist.

    Raises:
        BadInput: no server responds there.
    """

    def __init__(self, url: str):
        base, _, path = url.rstrip("/").partition(_MODELS)
        try:
            parts = urllib.parse.urlsplit(base)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            host = ""
        if not url.startswith(("http://", "https://")) or not host:
            raise BadInput(f"--url takes an address such as http://127.0.0.1:8501; received {url!r}")
        # Proxies are for other machines.
        self._direct = host in ("localhost", "127.0.0.1", "::1")
        self._url = url
        about = self._get(f"{base}/about")
        name = path or f"/{about.get('model') or self._first_model(base)}"
        self._predict_url = f"{base}{_MODELS}{name}:predict"
        self.image_shape = _image_shape(about.get("image_shape"))
        self.dataset = str((about.get("dataset") or {}).get("name", ""))

    def predict(self, images: npt.NDArray[np.uint8]) -> list[Prediction]:
        """Returns the predictions for uint8 [n, height, width]."""
        instances = [{"b64": base64.b64encode(encode_png(image)).decode()} for image in images]
        request = urllib.request.Request(
            self._predict_url,
            json.dumps({"instances": instances}).encode(),
            {"content-type": "application/json"},
        )
        with self._open(request) as response:
            version = response.headers.get("x-model-version", "")
            document = json.load(response)
        return [
            Prediction(int(row[features.CLASS_OUTPUT]), list(row[features.PROBABILITIES_OUTPUT]), version)
            for row in document["predictions"]
        ]

    def _first_model(self, base: str) -> str:
        """Returns the first model that the server lists, as KServe does; TensorFlow Serving lists none."""
        models = self._get(base + _MODELS).get("models")
        return str(models[0]) if isinstance(models, list) and models else "mnist"

    def _get(self, url: str) -> dict[str, Any]:
        """Returns the JSON object at an address, empty if the server has none there."""
        try:
            with self._open(urllib.request.Request(url)) as response:
                document = json.load(response)
        except (_ResponseError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def _open(self, request: urllib.request.Request) -> Any:
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({} if self._direct else None))
            return opener.open(request, timeout=_TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            body = error.read(2000).decode("utf-8", "replace")
            with contextlib.suppress(ValueError, KeyError, TypeError):
                body = json.loads(body)["error"]
            raise _ResponseError(f"{self._url} responds {error.code}: {body}".replace("\n", " ")[:500]) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            fault = network.described(self._url, direct=self._direct)
            # The message of a ValueError or HTTPException may have the address of a proxy, with its password.
            reason: object = type(error).__name__
            if isinstance(error, OSError):
                reason = getattr(error, "reason", error)
            raise BadInput(
                f"--url takes the address of a server; {self._url} does not respond ({fault or reason}). Start one "
                "with python -m serving, or load a model without a server: --model-dir DIR"
            ) from None


class _ResponseError(ProjectError):
    """A response of the server with an error status."""


class LocalClient:
    """The production version in a folder, loaded into this process.

    Args:
        folder: `--model-dir` of the server.

    Raises:
        BadInput: no version in it loads.
    """

    def __init__(self, folder: pathlib.Path):
        from serving import savedmodel
        from serving.models import ModelVersions, find_model

        models = ModelVersions(find_model(folder), savedmodel.load)
        models.refresh()
        if not models.ready:
            raise BadInput(f"--model-dir takes a folder with a version that loads; none in {folder} does")
        self._model = models.resolve()
        self.image_shape = self._model.image_shape
        self.dataset = self._model.dataset

    def predict(self, images: npt.NDArray[np.uint8]) -> list[Prediction]:
        """Returns the predictions for uint8 [n, height, width]."""
        outputs = self._model.signatures[features.SIGNATURE_PIXELS].run({features.PIXELS_INPUT: images})
        pairs = zip(outputs[features.CLASS_OUTPUT], outputs[features.PROBABILITIES_OUTPUT], strict=True)
        return [Prediction(int(label), row.tolist(), str(self._model.number)) for label, row in pairs]


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """Returns an image, uint8 [height, width], as a PNG file, 8-bit greyscale."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _image_shape(value: Any) -> tuple[int, int]:
    if isinstance(value, list) and len(value) == 2 and all(type(size) is int and size > 0 for size in value):
        return value[0], value[1]
    return features.IMAGE_SHAPE
