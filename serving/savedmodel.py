# SPDX-License-Identifier: Apache-2.0
"""Loads a SavedModel into a TensorFlow session.

A session, not `tf.saved_model.load`: TensorFlow Serving runs the same, a call takes a third less time, and closing it
frees all of its memory, so that versions can come and go. TensorFlow is imported when the first model is loaded.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from components.push import versions
from serving.limits import RequestError
from serving.models import LoadedModel, Signature
from serving.tensors import TensorSpec

_SERVE_TAG = "serve"
_INIT_OP = "__saved_model_init_op"
# HTTP statuses of TensorFlow's error codes (TensorFlow Serving, model_servers/http_server.cc); others are 500.
_STATUSES = {
    1: 499, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 14: 503, 16: 401,
}  # fmt: skip


def load(path: pathlib.Path) -> LoadedModel:
    """Loads a version from its folder, whose name is its number.

    Raises:
        Exception: of any type, from TensorFlow.
    """
    import_tensorflow()
    import tensorflow as tf
    from google.protobuf import json_format

    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # its loader warns that it is deprecated
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=_session_config())
    meta_graph = tf.compat.v1.saved_model.loader.load(session, [_SERVE_TAG], str(path))
    # The session skips a check at each call of a graph that cannot change.
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
    return LoadedModel(int(path.name), path, signatures, signature_def, _read_provenance(path))


def import_tensorflow() -> None:
    """Imports TensorFlow, without the messages of its native code about processors and missing GPUs."""
    if "tensorflow" in sys.modules:
        return
    with _native_stderr_closed():
        import tensorflow as tf

        tf.compat.v1.Session(config=_session_config()).close()  # looks for devices


@contextlib.contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Sends all output to file descriptor 2 to /dev/null."""
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def _session_config() -> Any:
    """Runs operations in the calling thread: for small networks, waking another one takes as long as the network.

    With `use_per_session_threads`, operations would run in other threads in spite of the -1.
    """
    import tensorflow as tf

    return tf.compat.v1.ConfigProto(inter_op_parallelism_threads=-1, intra_op_parallelism_threads=1)


def _read_provenance(path: pathlib.Path) -> dict[str, Any]:
    """Returns the content of the provenance file; a model is served without it, so a damaged file is no error."""
    try:
        provenance = json.loads((path / versions.EXTRA / versions.PROVENANCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return provenance if isinstance(provenance, dict) else {}


def _signature(name: str, definition: Any, session: Any) -> Signature:
    from tensorflow.core.protobuf import config_pb2

    inputs, outputs = dict(sorted(definition.inputs.items())), dict(sorted(definition.outputs.items()))
    options = config_pb2.CallableOptions(
        feed=[info.name for info in inputs.values()], fetch=[info.name for info in outputs.values()]
    )
    return Signature(
        name,
        {key: _tensor_spec(info) for key, info in inputs.items()},
        {key: _tensor_spec(info) for key, info in outputs.items()},
        _Call(session, options),
    )


class _Call:
    """Calls a signature.

    `session.make_callable` with inputs goes through `session.run`, which adds 0.25 ms to a call of 0.13 ms: a second
    in every 4,000 requests. The private method goes straight to the runtime. It ends the process on an array of another
    dtype, so `Signature.run` checks dtypes.
    """

    def __init__(self, session: Any, options: Any):
        # Frees the callable while TensorFlow still exists: at the latest before the process ends.
        self._callables = [session._make_callable_from_options(options)]
        weakref.finalize(self, self._callables.clear)

    def __call__(self, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        from tensorflow import errors

        try:
            return self._callables[0](*inputs)
        except errors.OpError as error:
            raise RequestError(_STATUSES.get(error.error_code, 500), _first_sentence(error.message)) from None


def _tensor_spec(info: Any) -> TensorSpec:
    import tensorflow as tf

    dtype = tf.as_dtype(info.dtype)
    shape = None if info.tensor_shape.unknown_rank else tuple(int(size.size) for size in info.tensor_shape.dim)
    return TensorSpec(np.dtype(dtype.as_numpy_dtype), dtype.name, shape)


def _first_sentence(message: str) -> str:
    """Returns the message of an assertion in the graph, without the names of nodes that TensorFlow adds."""
    line = message.split("\n", 1)[0].split(" [[{{node", 1)[0].strip()
    start = line.find("assertion failed: [")
    if start >= 0:
        line = line[start + len("assertion failed: [") :].removesuffix("]")
    return line
