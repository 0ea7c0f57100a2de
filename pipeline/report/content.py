# SPDX-License-Identifier: Apache-2.0
"""The table of the verdict: a row for each gate, in the words and units of a person.

It needs nothing but the record, and no library: the console shows it too.
"""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from components import features
from components.findings import GateResult
from pipeline.report import charts, data, figures, page, provenance
from pipeline.run_record import Metrics, RunRecord, Tuning

# Gate -> what it measures, and how its figures are written.
_PERCENT, _POINTS = "{:.2%}".format, lambda value: f"{100 * value:+.2f} points"
_KNOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "data": ("open data findings", "{:,.0f}".format),
    "infra-predictions": ("golden requests", "{:g}".format),
    "infra-latency": ("latency of one image", "{:.1f} ms".format),
    "training-serving-skew": ("training/serving skew", "{:.1e}".format),
    "change": ("accuracy vs production", _POINTS),
    "best": ("accuracy vs best ever", _POINTS),
    "test-examples": ("test images", "{:,.0f}".format),
    "finite": ("loss is finite", "{:.4f}".format),
    "accuracy-floor": ("accuracy", _PERCENT),
    "recall-floor": ("lowest class recall", _PERCENT),
}
_COMPARED = ("change", "best")
# What the console shows even where it passed: what models are compared by.
_SHORT = ("change", "best", "accuracy-floor", "recall-floor")


def gate_rows(record: RunRecord) -> list[dict[str, Any]]:
    """One row for each gate.

    Returns:
        `name`, `what`, `passed`, `reason`, and as text, None where there is no such figure, `candidate`, `baseline`,
        `difference`, `limit`, and `interval`: the two ends of the 95 % interval of the difference, or of the
        candidate's figure where there is no difference.
    """
    return [_row(gate) for gate in record.gates]


def short_gates(record: RunRecord) -> list[dict[str, Any]]:
    """The rows for a glance: what models are compared by, and whatever did not pass."""
    return [row for row in gate_rows(record) if row["name"] in _SHORT or not row["passed"]]


def _row(gate: GateResult) -> dict[str, Any]:
    what, written = _KNOWN.get(gate.name, (gate.name, "{:.4g}".format))
    compared = gate.name in _COMPARED
    figure = _PERCENT if compared else written
    return {
        "name": gate.name,
        "what": what,
        "passed": gate.passed,
        "reason": gate.reason,
        "candidate": _shown(gate.candidate if compared else gate.measured, figure),
        "baseline": _shown(gate.baseline, figure),
        "difference": _shown(gate.measured, written) if compared else None,
        "interval": _interval(gate.interval, written),
        "limit": _shown(gate.limit, written),
    }


def _shown(value: float | None, written: Callable[[float], str]) -> str | None:
    return None if value is None else written(value)


def _interval(ends: Sequence[float] | None, written: Callable[[float], str]) -> str | None:
    """Both ends, the unit only at the second."""
    if not ends:
        return None
    low, high = (written(end) for end in ends)
    return f"{low.removesuffix(' points').removesuffix('%')} to {high.removesuffix(' points')}"


_CANDIDATE, _BASELINE = "candidate", "baseline"
_WRONG, _LOST = 60, 30  # images in the galleries

_log = logging.getLogger(__name__)


def gather_report(record: RunRecord, artifacts: Mapping[str, pathlib.Path] | None = None) -> dict[str, Any]:
    """The variables of the template `report.html`.

    Args:
        record: of the run.
        artifacts: where each artifact is on this machine, if that is not where the record says it is.

    Returns:
        Each section's content, None for a section without any; `missing` names what should be there and could not be
        read, with the reason.
    """
    # The page may be copied or moved with its folder, so that it names files by their place in there.
    shown = record.rebase(".")
    at = artifacts or {name: pathlib.Path(path) for name, path in record.artifacts.items()}
    missing: list[str] = []

    def part(what: str, artifact: str, make: Callable[[pathlib.Path], Any]) -> Any:
        """One part; an artifact that was deleted or cannot be read must not cost the rest of the report."""
        if artifact not in at:
            return None
        try:
            return make(at[artifact])
        except Exception as error:
            missing.append(f"{what}: {type(error).__name__}: {error}")
            _log.warning("the report lacks %s", missing[-1])
            _log.info("its trace", exc_info=True)  # for the log of a run; a screen has the line alone
            return None

    images = at.get("ingest.examples")
    answers = part("the answers", "evaluate.checks", lambda path: figures.load(path / "predictions.npz"))
    models = answers[1] if answers else {}
    candidate, baseline = models.get(_CANDIDATE), models.get(_BASELINE)
    counts = part("the counts", "statistics.statistics", data.counts)
    return {
        "record": shown,
        "sentence": shown.sentence or shown.reason,
        "gates": gate_rows(shown),
        "counts": counts,
        "classes_chart": counts and charts.classes(counts),
        "scalars": part("the statistics", "statistics.statistics", data.scalars),
        "samples": part("the sample images", "ingest.examples", data.samples),
        "findings": part("the findings", "data-check.checks", lambda _: data.findings(record, images)),
        "suspects": part("the suspect labels", "image-check.checks", lambda path: data.suspects(path, images)),
        "tuning": record.tuning and _tuning(record.tuning),
        "training": part("the training", "train.model_run", _training),
        "evaluation": candidate and _evaluation(record, candidate, baseline),
        "galleries": answers and part("the galleries", "ingest.examples", lambda path: _galleries(path, *answers)),
        "changed": provenance.since_baseline(record, at.get("baseline.baseline")),
        "facts": provenance.facts(record),
        "settings": provenance.settings(shown.config),
        "artifacts": shown.artifacts,
        "longest": max((stage.seconds for stage in record.stages), default=0.0),
        "missing": missing,
    }


