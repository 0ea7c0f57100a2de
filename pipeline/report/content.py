# SPDX-License-Identifier: Apache-2.0
"""Gathers the content of a run's report."""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from components import features
from pipeline.report import charts, data, figures, gates, png, provenance
from pipeline.run_record import Metrics, RunRecord, Tuning

_CANDIDATE, _BASELINE = "candidate", "baseline"
# Of images in the galleries.
_MAX_MISCLASSIFIED, _MAX_LOST = 60, 30

_log = logging.getLogger(__name__)


def gather_report(record: RunRecord, artifacts: Mapping[str, pathlib.Path] | None = None) -> dict[str, Any]:
    """Returns the variables of the template `report.html`.

    Args:
        record: of the run.
        artifacts: folder of each artifact on this machine; default: as in the record.

    Returns:
        The content of each section, None for an empty one; `missing` names the parts that could not be read.
    """
    # The page may be copied or moved with the output folder, so it names files relative to that.
    relative = record.rebase(".")
    folders = artifacts or {name: pathlib.Path(path) for name, path in record.artifacts.items()}
    missing: list[str] = []

    def read(part: str, artifact: str, reader: Callable[[pathlib.Path], Any]) -> Any:
        """Reads one part; an artifact that was deleted or cannot be read must not cost the rest of the report."""
        if artifact not in folders:
            return None
        try:
            return reader(folders[artifact])
        except Exception as error:
            missing.append(f"{part}: {type(error).__name__}: {error}")
            _log.warning("the report lacks %s", missing[-1])
            _log.info("its trace", exc_info=True)  # for the log of a run; a screen has the line alone
            return None

    images = folders.get("ingest.examples")
    ids: list[str] = []
    models: dict[str, figures.SplitPredictions] = {}
    if predictions := read("the predictions", "evaluate.checks", lambda path: figures.load(path / "predictions.npz")):
        ids, models = predictions
    candidate, baseline = models.get(_CANDIDATE), models.get(_BASELINE)
    counts = read("the counts", "statistics.statistics", data.counts)
    return {
        "record": relative,
        "sentence": relative.sentence or relative.reason,
        "gates": gates.gate_rows(relative),
        "counts": counts,
        "classes_chart": counts and charts.classes(counts),
        "scalars": read("the statistics", "statistics.statistics", data.scalars),
        "samples": read("the sample images", "ingest.examples", data.samples),
        "findings": read("the findings", "data-check.checks", lambda _: data.findings(record, images)),
        "suspects": read("the suspect labels", "image-check.checks", lambda path: data.suspects(path, images)),
        "tuning": record.tuning and _tuning(record.tuning),
        "training": read("the training", "train.model_run", _training),
        "evaluation": candidate and _evaluation(record, candidate, baseline),
        "galleries": candidate
        and read("the galleries", "ingest.examples", lambda path: _galleries(path, ids, candidate, baseline)),
        "changes": provenance.since_baseline(record, folders.get("baseline.baseline")),
        "facts": provenance.facts(record),
        "settings": provenance.settings(relative.config),
        "artifacts": relative.artifacts,
        "longest": max((stage.seconds for stage in record.stages), default=0.0),
        "missing": missing,
    }


def _tuning(tuning: Tuning) -> dict[str, Any]:
    """Returns the trials, the best first, with a column for each hyperparameter of the search space."""
    completed = [trial for trial in tuning.trials if trial.val_accuracy is not None]
    return {
        "winner": tuning.winner,
        "space": tuning.space,
        "share": tuning.share,
        "names": list(tuning.space),
        "first": tuning.trials[0],
        "best": next(trial for trial in tuning.trials if trial.number == tuning.winner),
        "trials": [
            *sorted(completed, key=lambda trial: (-(trial.val_accuracy or 0), trial.val_loss or 0, trial.number)),
            *(trial for trial in tuning.trials if trial.val_accuracy is None),
        ],
    }


def _training(model_run: pathlib.Path) -> dict[str, Any]:
    training = json.loads((model_run / "training.json").read_text(encoding="utf-8"))
    epochs = training["epochs"]
    return training | {
        "best": next((row for row in epochs if row["epoch"] == training.get("best_epoch")), None),
        "charts": {
            "accuracy": charts.training(epochs, "accuracy"),
            "loss": charts.training(epochs, "loss"),
            "learning rate": charts.learning_rate(epochs),
        },
    }


