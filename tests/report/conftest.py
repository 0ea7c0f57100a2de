# SPDX-License-Identifier: Apache-2.0
"""A small run on disk, with metrics that can be computed by hand."""

from __future__ import annotations

import json
import pathlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tensorflow_metadata.proto.v0 import statistics_pb2

from components import findings
from components.ingest import encode
from pipeline import run_record
from pipeline.run_record import RunRecord

MakeRun = Callable[..., RunRecord]
TEST_IMAGES = 20  # two of each class
# Predictions: the candidate takes one 4 for a 9, and the baseline two 7s for 1s.
LABELS = np.arange(TEST_IMAGES) % 10
CANDIDATE, BASELINE = LABELS.copy(), LABELS.copy()
CANDIDATE[14] = 9
BASELINE[[7, 17]] = 1


def probabilities(classes: np.ndarray) -> np.ndarray:
    """Returns float32 [n, 10]: 0.91 for the predicted class, 0.01 for each other one."""
    rows = np.full((len(classes), 10), 0.01, np.float32)
    rows[np.arange(len(classes)), classes] = 0.91
    return rows


def pixels(count: int) -> np.ndarray:
    """Returns uint8 [count, 28, 28], no two alike."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[np.arange(count), 4 + np.arange(count) % 20, 4:24] = 255
    images[:, 0, 0] = np.arange(count) % 256
    return images


def write_examples(folder: pathlib.Path, split: str, count: int, file: str) -> None:
    """Writes images with the labels 0, 1, … 9, 0, … in two files of a split."""
    labels = (np.arange(count) % 10).astype(np.uint8)
    serialized = encode.examples(pixels(count), labels, file, np.arange(count))
    split_folder = folder / f"Split-{split}"
    split_folder.mkdir(parents=True)
    for number, part in enumerate((serialized[: count // 3], serialized[count // 3 :])):
        records = b"".join(struct.pack("<QI", len(example), 0) + example + b"\0\0\0\0" for example in part)
        (split_folder / f"data_tfrecord-{number:05d}-of-00002").write_bytes(records)


def write_statistics(folder: pathlib.Path, split: str, count: int) -> None:
    """Writes the part of TFDV's statistics that the report reads."""
    statistics = statistics_pb2.DatasetFeatureStatisticsList()
    dataset = statistics.datasets.add(num_examples=count)
    label = dataset.features.add()
    label.path.step.append("label")
    for index in range(10):
        label.string_stats.rank_histogram.buckets.add(label=str(index), sample_count=count / 10)
    for name in ("mean_intensity", "ink_share", "contrast", "slant"):
        feature = dataset.features.add()
        feature.path.step.append(name)
        feature.num_stats.mean = 0.125
    split_folder = folder / f"Split-{split}"
    split_folder.mkdir(parents=True)
    (split_folder / "FeatureStats.pb").write_bytes(statistics.SerializeToString())


def _json(path: pathlib.Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _metrics(accuracy: float, loss: float, recall: dict[str, float], **intervals: list[float]) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "loss": loss,
        "examples": TEST_IMAGES,
        "recall": recall,
        "top2": 0.975,
        "intervals": {"accuracy": [accuracy - 0.1, min(accuracy + 0.05, 1.0)], **intervals},
        "calibration": {
            "error": abs(0.91 - accuracy),
            "curve": [{"confidence": 0.91, "accuracy": accuracy, "examples": TEST_IMAGES}],
        },
    }


def _gate(name: str, measured: float, limit: float, reason: str, passed: bool = True, **fields: Any) -> dict[str, Any]:
    result = findings.GateResult(name, measured, limit, passed, reason)
    return vars(result) | fields


