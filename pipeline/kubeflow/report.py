# SPDX-License-Identifier: Apache-2.0
"""What the viewers of the Kubeflow UI draw: the metadata of system.Metrics and system.ClassificationMetrics."""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from components import environment, findings, retries, stdio
from components.errors import exit_code
from pipeline import run_record
from pipeline.kubeflow import entrypoint, launcher_adapter, parameters, task_records

# Points of the ROC curve: the server keeps them in one field of its database.
_POINTS = 100


def metrics_metadata(record: Mapping[str, Any]) -> dict[str, float | str]:
    """A row for each figure of a run: name -> value, finite numbers and text only.

    Args:
        record: of the run, whatever its verdict.
    """
    rows: dict[str, Any] = {"verdict": record["verdict"]}
    for of, figures in (("", record["metrics"]), ("baseline ", (record["baseline"] or {}).get("metrics"))):
        for name in ("accuracy", "loss"):
            rows[of + name] = (figures or {}).get(name)
        for digit, recall in ((figures or {}).get("recall") or {}).items():
            rows[f"{of}recall {digit}"] = recall
    if record["baseline"]:
        rows["baseline version"] = record["baseline"]["version"]
    if record["model"] and record["model"]["version"] is not None:
        rows["version"] = record["model"]["version"]
    return {name: value for name, value in rows.items() if isinstance(value, str) or _is_finite(value)}


def classification_metadata(
    classes: Sequence[str], confusion: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], scores: npt.NDArray[Any]
) -> dict[str, Any]:
    """The confusion matrix, and the ROC curve of all classes, each held against the rest.

    The curve is micro-averaged: each image counts once for each class, as one that is of the class or is not.

    Args:
        classes: name of each.
        confusion: counts [true class, answered class].
        labels: true class of each image, int [n]; those that are none are left out.
        scores: probability of each class, float [n, classes].
    """
    from kfp import dsl

    drawn = dsl.ClassificationMetrics(metadata={})
    drawn.log_confusion_matrix(list(classes), confusion.tolist())
    valid = (labels >= 0) & (labels < len(classes)) & np.isfinite(scores).all(axis=1)
    truth = (labels[valid, None] == np.arange(len(classes))[None, :]).ravel()
    if truth.any() and not truth.all():
        drawn.log_roc_curve(*_roc(truth, scores[valid].astype(np.float64).ravel()))
    return dict(drawn.metadata)


def _roc(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> tuple[list[float], list[float], list[float]]:
    """False-positive rates, recalls and their thresholds, from the highest threshold, which nothing reaches, to 0."""
    thresholds = np.unique(np.quantile(scores, np.linspace(0, 1, _POINTS)))[::-1]
    # No score exceeds 1, so nothing is above this first one, and the curve begins at the origin.
    thresholds = np.concatenate([[max(1.0, thresholds[0]) + 1e-6], thresholds, [0.0]])
    positive, negative = np.sort(scores[truth]), np.sort(scores[~truth])
    recall = 1 - np.searchsorted(positive, thresholds) / len(positive)
    false_positive = 1 - np.searchsorted(negative, thresholds) / len(negative)
    return false_positive.tolist(), recall.tolist(), thresholds.tolist()


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


HTML, METRICS, CLASSIFICATION, RECORD = "html", "metrics", "classification_metrics", "record"


def main(arguments: Sequence[str]) -> int:
    """Makes the report and returns the exit code."""
    parser = argparse.ArgumentParser(prog="pipeline.kubeflow.report", description=__doc__, allow_abbrev=False)
    for name in ("task", "stages", "input"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--retries", type=int, default=0)
    told = parser.parse_args(arguments)
    attempts = retries.retrying(told.retries)
    return exit_code(lambda: attempts(_report, json.loads(told.input), told.task, told.stages.split(",")))


def _report(executor_input: dict[str, Any], task: str, names: Sequence[str]) -> None:
    prefix = task_records.prefix(executor_input, task)
    outputs = {key: entry["artifacts"][0] for key, entry in executor_input["outputs"]["artifacts"].items()}
    values = dict(executor_input["inputs"]["parameterValues"])
    config = parameters.effective(parameters.complete(json.loads(values.pop("config"))), values)

    with tempfile.TemporaryDirectory() as scratch:
        found = task_records.task_runs(task_records.read_task_records(prefix), names, pathlib.Path(scratch))
        row = _record(prefix, config, found)
        _write_page(row, found, outputs[HTML]["uri"], pathlib.Path(scratch))
        text = json.dumps(row, indent=1) + "\n"
        task_records.put(f"{prefix}/{task_records.RECORD_FILE}", text.encode())
        outputs[METRICS]["metadata"] = metrics_metadata(row)
        outputs[CLASSIFICATION]["metadata"] = _classification(found)

    _local(outputs[RECORD]["uri"]).write_text(text, encoding="utf-8")
    answer = {"artifacts": {key: {"artifacts": [outputs[key]]} for key in (HTML, METRICS, CLASSIFICATION, RECORD)}}
    output_file = pathlib.Path(executor_input["outputs"]["outputFile"])
    output_file.parent.mkdir(parents=True, exist_ok=True)
    output_file.write_text(json.dumps(answer), encoding="utf-8")
    if excluded := (row["dataset"] or {}).get("excluded"):
        sys.stdout.write(f"Left out, as their label is no class: {findings.excluded_words(excluded)}\n")
    sys.stdout.write(f"{row['sentence']}\n")


def _record(prefix: str, config: dict[str, Any], found: Sequence[task_records.TaskRun]) -> dict[str, Any]:
    row = run_record.new_record(prefix.rpartition("/")[2], config=config, forced=config["force_push"] or None)
    ingest = next((stage for stage in found if stage.name == "ingest" and stage.outputs), None)
    if ingest is not None:
        row["dataset"] = {
            "name": ingest.property("examples", "dataset"),
            "images": ingest.property("examples", "images"),
            "sha256": ingest.property("examples", "dataset_sha256"),
            "choice": f"read from {config['data_dir']}",
        }
    run_record.fill_record(row, found)
    run_record.judge(row, found, task_records.failure(found))
    row["sentence"] = run_record.verdict_sentence(row)
    return row


def _write_page(row: dict[str, Any], found: Sequence[task_records.TaskRun], uri: str, scratch: pathlib.Path) -> None:
    """Writes the report; the verdict stands even where that fails."""
    from pipeline.report import page

    row["report"] = uri
    try:
        here = {f"{stage.name}.{key}": stage.uri(key) for stage in found for key in stage.outputs if stage.is_read(key)}
        shutil.copyfile(page.write(row, scratch, here), _local(uri))
    except Exception:
        traceback.print_exc()
        row["report"] = None


def _classification(found: Sequence[task_records.TaskRun]) -> dict[str, Any]:
    """Nothing where the run did not get to the evaluation."""
    from components import features
    from pipeline.report import figures

    evaluate = next((stage for stage in found if stage.name == "evaluate" and stage.outputs), None)
    if evaluate is None:
        return {}
    _, models = figures.load(evaluate.uri("checks") / "predictions.npz")
    answers = models["candidate"]
    return classification_metadata(features.CLASSES, figures.confusion(answers), answers.labels, answers.probabilities)


def _local(uri: str) -> pathlib.Path:
    path = pathlib.Path(launcher_adapter.local_path(uri))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    environment.prepare()
    os.umask(entrypoint.UMASK)
    stdio.run(lambda: main(sys.argv[1:]))
