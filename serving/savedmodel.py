# SPDX-License-Identifier: Apache-2.0
"""One version of a model: a SavedModel in a TensorFlow session, its signatures, and how to call them.

A session and not `tf.saved_model.load`: it is what TensorFlow Serving itself runs, a call costs a third less, and
closing it gives all of its memory back, so that versions can come and go. TensorFlow is imported when the first model
is loaded.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import math
import pathlib
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from components import features
from components.push import versions
from serving import quiet
from serving.refusal import Refusal

Arrays = Mapping[str, npt.NDArray[Any]]
_SERVE_TAG = "serve"
_INPUT_OF = {
    features.SIGNATURE_BYTES: features.IMAGE_BYTES_INPUT,
    features.SIGNATURE_PIXELS: features.PIXELS_INPUT,
    features.SIGNATURE_EXAMPLES: features.EXAMPLES_INPUT,
}
_INIT_OP = "__saved_model_init_op"
# How TensorFlow's error codes become HTTP statuses (TensorFlow Serving, model_servers/http_server.cc); others are 500.
_STATUS = {1: 499, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 14: 503, 16: 401}


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output of a signature.

    Attributes:
        dtype: numpy's type; object for strings.
        type_name: TensorFlow's name of it, such as "uint8".
        shape: sizes, -1 where any is taken; None where the number of dimensions is not known either.
    """

    dtype: np.dtype[Any]
    type_name: str
    shape: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Signature:
    """One way to call a model. `call` takes the inputs in the order of `inputs`, and answers in that of `outputs`."""

    name: str
    method: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    call: Callable[..., list[npt.NDArray[Any]]]

    @property
    def batchable(self) -> bool:
        """Whether requests may be joined along the first dimension: every input and output has one that is free."""
        specs = [*self.inputs.values(), *self.outputs.values()]
        return all(spec.shape is not None and spec.shape[:1] == (-1,) and -1 not in spec.shape[1:] for spec in specs)

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Calls the model.

        Raises:
            Refusal: TensorFlow refused the inputs, or failed.
        """
        from tensorflow import errors

        for name, spec in self.inputs.items():
            if inputs[name].dtype != spec.dtype:  # the runtime would end the process
                raise Refusal(400, f"{name} takes {spec.type_name}, but received {inputs[name].dtype}")
        try:
            answers = self.call(*(inputs[name] for name in self.inputs))
        except errors.OpError as error:
            raise Refusal(_STATUS.get(error.error_code, 500), _first_sentence(error.message)) from None
        return dict(zip(self.outputs, answers, strict=True))


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """One version that is loaded. Its session is closed when nothing refers to it any more.

    Attributes:
        number: of the version.
        path: its folder.
        signatures: by name.
        signature_def: the signatures as TensorFlow Serving's metadata call shows them.
        provenance: what its provenance file says (components/push/versions.py), empty where it has none.
    """

    number: int
    path: pathlib.Path
    signatures: Mapping[str, Signature]
    signature_def: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels of the images that this version takes."""
        pixels = self.signatures.get(features.SIGNATURE_PIXELS)
        spec = pixels.inputs.get(features.PIXELS_INPUT) if pixels else None
        shape = spec.shape if spec else None
        return (shape[1], shape[2]) if shape and len(shape) == 3 else features.IMAGE_SHAPE

    def warm_up(self) -> None:
        """Calls each signature of the data contract with a blank image, and with a few, before any client does.

        The first calls trace and optimise the graph, which takes a hundred times as long as those that follow.

        Raises:
            Refusal: an answer is missing, of the wrong shape, or no probabilities.
        """
        for name, blank in _blank_images(self.image_shape()).items():
            signature = self.signatures.get(name)
            key = _INPUT_OF[name]
            if signature is None or list(signature.inputs) != [key]:
                continue  # a model that is not of this project
            for count in (1, 2, 16):
                answer = signature.run({key: np.concatenate([blank] * count)})
                _check_answer(answer, count)


def load(path: pathlib.Path) -> SavedModel:
    """Loads a version from its folder, whose name is its number.

    Raises:
        Exception: whatever TensorFlow finds wrong with it.
    """
    if "tensorflow" not in sys.modules:
        with quiet.native_stderr():
            import tensorflow as tf

            tf.compat.v1.Session(config=_config()).close()  # looks for devices, and says so
    return _load(path)


