# SPDX-License-Identifier: Apache-2.0
"""Writes pages: one HTML file each that needs nothing else, neither from the network nor from the disk."""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import pathlib
import re
import secrets
import struct
import zlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jinja2
import markupsafe
import numpy as np
import numpy.typing as npt
import platformdirs

from pipeline import run_record
from pipeline.report import comparison, content
from pipeline.run_record import RunRecord

_HERE = pathlib.Path(__file__).parent


def write(record: RunRecord, folder: pathlib.Path, artifacts: Mapping[str, pathlib.Path] | None = None) -> pathlib.Path:
    """Writes the report of a run into a folder and returns its path.

    Args:
        record: of the run, whatever its verdict.
        folder: where to; usually where the record lies.
        artifacts: where each artifact of the record is on this machine, if that is not where the record says it is.
    """
    return _write("report.html", content.gather_report(record, artifacts), folder / run_record.REPORT_FILE)


def write_comparison(one: RunRecord, other: RunRecord, path: pathlib.Path) -> pathlib.Path:
    """Writes one page with two runs side by side and returns its path."""
    return _write("compare.html", comparison.gather_comparison(one, other), path)


def _write(template: str, variables: dict[str, Any], path: pathlib.Path) -> pathlib.Path:
    """Nobody sees half a page."""
    variables = variables | {
        "style": _text("style.css"),
        "draw": _text("draw.js"),
        "vega": markupsafe.Markup(javascript()),
    }
    text = _templates().get_template(template).render(variables)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    return part.replace(path)


def _text(name: str) -> markupsafe.Markup:
    return markupsafe.Markup((_HERE / name).read_text(encoding="utf-8"))


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda value: "–" if value is None else f"{value:.2%}",
        "number": lambda name: "#" + name.rpartition("#")[2],
        "count": lambda value: f"{value:,}",
        "images": lambda value: f"{value:,} image{'' if value == 1 else 's'}",
        "seconds": lambda value: f"{value:.1f} s" if value < 60 else f"{value // 60:.0f} min {value % 60:.0f} s",
    }
    return environment


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


def data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """An image as the address of itself.

    Args:
        pixels: uint8 [height, width], 0 is black.
    """
    height, width = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # 0: the row is not filtered
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # 8 bits, greyscale
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunks).decode()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
