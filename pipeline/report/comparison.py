# SPDX-License-Identifier: Apache-2.0
"""Gathers the content of the page that compares two runs."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from components import features
from pipeline.report import charts, data, figures, gates, png, provenance
from pipeline.report.figures import SplitPredictions
from pipeline.run_record import RunRecord

_MAX_IMAGES = 30  # in a gallery


class _Evaluation(NamedTuple):
    """The ids of the test images, and the predictions of a run's candidate for them."""

    ids: list[str]
    predictions: SplitPredictions


def gather_comparison(run_a: RunRecord, run_b: RunRecord) -> dict[str, Any]:
    """Returns the variables of the template `compare.html`; a value that one of the runs lacks is None or a dash."""
    runs = (run_a, run_b)
    evaluations = {run.run_id: evaluation for run in runs if (evaluation := _read_evaluation(run))}
    a, b = (evaluations.get(run.run_id) for run in runs)
    return {
        "runs": [{"record": run, "sentence": run.sentence or run.reason} for run in (run.rebase(".") for run in runs)],
        "metrics": _metrics(run_a, run_b),
        "recall": _recall(run_a, run_b),
        "recall_chart": _recall_chart(evaluations),
        "paired": _paired(run_a, a, b) if a and b else None,
        "settings": provenance.differences(run_a.config or {}, run_b.config or {}),
        "data_differs": (run_a.dataset and run_a.dataset.sha256) != (run_b.dataset and run_b.dataset.sha256),
        "gates": [(gates.metric_name(name), *pair) for name, *pair in _pairs_by_name(run_a.gates, run_b.gates)],
        "stages": _pairs_by_name(run_a.stages, run_b.stages),
    }


def _metrics(run_a: RunRecord, run_b: RunRecord) -> list[dict[str, Any]]:
    rows = []
    for name, value_format, difference_format, unit in (
        ("accuracy", "{:.2%}", "{:+.2f} points", 100),
        ("loss", "{:.4f}", "{:+.4f}", 1),
    ):
        values = [getattr(run.metrics, name, None) for run in (run_a, run_b)]
        a, b = values
        rows.append(
            {
                "name": name,
                "values": ["–" if value is None else value_format.format(value) for value in values],
                "difference": "–" if a is None or b is None else difference_format.format(unit * (b - a)),
            }
        )
    return rows


def _recall(run_a: RunRecord, run_b: RunRecord) -> list[tuple[str, float | None, float | None]]:
    a, b = (run.metrics.recall if run.metrics else {} for run in (run_a, run_b))
    return [(name, a.get(name), b.get(name)) for name in features.CLASSES] if a or b else []


def _recall_chart(evaluations: dict[str, _Evaluation]) -> dict[str, Any] | None:
    rows = []
    for run_id, evaluation in evaluations.items():
        matrix = figures.confusion(evaluation.predictions)
        for index, name in enumerate(features.CLASSES):
            count = int(matrix[index].sum())
            if interval := figures.share(int(matrix[index, index]), count):
                rows.append({"group": name, "model": run_id, "count": count, **interval._asdict()})
    return charts.bars(rows, "class", "recall") if rows else None


def _paired(run_a: RunRecord, a: _Evaluation, b: _Evaluation) -> dict[str, Any] | None:
    """Returns the difference and the disagreements on the same test images; None if the images are not the same."""
    labels = a.predictions.labels
    if a.ids != b.ids or (labels != b.predictions.labels).any():
        return None
    masks = figures.changes(b.predictions, a.predictions)
    rows = [
        figures.worst(predictions, mask, _MAX_IMAGES)
        for predictions, mask in zip((a.predictions, b.predictions), masks, strict=True)
    ]
    examples = pathlib.Path(run_a.artifacts.get("ingest.examples", ""))
    images = data.images_by_id(examples, [features.TEST], {a.ids[row] for selected in rows for row in selected})
    return {
        "difference": figures.difference(b.predictions, a.predictions),
        "galleries": [
            {
                "count": int(mask.sum()),
                "images": [
                    {
                        "id": a.ids[row],
                        "uri": png.data_uri(images[a.ids[row]].pixels),
                        "label": data.class_name(int(labels[row])),
                        "predictions": [data.class_name(int(run.predictions.classes[row])) for run in (a, b)],
                    }
                    for row in selected
                    if a.ids[row] in images
                ],
            }
            for mask, selected in zip(masks, rows, strict=True)
        ],
    }


def _pairs_by_name(a: Iterable[Any], b: Iterable[Any]) -> list[tuple[str, Any, Any]]:
    """Returns name, item of A and item of B; None for an item that a run lacks."""
    items_a, items_b = ({item.name: item for item in items} for items in (a, b))
    return [(name, items_a.get(name), items_b.get(name)) for name in dict.fromkeys([*items_a, *items_b])]


def _read_evaluation(run: RunRecord) -> _Evaluation | None:
    path = pathlib.Path(run.artifacts.get("evaluate.checks", "")) / "predictions.npz"
    if not path.is_file():
        return None
    ids, models = figures.load(path)
    return _Evaluation(ids, models["candidate"]) if "candidate" in models else None
