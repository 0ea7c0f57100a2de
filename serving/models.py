# SPDX-License-Identifier: Apache-2.0
"""A model that is served: its signatures, its versions, and which version takes a request.

Production is the highest version that is not labelled `canary` (components/push/versions.py). A new version is loaded
and warmed up beside the current one and replaces it by one assignment; requests in flight stay with the version that
they started with. A version that fails to load or to predict is skipped and logged once, until its files change.

`ModelVersions` takes the function that loads a version, such as that of serving/savedmodel.py: another engine needs
only another function that returns a `LoadedModel`.
"""

from __future__ import annotations

import dataclasses
import gc
import io
import logging
import math
import pathlib
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components import features, paths
from components.errors import BadInput
from components.push import versions
from components.push.local_folder import LocalFolder
from serving.limits import RequestError
from serving.tensors import Arrays, TensorSpec

DEFAULT_SIGNATURE = "serving_default"
STABLE = "stable"
_POLL_SECONDS = 0.5
_WARM_UP_BATCHES = (1, 2, 16)
_INPUTS = {
    features.SIGNATURE_BYTES: features.IMAGE_BYTES_INPUT,
    features.SIGNATURE_PIXELS: features.PIXELS_INPUT,
    features.SIGNATURE_EXAMPLES: features.EXAMPLES_INPUT,
}
_log = logging.getLogger("serving")


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function of a model.

    Attributes:
        name: of the signature.
        inputs: by name.
        outputs: by name.
        call: takes arrays in the order of `inputs` and returns those of `outputs`; raises `RequestError`.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    call: Callable[..., list[npt.NDArray[Any]]]

    @property
    def batchable(self) -> bool:
        """True if requests can be joined: only the first dimension of every input and output is free."""
        specs = [*self.inputs.values(), *self.outputs.values()]
        return all(spec.shape is not None and spec.shape[:1] == (-1,) and -1 not in spec.shape[1:] for spec in specs)

    def check_shapes(self, inputs: Arrays) -> int:
        """Returns the number of rows of the inputs, 1 for scalars.

        Raises:
            RequestError: an input has a shape that the signature does not take.
        """
        rows = 1
        for name, spec in self.inputs.items():
            shape = inputs[name].shape
            if not spec.accepts(shape):
                raise RequestError(400, f"{name} must be {spec}; received the shape {list(shape)}")
            rows = shape[0] if shape else 1
        if self.batchable:
            counts = {name: len(inputs[name]) for name in self.inputs}
            if len(set(counts.values())) > 1:
                raise RequestError(400, f"all inputs must have the same number of rows; received {counts}")
            if rows == 0:
                raise RequestError(400, "a request must have at least one image; received none")
        return rows

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Calls the model; returns the outputs by name.

        Raises:
            RequestError: the model refuses the inputs, or fails.
        """
        for name, spec in self.inputs.items():
            if inputs[name].dtype != spec.dtype:
                raise RequestError(400, f"{name} must be {spec.type_name}; received {inputs[name].dtype}")
        return dict(zip(self.outputs, self.call(*(inputs[name] for name in self.inputs)), strict=True))


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """One version of a model, in memory.

    Attributes:
        number: of the version.
        path: its folder.
        signatures: by name.
        signature_def: the signatures as TensorFlow Serving's metadata call returns them.
        provenance: content of its provenance file (components/push/versions.py), empty without one.
    """

    number: int
    path: pathlib.Path
    signatures: Mapping[str, Signature]
    signature_def: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels of the images that this version takes."""
        pixels = self.signatures.get(features.SIGNATURE_PIXELS)
        spec = pixels.inputs.get(features.PIXELS_INPUT) if pixels else None
        shape = spec.shape if spec else None
        return (shape[1], shape[2]) if shape and len(shape) == 3 else features.IMAGE_SHAPE

    @property
    def dataset(self) -> str:
        """Name of the data set that it was trained on, empty if unknown."""
        return str((self.provenance.get("dataset") or {}).get("name", ""))

    def signature(self, name: str) -> Signature:
        """Returns the signature of that name, the default one for an empty name.

        Raises:
            RequestError: there is none.
        """
        signature = self.signatures.get(name or DEFAULT_SIGNATURE)
        if signature is None:
            raise RequestError(
                400,
                f"the model has the signatures {', '.join(self.signatures)}; received "
                f"{(name or DEFAULT_SIGNATURE)[:80]!r}",
            )
        return signature

    def warm_up(self) -> None:
        """Calls each signature of the data contract with blank images.

        The first calls take a hundred times as long as later ones: TensorFlow optimises the graph.

        Raises:
            ValueError: an output is missing, of the wrong shape, or not probabilities.
            RequestError: the model fails.
        """
        for name, key in _INPUTS.items():
            signature = self.signatures.get(name)
            if signature is None or list(signature.inputs) != [key]:
                continue  # not a model of this project
            blank = _blank_image(name, self.image_shape)
            for count in _WARM_UP_BATCHES:
                _check_outputs(signature.run({key: np.concatenate([blank] * count)}), count)


