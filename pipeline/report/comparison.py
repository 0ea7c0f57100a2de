# SPDX-License-Identifier: Apache-2.0
"""Gathers what the page on two runs shows."""

from __future__ import annotations

import pathlib
from typing import Any

from components import features
from pipeline.report import charts, data, figures, page, provenance
from pipeline.run_record import RunRecord

_SHOWN = 30  # images in a gallery


def gather_comparison(one: RunRecord, other: RunRecord) -> dict[str, Any]:
    """The variables of the template `compare.html`; what only one of the runs has is shown for that one."""
    pair, shown = (one, other), [record.rebase(".") for record in (one, other)]
    answers = [_answers(record) for record in pair]
    return {
        "runs": [
            {"record": record, "sentence": record.sentence or record.reason, "model": record.model or {}}
            for record in shown
        ],
        "metrics": _metrics(one, other),
        "recall": _recall(one, other),
        "recall_chart": _recall_chart(one, other),
        "paired": _paired(one, other, *answers) if all(answers) else None,
        "settings": provenance.differences(one.config or {}, other.config or {}),
        "data_differs": (one.dataset and one.dataset.sha256) != (other.dataset and other.dataset.sha256),
        "gates": _gates(one, other),
        "stages": _stages(one, other),
    }


def _metrics(one: RunRecord, other: RunRecord) -> list[dict[str, Any]]:
    rows = []
    for name, written, unit in (("accuracy", "{:.2%}", 100), ("loss", "{:.4f}", 1)):
        here, there = (getattr(record.metrics, name, None) for record in (one, other))
        points = " points" if unit == 100 else ""
        rows.append(
            {
                "name": name,
                "values": ["–" if value is None else written.format(value) for value in (here, there)],
                "difference": "–"
                if here is None or there is None
                else f"{unit * (there - here):+.{2 if points else 4}f}{points}",
            }
        )
    return rows


def _recall(one: RunRecord, other: RunRecord) -> list[tuple[str, float | None, float | None]]:
    recalls = [record.metrics.recall if record.metrics else {} for record in (one, other)]
    return [(name, recalls[0].get(name), recalls[1].get(name)) for name in features.CLASSES] if any(recalls) else []


def _recall_chart(one: RunRecord, other: RunRecord) -> dict[str, Any] | None:
    rows = []
    for record in (one, other):
        found = _answers(record)
        if found is None:
            continue
        matrix = figures.confusion(found[1])
        for index, name in enumerate(features.CLASSES):
            count = int(matrix[index].sum())
            if interval := figures.share(int(matrix[index, index]), count):
                rows.append({"group": name, "model": record.run_id, "count": count, **interval._asdict()})
    return charts.bars(rows, "class", "recall") if rows else None


def _paired(one: RunRecord, other: RunRecord, here: Any, there: Any) -> dict[str, Any] | None:
    """The difference on the same test images, and the images on which the two disagree; None for other images."""
    if here[0] != there[0] or (here[1].labels != there[1].labels).any():
        return None
    ids, gained_lost = here[0], figures.changes(there[1], here[1])
    chosen = [
        figures.worst(answers, rows, _SHOWN) for answers, rows in zip((here[1], there[1]), gained_lost, strict=True)
    ]
    artifact = pathlib.Path(one.artifacts.get("ingest.examples", ""))
    pictures = data.images_by_id(artifact, [features.TEST], {ids[row] for rows in chosen for row in rows})
    return {
        "difference": figures.difference(there[1], here[1]),
        "galleries": [
            {
                "count": int(mask.sum()),
                "images": [
                    {
                        "id": ids[row],
                        "uri": page.data_uri(pictures[ids[row]].pixels),
                        "truth": data.class_name(int(here[1].labels[row])),
                        "answers": [data.class_name(int(side[1].classes[row])) for side in (here, there)],
                    }
                    for row in rows
                    if ids[row] in pictures
                ],
            }
            for mask, rows in zip(gained_lost, chosen, strict=True)
        ],
    }


def _gates(one: RunRecord, other: RunRecord) -> list[tuple[str, Any, Any]]:
    by_name = [{gate.name: gate for gate in record.gates} for record in (one, other)]
    return [(name, by_name[0].get(name), by_name[1].get(name)) for name in dict.fromkeys([*by_name[0], *by_name[1]])]


def _stages(one: RunRecord, other: RunRecord) -> list[tuple[str, Any, Any]]:
    by_name = [{stage.name: stage for stage in record.stages} for record in (one, other)]
    return [(name, by_name[0].get(name), by_name[1].get(name)) for name in dict.fromkeys([*by_name[0], *by_name[1]])]


def _answers(record: RunRecord) -> tuple[list[str], figures.Answers] | None:
    path = pathlib.Path(record.artifacts.get("evaluate.checks", "")) / "predictions.npz"
    if not path.is_file():
        return None
    ids, models = figures.load(path)
    return (ids, models["candidate"]) if "candidate" in models else None