def _tuning(tuning: Tuning) -> dict[str, Any]:
    """The trials, the best first, with a column for each hyperparameter that was searched."""
    ended = [trial for trial in tuning.trials if trial.val_accuracy is not None]
    return {
        "winner": tuning.winner,
        "space": tuning.space,
        "share": tuning.share,
        "names": list(tuning.space),
        "first": tuning.trials[0],
        "best": next(trial for trial in tuning.trials if trial.number == tuning.winner),
        "trials": [
            *sorted(ended, key=lambda trial: (-(trial.val_accuracy or 0), trial.val_loss or 0, trial.number)),
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


def _evaluation(record: RunRecord, candidate: figures.Answers, baseline: figures.Answers | None) -> dict[str, Any]:
    models = {_CANDIDATE: candidate} | ({_BASELINE: baseline} if baseline else {})
    matrices = {name: figures.confusion(answers) for name, answers in models.items()}
    measured = _measured(record)
    recalls = [
        {"group": name, "model": model, "count": int(matrix[index].sum()), **interval._asdict()}
        for model, matrix in matrices.items()
        for index, name in enumerate(features.CLASSES)
        if (interval := figures.share(int(matrix[index, index]), int(matrix[index].sum())))
    ]
    curves = {
        name: [(point.confidence, point.accuracy, point.examples) for point in metrics.calibration.curve]
        for name, metrics in measured.items()
        if metrics.calibration
    }
    return {
        "examples": len(candidate.labels),
        "summary": [{"model": name, **vars(metrics)} for name, metrics in measured.items()],
        "matrix": _matrix(matrices[_CANDIDATE]),
        "classes": _classes(matrices),
        "recall_chart": charts.bars(recalls, "class", "recall"),
        "calibration_chart": charts.calibration(curves) if curves else None,
        "slice_charts": _slice_charts(record),
        "changes": baseline and [int(rows.sum()) for rows in figures.changes(candidate, baseline)],
    }


def _measured(record: RunRecord) -> dict[str, Metrics]:
    """Returns the metrics of each model that the record has."""
    models = {_CANDIDATE: record.metrics, _BASELINE: record.baseline and record.baseline.metrics}
    return {name: metrics for name, metrics in models.items() if metrics}


def _slice_charts(record: RunRecord) -> dict[str, Any]:
    """Feature -> chart of the accuracy in each of its groups; empty for a record without slices."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for model, metrics in _measured(record).items():
        for feature, groups in metrics.slices.items():
            for name, group in groups.items():
                count = group.examples
                if interval := figures.share(round(group.accuracy * count), count):
                    row = {"group": name, "model": model, "count": count, **interval._asdict()}
                    rows.setdefault(feature.replace("_", " "), []).append(row)
    return {feature: charts.bars(found, feature, "accuracy") for feature, found in rows.items()}


def _matrix(matrix: Any) -> list[dict[str, Any]]:
    """Rows of cells: the count, and how strongly it is shown, 0 .. 1, errors on a scale of their own."""
    errors = matrix - np.diag(np.diag(matrix))
    most_right, most_wrong = max(int(np.diag(matrix).max()), 1), max(int(errors.max()), 1)
    return [
        {
            "name": features.CLASSES[row],
            "cells": [
                {
                    "count": int(count),
                    "right": row == column,
                    "strength": round(float(count) / (most_right if row == column else most_wrong), 3),
                }
                for column, count in enumerate(counts)
            ],
        }
        for row, counts in enumerate(matrix)
    ]


def _classes(matrices: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class and model."""
    rows = []
    for index, name in enumerate(features.CLASSES):
        row: dict[str, Any] = {"name": name, "count": int(matrices[_CANDIDATE][index].sum())}
        for model, matrix in matrices.items():
            right = int(matrix[index, index])
            recall = figures.share(right, int(matrix[index].sum()))
            precision = figures.share(right, int(matrix[:, index].sum()))
            both = int(matrix[index].sum() + matrix[:, index].sum())
            row[model] = {"recall": recall, "precision": precision, "f1": 2 * right / both if both else None}
        rows.append(row)
    return rows


def _galleries(artifact: pathlib.Path, ids: list[str], models: Mapping[str, figures.Answers]) -> list[dict[str, Any]]:
    candidate, baseline = models[_CANDIDATE], models.get(_BASELINE)
    chosen = [("wrong", ~candidate.right, _WRONG)]
    if baseline:
        chosen.append(("lost", figures.changes(candidate, baseline)[1], _LOST))
    shown = {name: figures.worst(candidate, rows, most) for name, rows, most in chosen}
    wanted = {ids[row] for rows in shown.values() for row in rows}
    pictures = data.images_by_id(artifact, [features.TEST], wanted)
    return [
        {
            "name": name,
            "count": int(rows.sum()),
            "images": [
                {
                    "id": ids[row],
                    "uri": page.data_uri(pictures[ids[row]].pixels),
                    "truth": data.class_name(int(candidate.labels[row])),
                    "answer": data.class_name(int(candidate.classes[row])),
                    "probability": float(candidate.probabilities[row].max()),
                }
                for row in shown[name]
                if ids[row] in pictures
            ],
        }
        for name, rows, _ in chosen
    ]