class VersionStatus(NamedTuple):
    """Status of a version: one of TensorFlow Serving's states and error codes, and a message."""

    state: str
    error_code: str = "OK"
    error_message: str = ""


class _Failure(NamedTuple):
    """A version that does not load: the state of its files, and the error."""

    fingerprint: object
    message: str


class _Snapshot(NamedTuple):
    """State of `ModelVersions` at one moment; replaced by assignment, so that a request never sees half a change."""

    loaded: Mapping[int, LoadedModel]
    production: int | None
    labels: Mapping[str, int]


class ModelVersions:
    """The versions of one model, kept up to date with its folder.

    Args:
        folder: with the numbered versions.
        load: loads the version in a folder.
        canary_share: share of the requests without version or label that go to the canary, 0 to 1.
        random: returns numbers in [0, 1) that pick these requests.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        load: Callable[[pathlib.Path], LoadedModel],
        canary_share: float = 0.0,
        random: Callable[[], float] = random.random,
    ):
        self.name = folder.name
        self._folder = folder
        self._load = load
        self._canary_share = canary_share
        self._random = random
        self._snapshot = _Snapshot({}, None, {})
        self._loading: int | None = None
        self._failures: dict[int, _Failure] = {}
        self._last_error = ""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def resolve(self, version: int | None = None, label: str | None = None) -> LoadedModel:
        """Returns the version for a request.

        Raises:
            RequestError: 404 for a version that is not loaded, 400 for an unknown label, as in TensorFlow Serving.
        """
        snapshot = self._snapshot
        if label is not None:
            version = snapshot.labels.get(label)
            if version is None:
                labels = ", ".join(snapshot.labels)
                raise RequestError(400, f"{self.name} has the labels {labels}; received {label[:80]!r}")
        if version is None:
            version = snapshot.production
            canary = snapshot.labels.get(versions.CANARY)
            if canary is not None and self._canary_share and self._random() < self._canary_share:
                version = canary
        if version is None:
            raise RequestError(404, f"no version of {self.name} is loaded")
        if version not in snapshot.loaded:
            raise RequestError(404, f"version {version} of {self.name} is not loaded")
        return snapshot.loaded[version]

    def check_name(self, name: str) -> None:
        """Raises `RequestError` for the name of another model."""
        if name != self.name:
            raise RequestError(404, f"this server has the model {self.name}; received {name[:80]!r}")

    @property
    def ready(self) -> bool:
        """True once a version can predict."""
        return self._snapshot.production is not None

    @property
    def numbers(self) -> list[int]:
        """Numbers of the loaded versions, highest first."""
        return sorted(self._snapshot.loaded, reverse=True)

    @property
    def labels(self) -> dict[str, int]:
        """Labels of loaded versions, and the versions."""
        return dict(self._snapshot.labels)

    def statuses(self) -> dict[int, VersionStatus]:
        """Returns the status of each version, highest version first."""
        statuses = {
            number: VersionStatus("END", "UNKNOWN", failure.message) for number, failure in self._failures.items()
        }
        if (loading := self._loading) is not None:
            statuses[loading] = VersionStatus("LOADING")
        statuses.update(dict.fromkeys(self._snapshot.loaded, VersionStatus("AVAILABLE")))
        return dict(sorted(statuses.items(), reverse=True))

    def start(self) -> None:
        """Loads the versions in the folder and follows it from then on.

        Raises:
            BadInput: there is no version, or none that loads.
        """
        self.refresh()
        if not self.ready:
            failures = ", ".join(f"version {number}: {error.message}" for number, error in self._failures.items())
            raise BadInput(
                f"--model-dir takes a folder with a numbered version that loads; {self._folder} has "
                f"{failures or 'no version'}. Push a model first: python runner_local.py"
            )
        self._thread = threading.Thread(target=self._follow_folder, name="versions", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops following the folder."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _follow_folder(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            try:
                self.refresh()
            except Exception as error:  # the thread must survive any failure of the file system
                _log.warning("cannot look for versions in %s: %s", self._folder, error)

    def refresh(self) -> None:
        """Reads the folder once, and loads and drops versions accordingly."""
        try:
            numbers = _complete_versions(self._folder)
        except BadInput as error:  # the loaded versions stay
            self._log_error(str(error))
            return
        self._failures = {number: failure for number, failure in self._failures.items() if number in numbers}
        labels = self._read_labels()
        canary = labels.get(versions.CANARY)
        previous = self._snapshot
        loaded = dict(previous.loaded)
        # The highest version that loads. If none does, the current one stays, even after its folder was removed.
        candidates = sorted(numbers - {canary}, reverse=True)
        production = next((number for number in candidates if self._ensure_loaded(loaded, number)), previous.production)
        labels = {
            label: number
            for label, number in labels.items()
            if number in numbers and self._ensure_loaded(loaded, number)
        }
        if production is not None:
            labels.setdefault(STABLE, production)
        served = {production, *labels.values()}
        loaded = {number: model for number, model in loaded.items() if number in served}
        snapshot = _Snapshot(loaded, production, labels)
        if (production, labels, loaded.keys()) == (previous.production, previous.labels, previous.loaded.keys()):
            return
        self._snapshot = snapshot
        _log.info(
            "%s: %s", self.name, ", ".join(f"{label} is version {number}" for label, number in sorted(labels.items()))
        )
        del previous, loaded
        gc.collect()  # a session is part of reference cycles, and its memory would stay for long

    def _ensure_loaded(self, loaded: dict[int, LoadedModel], number: int) -> bool:
        """Loads a version unless it is in `loaded`; returns False if it does not load."""
        if number in loaded:
            return True
        path = pathlib.Path(LocalFolder(self._folder).location(number))
        fingerprint = _fingerprint(path)
        if number in self._failures and self._failures[number].fingerprint == fingerprint:
            return False
        self._loading = number
        try:
            model = self._load(path)
            model.warm_up()
        except Exception as error:  # TensorFlow raises many types for a damaged model
            message = (str(error) or type(error).__name__).split("\n", 1)[0]
            self._failures[number] = _Failure(fingerprint, message)
            _log.error("version %s of %s is skipped: %s", number, self.name, message)
            return False
        finally:
            self._loading = None
        loaded[number] = model
        self._failures.pop(number, None)
        return True

    def _read_labels(self) -> dict[str, int]:
        """Returns the labels in the folder; the previous ones while the file cannot be read, such as half written."""
        try:
            labels = versions.read_labels(self._folder)
        except (OSError, BadInput) as error:
            self._log_error(f"{self._folder / versions.LABELS_FILE} cannot be read, its labels stay: {error}")
            return {label: number for label, number in self._snapshot.labels.items() if label != STABLE}
        self._last_error = ""
        return labels

    def _log_error(self, message: str) -> None:
        """Logs an error unless it was the last one."""
        if message != self._last_error:
            self._last_error = message
            _log.error("%s", message)


def find_model(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder of a model: `folder` if it has versions, else the only folder in it that does.

    Raises:
        BadInput: there is none, or several, or TensorFlow would read its path as a pattern.
    """
    folder = paths.absolute(folder, "--model-dir")
    paths.refuse_patterns(folder, "--model-dir")
    if _complete_versions(folder):
        return folder
    try:
        models = sorted(path for path in folder.iterdir() if _complete_versions(path)) if folder.is_dir() else []
    except OSError as error:
        raise BadInput(f"--model-dir takes a readable folder; {folder}: {error.strerror}") from None
    if len(models) == 1:
        return models[0]
    content = f"has several models ({', '.join(path.name for path in models)}): name one" if models else "has none"
    raise BadInput(
        f"--model-dir takes the folder of a model, with numbered versions in it; {folder} {content}. "
        "To push a model: python runner_local.py"
    )