def _config() -> Any:
    """How a session runs: in the thread that calls, as waking another costs as much as these small networks do.

    Threads of a session's own (use_per_session_threads) would take the operations over in spite of the -1.
    """
    import tensorflow as tf

    return tf.compat.v1.ConfigProto(inter_op_parallelism_threads=-1, intra_op_parallelism_threads=1)


def _load(path: pathlib.Path) -> SavedModel:
    import tensorflow as tf
    from google.protobuf import json_format

    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of its own loader, with each version
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=_config())
    meta_graph = tf.compat.v1.saved_model.loader.load(session, [_SERVE_TAG], str(path))
    # No client can change the graph, and a session that knows skips a check with each call.
    graph.finalize()
    signatures = {
        name: _signature(name, definition, session)
        for name, definition in sorted(meta_graph.signature_def.items())
        if name != _INIT_OP
    }
    signature_def = {
        name: json_format.MessageToDict(
            definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        for name, definition in meta_graph.signature_def.items()
    }
    return SavedModel(int(path.name), path, signatures, signature_def, _provenance(path))


def _provenance(path: pathlib.Path) -> dict[str, Any]:
    """What is told beside the model; a server answers without it, so a file that cannot be read is none."""
    try:
        found = json.loads((path / versions.EXTRA / versions.PROVENANCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _signature(name: str, definition: Any, session: Any) -> Signature:
    from tensorflow.core.protobuf import config_pb2

    inputs, outputs = dict(sorted(definition.inputs.items())), dict(sorted(definition.outputs.items()))
    options = config_pb2.CallableOptions(
        feed=[info.name for info in inputs.values()], fetch=[info.name for info in outputs.values()]
    )
    # What `session.make_callable` makes goes through `session.run`, which takes as long as a small network does. This
    # goes straight to the runtime, and so does not check what it is fed: `Signature.run` does.
    call = _Callable(session._make_callable_from_options(options))
    return Signature(
        name,
        definition.method_name,
        {key: _spec(info) for key, info in inputs.items()},
        {key: _spec(info) for key, info in outputs.items()},
        call,
    )


class _Callable:
    """Lets go of a callable while TensorFlow is still there to free it: at the latest before the process ends."""

    def __init__(self, call: Any):
        self._held = [call]
        weakref.finalize(self, self._held.clear)

    def __call__(self, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        return self._held[0](*inputs)


def _spec(info: Any) -> TensorSpec:
    import tensorflow as tf

    dtype = tf.as_dtype(info.dtype)
    shape = None if info.tensor_shape.unknown_rank else tuple(int(size.size) for size in info.tensor_shape.dim)
    return TensorSpec(np.dtype(dtype.as_numpy_dtype), dtype.name, shape)


def _blank_images(image_shape: tuple[int, int]) -> dict[str, npt.NDArray[Any]]:
    from PIL import Image

    pixels = np.zeros((1, *image_shape), np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels[0]).save(png, "PNG")
    return {
        features.SIGNATURE_BYTES: np.array([png.getvalue()], object),
        features.SIGNATURE_PIXELS: pixels,
        features.SIGNATURE_EXAMPLES: np.array([_example(pixels.tobytes())], object),
    }


def _example(image: bytes) -> bytes:
    import tensorflow as tf

    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    return tf.train.Example(features=tf.train.Features(feature={features.IMAGE: feature})).SerializeToString()


def _check_answer(answer: Arrays, count: int) -> None:
    probabilities = answer.get(features.PROBABILITIES_OUTPUT)
    if probabilities is None or probabilities.ndim != 2 or len(probabilities) != count:
        shape = None if probabilities is None else probabilities.shape
        raise Refusal(500, f"it must answer probabilities [{count}, classes], but answers {shape}")
    total = float(probabilities.sum())
    if not math.isclose(total, count, rel_tol=1e-3):  # not for NaN either
        raise Refusal(500, f"the probabilities of {count} images must add up to {count}, but add up to {total}")


def _first_sentence(message: str) -> str:
    """What a guard of the graph says, without the names of nodes that TensorFlow puts around it."""
    line = message.split("\n", 1)[0].split(" [[{{node", 1)[0].strip()
    start = line.find("assertion failed: [")
    if start >= 0:
        line = line[start + len("assertion failed: [") :].removesuffix("]")
    return line
