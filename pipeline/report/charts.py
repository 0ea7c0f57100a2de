# SPDX-License-Identifier: Apache-2.0
"""Charts as Vega-Lite specifications (https://vega.github.io/vega-lite/docs/), as JSON values.

Text and lines take their colours from the page's style sheet, so a chart fits light, dark and print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # names the language; nothing is loaded from it
BLUE, ORANGE = "#3b7dd8", "#d9822b"
_ZOOM = {"name": "zoom", "select": "interval", "bind": "scales"}
_PERCENT = {"format": ".1%"}
_PADDED = {"zero": False, "padding": 10}  # pixels, so that no point is cut at the edge


def chart(values: Sequence[Mapping[str, Any]], height: int = 220, **specification: Any) -> dict[str, Any]:
    """Returns a chart as wide as its container."""
    size = {"width": "container", "height": height, "autosize": {"type": "fit", "contains": "padding"}}
    return {"$schema": _SCHEMA, "data": {"values": list(values)}, **size, **specification}


def training(epochs: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """Returns the curves of a metric, `loss` or `accuracy`, by step on train and val."""
    values = [
        {"step": epoch["steps"], "epoch": epoch["epoch"], "on": split, "value": epoch[key]}
        for epoch in epochs
        for split, key in (("train", metric), ("val", f"val_{metric}"))
        if epoch.get(key) is not None
    ]
    axis = {} if metric == "loss" else {"format": ".0%"}
    return chart(
        values,
        params=[_ZOOM],
        mark={"type": "line", "point": True, "clip": True},
        encoding={
            "x": {"field": "step", "type": "quantitative", "title": "step", "scale": {"nice": False, "padding": 10}},
            "y": {"field": "value", "type": "quantitative", "title": metric, "scale": _PADDED, "axis": axis},
            "color": _color(["train", "val"], "on"),
            "tooltip": [
                {"field": "on"},
                {"field": "epoch"},
                {"field": "step"},
                {"field": "value", "type": "quantitative", "title": metric, "format": ".4f"},
            ],
        },
    )


def learning_rate(epochs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the curve of the learning rate by step."""
    return chart(
        [{"step": epoch["steps"], "rate": epoch["learning_rate"]} for epoch in epochs],
        height=120,
        mark={"type": "line", "point": True, "color": BLUE},
        encoding={
            "x": {"field": "step", "type": "quantitative", "title": "step", "scale": {"nice": False, "padding": 10}},
            "y": {"field": "rate", "type": "quantitative", "title": "learning rate", "axis": {"format": "~g"}},
            "tooltip": [{"field": "step"}, {"field": "rate", "type": "quantitative", "title": "learning rate"}],
        },
    )


def classes(counts: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Returns the bars of the share of each class in each split."""
    values = [
        {"class": name, "split": split, "count": count, "share": count / max(sum(by_class.values()), 1)}
        for split, by_class in counts.items()
        for name, count in by_class.items()
    ]
    return chart(
        values,
        mark="bar",
        encoding={
            "x": {"field": "class", "type": "nominal", "sort": None, "title": "class", "axis": {"labelAngle": 0}},
            "xOffset": {"field": "split", "sort": None},
            "y": {"field": "share", "type": "quantitative", "title": "share of the split", "axis": {"format": ".0%"}},
            "color": {"field": "split", "sort": None, "scale": {"range": [BLUE, ORANGE, "#7a9a3a"]}, "title": None},
            "tooltip": [
                {"field": "class"},
                {"field": "split"},
                {"field": "count", "format": ",", "type": "quantitative"},
                {"field": "share", "type": "quantitative", **_PERCENT},
            ],
        },
    )


def bars(rows: Sequence[Mapping[str, Any]], by: str, metric: str) -> dict[str, Any]:
    """Returns a chart with a point and its interval for each group and model.

    Args:
        rows: each with `group`, `model`, `value`, `low`, `high` and `count`.
        by: title of the axis of the groups.
        metric: title of the axis of the values.
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    groups = list(dict.fromkeys(row["group"] for row in rows))
    # The parts of a long name are on lines of their own.
    axis = {"labelAngle": 0, "labelExpr": "split(datum.label, ', ')"}
    x = {"field": "group", "type": "nominal", "sort": groups, "title": by, "axis": axis}
    offset = {"field": "model", "sort": models}
    zero = {"zero": False, "nice": True}
    return chart(
        rows,
        encoding={"x": x, "xOffset": offset, "color": _color(models, "model")},
        layer=[
            {
                "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.55},
                "encoding": {
                    "y": {
                        "field": "low",
                        "type": "quantitative",
                        "title": metric,
                        "scale": zero,
                        "axis": {"format": "~%"},
                    },
                    "y2": {"field": "high"},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                "encoding": {
                    "y": {"field": "value", "type": "quantitative"},
                    "tooltip": [
                        {"field": "model"},
                        {"field": "group", "title": by},
                        {"field": "value", "type": "quantitative", "title": metric, "format": ".2%"},
                        {"field": "low", "type": "quantitative", "title": "from", "format": ".2%"},
                        {"field": "high", "type": "quantitative", "title": "to", "format": ".2%"},
                        {"field": "count", "type": "quantitative", "title": "images", "format": ","},
                    ],
                },
            },
        ],
    )


def calibration(curves: Mapping[str, Sequence[tuple[float, float, int]]]) -> dict[str, Any]:
    """Returns the curve of accuracy by confidence of each model.

    Args:
        curves: model -> points (confidence, accuracy, number of images); on the diagonal, calibration is perfect.
    """
    values = [
        {"model": model, "confidence": confidence, "accuracy": accuracy, "count": count}
        for model, points in curves.items()
        for confidence, accuracy, count in points
    ]
    return chart(
        values,
        height=260,
        layer=[
            {
                "data": {"values": [{"value": 0}, {"value": 1}]},
                "mark": {"type": "line", "strokeDash": [4, 4], "color": "#888"},
                "encoding": {
                    "x": {"field": "value", "type": "quantitative"},
                    "y": {"field": "value", "type": "quantitative"},
                },
            },
            {
                "params": [_ZOOM],
                "mark": {"type": "line", "point": {"size": 60}, "clip": True},
                "encoding": {
                    "x": {
                        "field": "confidence",
                        "type": "quantitative",
                        "title": "confidence",
                        "scale": {"domain": [0, 1]},
                        "axis": {"format": ".0%"},
                    },
                    "y": {
                        "field": "accuracy",
                        "type": "quantitative",
                        "title": "accuracy",
                        "scale": {"domain": [0, 1]},
                        "axis": {"format": ".0%"},
                    },
                    "color": _color(list(curves), "model"),
                    "tooltip": [
                        {"field": "model"},
                        {"field": "confidence", "type": "quantitative", **_PERCENT},
                        {"field": "accuracy", "type": "quantitative", **_PERCENT},
                        {"field": "count", "type": "quantitative", "title": "images", "format": ","},
                    ],
                },
            },
        ],
    )


def _color(names: Sequence[str], field: str) -> dict[str, Any]:
    scale = {"domain": list(names), "range": [BLUE, ORANGE][: len(names)]}
    return {"field": field, "type": "nominal", "title": None, "scale": scale, "legend": {"orient": "top"}}
