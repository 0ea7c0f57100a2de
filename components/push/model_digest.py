# SPDX-License-Identifier: Apache-2.0
"""Identifies exported models by their content. Their files always differ: each export has a random id in it."""

from __future__ import annotations

import hashlib
import pathlib
import re
from collections.abc import Iterable, Iterator

import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow.core.protobuf import saved_model_pb2

# TensorFlow numbers the functions that it traces, and the bodies of their loops and conditions, by a counter of the
# process: __inference_from_pixels_1234, map_while_body_4659.
_NUMBERED = re.compile(r"(.+)_\d+")


def model_digest(saved_model: pathlib.Path) -> str:
    """Returns a SHA-256 over the weights, the signatures and every function of the program.

    Args:
        saved_model: folder of a SavedModel.
    """
    digest = hashlib.sha256()
    reader = tf.train.load_checkpoint(str(saved_model / "variables" / "variables"))
    for name in sorted(reader.get_variable_to_shape_map()):
        if not name.startswith(("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter")):
            digest.update(name.encode() + b"\0" + reader.get_tensor(name).tobytes())
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((saved_model / "saved_model.pb").read_bytes())
    for graph in model.meta_graphs:
        signatures = [graph.signature_def[key] for key in sorted(graph.signature_def)]
        # Functions that save and restore the weights are no part of the computation.
        program = [f for f in graph.graph_def.library.function if "_traced_" not in f.signature.name]
        for function in program:
            function.ClearField("arg_attr")  # names of arguments, numbers of the same counter among them
        names = [function.signature.name for function in graph.graph_def.library.function]
        digest.update(b"".join(sorted(_digests_without_counters([*program, *signatures], names))))
    return digest.hexdigest()


def _digests_without_counters(messages: Iterable[Message], functions: Iterable[str]) -> Iterator[bytes]:
    numbered = {match.group(): match.group(1) for name in functions if (match := _NUMBERED.fullmatch(name))}
    mention = re.compile("(?:" + "|".join(map(re.escape, numbered)) + r")(?!\d)" if numbered else "$^")
    for message in messages:
        # As text: in the binary form the length of a name changes the lengths of all enclosing messages.
        content = mention.sub(lambda match: numbered[match.group()], text_format.MessageToString(message))
        yield hashlib.sha256(content.encode()).digest()