def _record(output: pathlib.Path, run_id: str) -> dict[str, Any]:
    recall = {str(name): 1.0 for name in range(10)}
    return {
        "schema_version": 1,
        "run_id": run_id,
        "verdict": "pushed",
        "exit_code": 0,
        "reason": "every gate passed",
        "sentence": "PUSHED: accuracy 95.00%, baseline 90.00% (version 1)",
        "forced": None,
        "dataset": {"name": "digits", "images": 60, "sha256": "ab" * 32, "choice": "as asked for"},
        "config": {"output": str(output), "serving_name": "mnist", "training": {"model": "cnn", "seed": 1}},
        "model": {"type": "cnn", "parameters": 1234, "version": 2, "path": str(output / "serving/mnist/2")},
        "candidate": str(output / "model"),
        "metrics": _metrics(0.95, 0.3125, recall | {"4": 0.5}, change=[-0.075, 0.175]),
        "baseline": {"version": 1, "metrics": _metrics(0.9, 0.4375, recall | {"7": 0.0})},
        "findings": [],
        "gates": [
            _gate("data", 0, 0, "no findings"),
            _gate("change", 0.05, -0.035, "5 points more", candidate=0.95, baseline=0.9, interval=[-0.075, 0.175]),
            _gate("accuracy-floor", 0.95, 0.93, "95.00%", baseline=0.9, interval=[0.85, 1.0]),
            _gate("recall-floor", 0.5, 0.6, "missed by 10 points", passed=False, baseline=0.0),
        ],
        "devices": ["CPU:0"],
        "stages": [
            {"name": "ingest", "state": "cached", "seconds": 0.5},
            {"name": "train", "state": "done", "seconds": 75.0},
        ],
        "artifacts": {},
        "report": None,
        "log": str(output / "runs" / run_id / "log.txt"),
        "fingerprint": {"inputs": "cd" * 32},
    }


def parse(values: dict[str, Any]) -> RunRecord:
    """Returns the record with these JSON values."""
    return run_record.parse_record(json.dumps(values))


@pytest.fixture
def make_run(tmp_path: pathlib.Path) -> MakeRun:
    """Makes a run below `tmp_path/output` and returns its record; keyword arguments replace fields of the record."""

    def make(run_id: str = "20260101-000000-aaaa", **fields: Any) -> RunRecord:
        output = tmp_path / "output"
        root = output / "pipeline_root" / run_id
        folder = output / "runs" / run_id
        folders = {
            name: root / name
            for name in (
                "ingest.examples", "statistics.statistics", "image-check.checks", "data-check.checks",
                "train.model_run", "evaluate.checks",
            )
        }  # fmt: skip
        for split, count, file in (("train", 30, "train"), ("val", 10, "val"), ("test", TEST_IMAGES, "t10k")):
            write_examples(folders["ingest.examples"], split, count, f"{file}-images-idx3-ubyte")
            write_statistics(folders["statistics.statistics"], split, count)
        findings.write(folders["data-check.checks"])
        suspect = {"id": "train-images-idx3-ubyte#5", "label": 5, "likely": 6, "confidence": 0.75}
        _json(folders["image-check.checks"] / "label_suspects.json", [suspect])
        epochs = [
            {"epoch": 1, "steps": 10, "loss": 1.5, "accuracy": 0.5, "val_loss": 1.25, "val_accuracy": 0.625},
            {"epoch": 2, "steps": 20, "loss": 0.5, "accuracy": 0.75, "val_loss": 0.25, "val_accuracy": 0.875},
        ]
        training = {
            "devices": ["CPU:0"], "steps": 20, "seconds": 75.0, "parameters": 1234,
            "best_epoch": 2, "stopped_early": True, "hyperparameters": {"model": "cnn", "train_steps": 5},
            "epochs": [epoch | {"learning_rate": 0.01} for epoch in epochs],
        }  # fmt: skip
        _json(folders["train.model_run"] / "training.json", training)
        folders["evaluate.checks"].mkdir()
        np.savez(
            folders["evaluate.checks"] / "predictions.npz",
            ids=np.array([f"t10k-images-idx3-ubyte#{row}" for row in range(TEST_IMAGES)]),
            labels=LABELS,
            candidate=probabilities(CANDIDATE),
            baseline=probabilities(BASELINE),
        )
        provenance = {"dataset": {"sha256": "ab" * 32}, "config": {"training": {"model": "cnn", "seed": 7}}}
        _json(output / "serving" / "mnist" / "1" / "assets.extra" / "provenance.json", provenance)
        record = _record(output, run_id) | {"artifacts": {name: str(path) for name, path in folders.items()}} | fields
        _json(folder / run_record.RECORD_FILE, record)
        return run_record.read_record(folder)

    return make
