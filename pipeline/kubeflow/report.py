# SPDX-License-Identifier: Apache-2.0
"""The last task of a run: its record, its report, and metadata for the viewers of the Kubeflow UI."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from components import environment, findings, retries, stdio
from components.errors import exit_code
from pipeline import run_record
from pipeline.kubeflow import entrypoint, launcher_adapter, parameters, task_records
from pipeline.run_record import DatasetRecord, RunRecord

# Points of the ROC curve; few, because the server stores them in one field of its database.
_POINTS = 100


def metrics_metadata(record: RunRecord) -> dict[str, float | str]:
    """Returns the metrics of a run: name -> value, a finite number or text.

    Args:
        record: of the run, whatever its verdict.
    """
    rows: dict[str, float | str | None] = {"verdict": record.verdict.value}
    for prefix, metrics in (("", record.metrics), ("baseline ", record.baseline and record.baseline.metrics)):
        if metrics:
            rows |= {f"{prefix}accuracy": metrics.accuracy, f"{prefix}loss": metrics.loss}
            rows |= {f"{prefix}recall {digit}": recall for digit, recall in metrics.recall.items()}
    if record.baseline:
        rows["baseline version"] = record.baseline.version
    if record.model:
        rows["version"] = record.model.version
    return {
        name: value
        for name, value in rows.items()
        if isinstance(value, str) or (value is not None and math.isfinite(value))
    }


def classification_metadata(
    classes: Sequence[str], confusion: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], scores: npt.NDArray[Any]
) -> dict[str, Any]:
    """Returns the confusion matrix and the one-vs-rest ROC curve, micro-averaged over the classes.

    Args:
        classes: name of each.
        confusion: counts [true class, predicted class].
        labels: true class of each image, int [n]; labels that are not a class are left out.
        scores: probability of each class, float [n, classes].
    """
    from kfp import dsl

    viewer = dsl.ClassificationMetrics(metadata={})
    viewer.log_confusion_matrix(list(classes), confusion.tolist())
    valid = (labels >= 0) & (labels < len(classes)) & np.isfinite(scores).all(axis=1)
    truth = (labels[valid, None] == np.arange(len(classes))[None, :]).ravel()
    if truth.any() and not truth.all():
        viewer.log_roc_curve(*_roc(truth, scores[valid].astype(np.float64).ravel()))
    return dict(viewer.metadata)


def _roc(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> tuple[list[float], list[float], list[float]]:
    """Returns false-positive rates, recalls and thresholds, from a threshold above every score to 0."""
    thresholds = np.unique(np.quantile(scores, np.linspace(0, 1, _POINTS)))[::-1]
    # Above every score, so that the curve begins at the origin.
    thresholds = np.concatenate([[max(1.0, thresholds[0]) + 1e-6], thresholds, [0.0]])
    positive, negative = np.sort(scores[truth]), np.sort(scores[~truth])
    recall = 1 - np.searchsorted(positive, thresholds) / len(positive)
    false_positive = 1 - np.searchsorted(negative, thresholds) / len(negative)
    return false_positive.tolist(), recall.tolist(), thresholds.tolist()


HTML, METRICS, CLASSIFICATION, RECORD = "html", "metrics", "classification_metrics", "record"


def main(arguments: Sequence[str]) -> int:
    """Writes the record and the report of a run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="pipeline.kubeflow.report", description=__doc__, allow_abbrev=False)
    for name in ("task", "stages", "input"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--retries", type=int, default=0)
    args = parser.parse_args(arguments)
    attempts = retries.retrying(args.retries)
    return exit_code(lambda: attempts(_report, json.loads(args.input), args.task, args.stages.split(",")))


def _report(executor_input: dict[str, Any], task: str, names: Sequence[str]) -> None:
    prefix = task_records.prefix(executor_input, task)
    outputs = {key: entry["artifacts"][0] for key, entry in executor_input["outputs"]["artifacts"].items()}
    values = dict(executor_input["inputs"]["parameterValues"])
    config = parameters.apply(parameters.complete(json.loads(values.pop("config"))), values)

    with tempfile.TemporaryDirectory() as scratch:
        stages = task_records.task_runs(task_records.read_task_records(prefix), names, pathlib.Path(scratch))
        record = _record(prefix, config, stages)
        record = _write_page(record, stages, outputs[HTML]["uri"], pathlib.Path(scratch))
        text = record.to_text()
        task_records.put(f"{prefix}/{run_record.RECORD_FILE}", text.encode())
        outputs[METRICS]["metadata"] = metrics_metadata(record)
        outputs[CLASSIFICATION]["metadata"] = _classification(stages)

    _local(outputs[RECORD]["uri"]).write_text(text, encoding="utf-8")
    keys = (HTML, METRICS, CLASSIFICATION, RECORD)
    executor_output = {"artifacts": {key: {"artifacts": [outputs[key]]} for key in keys}}
    output_file = pathlib.Path(executor_input["outputs"]["outputFile"])
    output_file.parent.mkdir(parents=True, exist_ok=True)
    output_file.write_text(json.dumps(executor_output), encoding="utf-8")
    if record.dataset and record.dataset.excluded:
        sys.stdout.write(
            f"Excluded, as their label is not a class: {findings.excluded_words(record.dataset.excluded)}\n"
        )
    sys.stdout.write(f"{record.sentence}\n")


def _record(prefix: str, config: dict[str, Any], stages: Sequence[task_records.TaskRun]) -> RunRecord:
    dataset = None
    ingest = next((stage for stage in stages if stage.name == "ingest" and stage.outputs), None)
    if ingest is not None:
        dataset = DatasetRecord(
            name=ingest.property("examples", "dataset"),
            images=ingest.property("examples", "images"),
            sha256=ingest.property("examples", "dataset_sha256"),
            choice=f"read from {config['data_dir']}",
        )
    record = RunRecord(
        run_id=prefix.rpartition("/")[2], config=config, forced=config["force_push"] or None, dataset=dataset
    )
    return run_record.judge(record, stages, task_records.failure(stages))


def _write_page(
    record: RunRecord, stages: Sequence[task_records.TaskRun], uri: str, scratch: pathlib.Path
) -> RunRecord:
    """Writes the report and returns the record with its URI; the verdict stands even if that fails."""
    from pipeline.report import page

    record = dataclasses.replace(record, report=uri)
    try:
        artifacts = {
            f"{stage.name}.{key}": stage.uri(key) for stage in stages for key in stage.outputs if stage.is_read(key)
        }
        shutil.copyfile(page.write(record, scratch, artifacts), _local(uri))
    except Exception:
        traceback.print_exc()
        return dataclasses.replace(record, report=None)
    return record


def _classification(stages: Sequence[task_records.TaskRun]) -> dict[str, Any]:
    """Returns the metadata of system.ClassificationMetrics; empty if the run ended before the evaluation."""
    from components import features
    from pipeline.report import figures

    evaluate = next((stage for stage in stages if stage.name == "evaluate" and stage.outputs), None)
    if evaluate is None:
        return {}
    _, models = figures.load(evaluate.uri("checks") / "predictions.npz")
    candidate = models["candidate"]
    confusion = figures.confusion(candidate)
    return classification_metadata(features.CLASSES, confusion, candidate.labels, candidate.probabilities)


def _local(uri: str) -> pathlib.Path:
    path = pathlib.Path(launcher_adapter.local_path(uri))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    environment.prepare()
    os.umask(entrypoint.UMASK)
    stdio.run(lambda: main(sys.argv[1:]))