def _evaluation(
    record: RunRecord, candidate: figures.SplitPredictions, baseline: figures.SplitPredictions | None
) -> dict[str, Any]:
    models = {_CANDIDATE: candidate} | ({_BASELINE: baseline} if baseline else {})
    matrices = {name: figures.confusion(predictions) for name, predictions in models.items()}
    metrics_by_model = _metrics(record)
    recalls = [
        {"group": name, "model": model, "count": int(matrix[index].sum()), **interval._asdict()}
        for model, matrix in matrices.items()
        for index, name in enumerate(features.CLASSES)
        if (interval := figures.share(int(matrix[index, index]), int(matrix[index].sum())))
    ]
    curves = {
        name: [(point.confidence, point.accuracy, point.examples) for point in metrics.calibration.curve]
        for name, metrics in metrics_by_model.items()
        if metrics.calibration
    }
    return {
        "examples": len(candidate.labels),
        "summary": [{"model": name, **vars(metrics)} for name, metrics in metrics_by_model.items()],
        "matrix": _matrix(matrices[_CANDIDATE]),
        "classes": _classes(matrices),
        "recall_chart": charts.bars(recalls, "class", "recall"),
        "calibration_chart": charts.calibration(curves) if curves else None,
        "slice_charts": _slice_charts(record),
        "changes": baseline and [int(rows.sum()) for rows in figures.changes(candidate, baseline)],
    }


def _metrics(record: RunRecord) -> dict[str, Metrics]:
    """Returns the metrics of each model that the record has."""
    models = {_CANDIDATE: record.metrics, _BASELINE: record.baseline and record.baseline.metrics}
    return {name: metrics for name, metrics in models.items() if metrics}


def _slice_charts(record: RunRecord) -> dict[str, Any]:
    """Returns feature -> chart of the accuracy of each of its groups; empty for a record without slices."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for model, metrics in _metrics(record).items():
        for feature, groups in metrics.slices.items():
            for name, group in groups.items():
                count = group.examples
                if interval := figures.share(round(group.accuracy * count), count):
                    row = {"group": name, "model": model, "count": count, **interval._asdict()}
                    rows.setdefault(feature.replace("_", " "), []).append(row)
    return {feature: charts.bars(groups, feature, "accuracy") for feature, groups in rows.items()}


def _matrix(matrix: Any) -> list[dict[str, Any]]:
    """Returns rows of cells with counts and colour strengths, 0 to 1; errors have a scale of their own."""
    errors = matrix - np.diag(np.diag(matrix))
    max_correct, max_error = max(int(np.diag(matrix).max()), 1), max(int(errors.max()), 1)
    return [
        {
            "name": features.CLASSES[row],
            "cells": [
                {
                    "count": int(count),
                    "correct": row == column,
                    "strength": round(float(count) / (max_correct if row == column else max_error), 3),
                }
                for column, count in enumerate(counts)
            ],
        }
        for row, counts in enumerate(matrix)
    ]


def _classes(matrices: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns precision, recall and F1 of each class and model."""
    rows = []
    for index, name in enumerate(features.CLASSES):
        row: dict[str, Any] = {"name": name, "count": int(matrices[_CANDIDATE][index].sum())}
        for model, matrix in matrices.items():
            correct = int(matrix[index, index])
            recall = figures.share(correct, int(matrix[index].sum()))
            precision = figures.share(correct, int(matrix[:, index].sum()))
            sizes = int(matrix[index].sum() + matrix[:, index].sum())  # of the true and of the predicted class
            row[model] = {"recall": recall, "precision": precision, "f1": 2 * correct / sizes if sizes else None}
        rows.append(row)
    return rows


def _galleries(
    examples: pathlib.Path,
    ids: list[str],
    candidate: figures.SplitPredictions,
    baseline: figures.SplitPredictions | None,
) -> list[dict[str, Any]]:
    masks = {"misclassified": (~candidate.correct, _MAX_MISCLASSIFIED)}
    if baseline:
        masks["lost"] = (figures.changes(candidate, baseline)[1], _MAX_LOST)
    rows = {name: figures.worst(candidate, mask, limit) for name, (mask, limit) in masks.items()}
    images = data.images_by_id(examples, [features.TEST], {ids[row] for selected in rows.values() for row in selected})
    return [
        {
            "name": name,
            "count": int(mask.sum()),
            "images": [
                {
                    "id": ids[row],
                    "uri": png.data_uri(images[ids[row]].pixels),
                    "label": data.class_name(int(candidate.labels[row])),
                    "prediction": data.class_name(int(candidate.classes[row])),
                    "probability": float(candidate.probabilities[row].max()),
                }
                for row in rows[name]
                if ids[row] in images
            ],
        }
        for name, (mask, _) in masks.items()
    ]
