# SPDX-License-Identifier: Apache-2.0
"""Writes pages: self-contained HTML files, which load nothing from the network or the disk."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import re
import secrets
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jinja2
import markupsafe
import platformdirs

from pipeline import run_record
from pipeline.report import comparison, content
from pipeline.run_record import RunRecord

_FOLDER = pathlib.Path(__file__).parent


def write(record: RunRecord, folder: pathlib.Path, artifacts: Mapping[str, pathlib.Path] | None = None) -> pathlib.Path:
    """Writes the report of a run into a folder and returns its path.

    Args:
        record: of the run, whatever its verdict.
        folder: destination, usually that of the record.
        artifacts: folder of each artifact on this machine; default: as in the record.
    """
    return _write("report.html", content.gather_report(record, artifacts), folder / run_record.REPORT_FILE)


def write_comparison(run_a: RunRecord, run_b: RunRecord, path: pathlib.Path) -> pathlib.Path:
    """Writes one page with two runs side by side and returns its path."""
    return _write("compare.html", comparison.gather_comparison(run_a, run_b), path)


def _write(template: str, variables: dict[str, Any], path: pathlib.Path) -> pathlib.Path:
    """Renders a template into a file, in one step, so that a reader never sees half a page."""
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
    return markupsafe.Markup((_FOLDER / name).read_text(encoding="utf-8"))


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
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
    """Returns a script that defines `vegaEmbed`; safe inside an HTML script element.

    Bundling takes two seconds, so the user's cache folder holds the result for each version of vl-convert.
    """
    version = metadata.version("vl-convert-python")
    path = pathlib.Path(platformdirs.user_cache_dir("mnist-tfx")) / f"vega-embed-{version}.js"
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8")
    import vl_convert

    # These would end the element or change its parsing; inside a string the escape is equivalent.
    text: str = re.sub(
        r"<(?=/script|script|!--)",
        r"\\x3c",
        vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"),
        flags=re.IGNORECASE,
    )
    with contextlib.suppress(OSError):  # without a cache folder it is bundled each time
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(2)}")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    return text
