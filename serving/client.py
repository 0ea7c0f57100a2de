# SPDX-License-Identifier: Apache-2.0
"""Asks a model: over HTTP, any server that speaks TensorFlow Serving's REST interface, or loaded in this process."""

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

_SECONDS = 30.0
_MODELS = "/v1/models"


class Prediction(NamedTuple):
    """What a model says of one image: index of the class, its probabilities, and the version that answered."""

    label: int
    probabilities: list[float]
    version: str


class Model(Protocol):
    """A model that can be asked.

    Attributes:
        image_shape: height and width in pixels of the images it takes.
        dataset: name of the data set it was trained on, empty where that is not known.
    """

    image_shape: tuple[int, int]
    dataset: str

    def predict(self, images: npt.NDArray[np.uint8]) -> list[Prediction]:
        """Answers for uint8 [n, height, width]."""


class Remote:
    """A model behind a server.

    Args:
        url: of the server, as in http://127.0.0.1:8501, or of a model or version, as in …/v1/models/mnist.

    Raises:
        BadInput: nothing answers there.
    """

    def __init__(self, url: str):
        if not url.startswith(("http://", "https://")):
            raise BadInput(f"--url takes an address such as http://127.0.0.1:8501; received {url!r}")
        base, _, path = url.rstrip("/").partition(_MODELS)
        try:
            parts = urllib.parse.urlsplit(base)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            raise BadInput(f"--url takes an address such as http://127.0.0.1:8501; received {url!r}") from None
        # A proxy is for what is elsewhere.
        self._direct = host in ("localhost", "127.0.0.1", "::1")
        self._url = url
        about = self._try(f"{base}/about")
        name = path or f"/{about.get('model') or self._first_model(base)}"
        self._predict_url = f"{base}{_MODELS}{name}:predict"
        self.image_shape = _shape(about.get("image_shape"))
        self.dataset = str((about.get("dataset") or {}).get("name", ""))

    def predict(self, images: npt.NDArray[np.uint8]) -> list[Prediction]:
        """Answers for uint8 [n, height, width]."""
        instances = [{"b64": base64.b64encode(png(image)).decode()} for image in images]
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
        """The first of the models that are listed, as KServe does; TensorFlow Serving lists none."""
        models = self._try(base + _MODELS).get("models")
        return str(models[0]) if isinstance(models, list) and models else "mnist"

    def _try(self, url: str) -> dict[str, Any]:
        """What an address answers; empty where the server does not have it."""
        try:
            with self._open(urllib.request.Request(url)) as response:
                found = json.load(response)
        except (_Answered, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _open(self, request: urllib.request.Request) -> Any:
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({} if self._direct else None))
            return opener.open(request, timeout=_SECONDS)
        except urllib.error.HTTPError as error:
            body = error.read(2000).decode("utf-8", "replace")
            with contextlib.suppress(ValueError, KeyError, TypeError):
                body = json.loads(body)["error"]
            raise _Answered(f"{self._url} answers {error.code}: {body}".replace("\n", " ")[:500]) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            fault = network.described(self._url, direct=self._direct)
            # What a ValueError or an HTTPException says may be the address of a proxy, with its password.
            reason: object = type(error).__name__
            if isinstance(error, OSError):
                reason = getattr(error, "reason", error)
            raise BadInput(
                f"--url takes the address of a server; {self._url} does not answer ({fault or reason}). Start one with "
                "python -m serving, or ask a model without a server: --model-dir DIR"
            ) from None


class _Answered(ProjectError):
    """The server refused."""


class Local:
    """The model in production in a serving folder, loaded here.

    Args:
        folder: as `--model-dir` of the server.
    """

    def __init__(self, folder: pathlib.Path):
        from serving.models import Models, find_model

        models = Models(find_model(folder))
        models.refresh()
        if not models.ready:
            raise BadInput(f"--model-dir takes a folder with a version that loads; none of {folder} does")
        self._model = models.resolve()
        self.image_shape = self._model.image_shape()
        self.dataset = str((self._model.provenance.get("dataset") or {}).get("name", ""))

    def predict(self, images: npt.NDArray[np.uint8]) -> list[Prediction]:
        """Answers for uint8 [n, height, width]."""
        answer = self._model.signatures[features.SIGNATURE_PIXELS].run({features.PIXELS_INPUT: images})
        pairs = zip(answer[features.CLASS_OUTPUT], answer[features.PROBABILITIES_OUTPUT], strict=True)
        return [Prediction(int(label), row.tolist(), str(self._model.number)) for label, row in pairs]


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """An image uint8 [height, width] as a PNG file, 8-bit greyscale."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _shape(found: Any) -> tuple[int, int]:
    if isinstance(found, list) and len(found) == 2 and all(type(size) is int and size > 0 for size in found):
        return found[0], found[1]
    return features.IMAGE_SHAPE
