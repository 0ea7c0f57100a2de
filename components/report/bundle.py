# SPDX-License-Identifier: Apache-2.0
"""The JavaScript that draws the charts: Vega, Vega-Lite and vega-embed in one piece, from vl-convert-python."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import secrets
from importlib import metadata

import platformdirs


def javascript() -> str:
    """The text of a script that defines `vegaEmbed`; safe inside an HTML script element.

    It is put together once, which takes two seconds, and then kept in the user's cache folder for this version.
    """
    version = metadata.version("vl-convert-python")
    path = pathlib.Path(platformdirs.user_cache_dir("mnist-tfx")) / f"vega-embed-{version}.js"
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8")
    import vl_convert

    # What would end the element or change how its end is found; inside a string the escape says the same.
    text: str = re.sub(
        r"<(?=/script|script|!--)",
        r"\\x3c",
        vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"),
        flags=re.IGNORECASE,
    )
    with contextlib.suppress(OSError):  # without a folder for caches it is put together each time
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(2)}")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    return text
