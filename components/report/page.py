# SPDX-License-Identifier: Apache-2.0
"""Writes pages: one HTML file each that needs nothing else, neither from the network nor from the disk."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2
import markupsafe

from components.report import bundle, compare, content, runs

_HERE = pathlib.Path(__file__).parent


def write(
    record: Mapping[str, Any], folder: pathlib.Path, artifacts: Mapping[str, pathlib.Path] | None = None
) -> pathlib.Path:
    """Writes the report of a run into a folder and returns its path.

    Args:
        record: of the run, whatever its verdict.
        folder: where to; usually where the record lies.
        artifacts: where each artifact of the record is on this machine, if that is not where the record says it is.
    """
    return _write("report.html", content.gather(record, artifacts), folder / runs.REPORT_FILE)


def write_comparison(one: Mapping[str, Any], other: Mapping[str, Any], path: pathlib.Path) -> pathlib.Path:
    """Writes one page with two runs side by side and returns its path."""
    return _write("compare.html", compare.gather(one, other), path)


def _write(template: str, variables: dict[str, Any], path: pathlib.Path) -> pathlib.Path:
    """Nobody sees half a page."""
    variables = variables | {
        "style": _text("style.css"),
        "draw": _text("draw.js"),
        "vega": markupsafe.Markup(bundle.javascript()),
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