def _complete_versions(folder: pathlib.Path) -> set[int]:
    """Returns the numbers of the complete versions in a folder.

    Raises:
        BadInput: two folders have the same number.
    """
    try:
        return {number for number, complete in LocalFolder(folder).numbers().items() if complete}
    except OSError:
        return set()


def _fingerprint(folder: pathlib.Path) -> object:
    """Returns the names, sizes and times of change of all files."""
    files = []
    for path in sorted(folder.rglob("*")):
        try:
            status = path.stat()
        except OSError:
            continue
        files.append((str(path), status.st_size, status.st_mtime_ns))
    return files


def _blank_image(signature: str, image_shape: tuple[int, int]) -> npt.NDArray[Any]:
    """Returns an input of a signature of the data contract with one image, all background."""
    pixels = np.zeros((1, *image_shape), np.uint8)
    if signature == features.SIGNATURE_PIXELS:
        return pixels
    if signature == features.SIGNATURE_BYTES:
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(pixels[0]).save(file, "PNG")
        return np.array([file.getvalue()], object)
    import tensorflow as tf

    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[pixels.tobytes()]))
    example = tf.train.Example(features=tf.train.Features(feature={features.IMAGE: feature}))
    return np.array([example.SerializeToString()], object)


def _check_outputs(outputs: Arrays, count: int) -> None:
    """Raises `ValueError` unless the outputs have probabilities, float [count, classes], of sum 1 for each image."""
    probabilities = outputs.get(features.PROBABILITIES_OUTPUT)
    if probabilities is None or probabilities.ndim != 2 or len(probabilities) != count:
        shape = None if probabilities is None else probabilities.shape
        raise ValueError(f"the model must return probabilities [{count}, classes]; it returns {shape}")
    total = float(probabilities.sum())
    if not math.isclose(total, count, rel_tol=1e-3):  # True for NaN too
        raise ValueError(f"the probabilities of {count} images must add up to {count}; they add up to {total}")
