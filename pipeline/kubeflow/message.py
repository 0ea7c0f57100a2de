# SPDX-License-Identifier: Apache-2.0
"""A document as the server reads it: a message of its format, where an empty field is one that is not there."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf import message as protobuf

Kind = TypeVar("Kind", bound=protobuf.Message)


def parse(document: Any, kind: type[Kind]) -> tuple[dict[str, Any], str]:
    """Reads a document.

    Args:
        document: parsed YAML or JSON.
        kind: the message that it must be.

    Returns:
        What the message says, with sorted names and without what is empty, and why it is none. One of them is empty.
    """
    read = kind()
    try:
        json_format.ParseDict(document, read)
        said: dict[str, Any] = json.loads(json_format.MessageToJson(read, sort_keys=True))
    except (json_format.ParseError, json_format.SerializeToJsonError, TypeError, ValueError, AttributeError) as error:
        return {}, " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return said, ""
