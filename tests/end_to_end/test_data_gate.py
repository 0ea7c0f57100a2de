# SPDX-License-Identifier: Apache-2.0
"""Each fault in the data stops a run before training, with one sentence, and leaves the serving folder as it was."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tensorflow_metadata.proto.v0 import statistics_pb2

import runner_local
from components import features, findings
from components.ingest import idx, source

pytestmark = pytest.mark.slow
Files = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The digits' arrays by file name."""
    dataset = source.resolve(
        "digits", image_shape=features.IMAGE_SHAPE, cache_dir=tmp_path_factory.mktemp("cache")
    ).source
    _, contents = source.load(dataset.directory, None, features.IMAGE_SHAPE, "digits")
    return {name: contents[name].array for name in idx.FILES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def serving(folder: pathlib.Path) -> pathlib.Path:
    return folder / "output" / "serving"


@pytest.fixture(scope="module")
def start(clean: Files, folder: pathlib.Path) -> Callable[..., dict[str, Any]]:
    """Runs the pipeline in this process on files with a fault; a model trained on clean ones is in production."""

    def run(files: Files, *arguments: str) -> dict[str, Any]:
        shutil.rmtree(folder / "data", ignore_errors=True)
        (folder / "data").mkdir()
        for name, array in files.items():
            idx.write(folder / "data" / name, array)
        path = folder / "record.json"
        path.unlink(missing_ok=True)
        code = runner_local.main(
            ["--data-dir", str(folder / "data"), "--profile", "digits", "--output", str(folder / "output"),
             "--model", "linear", "--allow", "dataset-changed", "--json", str(path), *arguments]
        )  # fmt: skip
        record: dict[str, Any] = json.loads(path.read_text())
        return record | {"code": code}

    first = run(clean, "--train-steps", "300")
    assert first["verdict"] == "pushed", first["reason"]
    assert first["findings"] == []
    return run


def class_missing(files: Files) -> None:
    rows = files[idx.TRAIN_LABELS] != 3
    files[idx.TRAIN_IMAGES], files[idx.TRAIN_LABELS] = files[idx.TRAIN_IMAGES][rows], files[idx.TRAIN_LABELS][rows]


def shifted_balance(files: Files) -> None:
    of_one = np.flatnonzero(files[idx.TRAIN_LABELS] == 1)
    rows = np.setdiff1d(np.arange(len(files[idx.TRAIN_LABELS])), of_one[: len(of_one) * 2 // 3])
    files[idx.TRAIN_IMAGES], files[idx.TRAIN_LABELS] = files[idx.TRAIN_IMAGES][rows], files[idx.TRAIN_LABELS][rows]


def nearly_leaked(files: Files) -> None:
    noise = np.random.default_rng(3).normal(0, 8, files[idx.TRAIN_IMAGES][:5].shape)
    files[idx.TEST_IMAGES][:5] = np.clip(files[idx.TRAIN_IMAGES][:5] + noise, 0, 255).astype(np.uint8)
    files[idx.TEST_LABELS][:5] = files[idx.TRAIN_LABELS][:5]


def flip_labels(files: Files) -> None:
    rng = np.random.default_rng(5)
    labels = files[idx.TRAIN_LABELS]
    chosen = rng.choice(len(labels), len(labels) // 20, replace=False)
    labels[chosen] = (labels[chosen] + rng.integers(1, 10, len(chosen))) % 10


# tests/validate has every fault; `every_fault_at_once` has all but the first of these.
@pytest.mark.parametrize(
    ("fault", "finding"),
    [(class_missing, "class-missing"), (nearly_leaked, "near-test-leak"), (flip_labels, "label-noise")],
)
def test_a_fault_stops_the_run_before_training(
    start: Callable[..., dict[str, Any]],
    clean: Files,
    serving: pathlib.Path,
    serving_digest: Any,
    fault: Callable[[Files], None],
    finding: str,
) -> None:
    files = {name: array.copy() for name, array in clean.items()}
    fault(files)
    before = serving_digest(serving)
    record = start(files)
    assert record["code"] == 3
    assert record["verdict"] == "stopped"
    findings = [row for row in record["findings"] if not row["allowed"]]
    assert finding in {row["name"] for row in findings}, findings
    assert record["reason"].startswith(findings[0]["sentence"])
    assert "\n" not in record["reason"]
    states = {stage["name"]: stage["state"] for stage in record["stages"]}
    assert states["data-gate"] == "failed"
    assert states["train"] == "skipped"
    assert serving_digest(serving) == before


def test_a_lost_metadata_database_does_not_lose_the_baseline(
    start: Callable[..., dict[str, Any]], clean: Files, serving: pathlib.Path, serving_digest: Any
) -> None:
    before = serving_digest(serving)
    (serving.parent / "metadata.db").unlink()
    record = start(clean, "--train-steps", "1", "--learning-rate", "1e-9")  # random weights
    assert record["code"] == 3
    assert record["verdict"] == "not_blessed"
    assert record["baseline"] is not None
    assert record["baseline"]["metrics"]["accuracy"] > 0.85
    assert serving_digest(serving) == before


def every_fault_at_once(files: Files) -> None:
    """All that the data gate looks for but a missing class; train and test by halves, so that one fault hides none."""
    random = np.random.default_rng(7)
    nearly_leaked(files)
    files[idx.TEST_IMAGES][5:10] = files[idx.TRAIN_IMAGES][5:10]
    files[idx.TEST_LABELS][5:10] = files[idx.TRAIN_LABELS][5:10]
    files[idx.TEST_IMAGES][10:13] = 0
    files[idx.TEST_IMAGES][100:] = (files[idx.TEST_IMAGES][100:] * 0.6).astype(np.uint8)
    files[idx.TRAIN_IMAGES][700:] = (files[idx.TRAIN_IMAGES][700:] * 0.4).astype(np.uint8)
    files[idx.TRAIN_IMAGES][20:50] = 255 - files[idx.TRAIN_IMAGES][20:50]
    files[idx.TRAIN_IMAGES][100:120] = files[idx.TRAIN_IMAGES][99]
    labels = files[idx.TRAIN_LABELS]
    chosen = random.choice(np.arange(200, len(labels)), 120, replace=False)
    labels[chosen] = (labels[chosen] + random.integers(1, 10, len(chosen))) % 10
    shifted_balance(files)
    files[idx.TRAIN_LABELS][[60, 70]], files[idx.TRAIN_LABELS][80], files[idx.TEST_LABELS][50] = 12, 200, 10


def test_every_finding_that_is_allowed_lets_a_run_come_to_its_end(
    start: Callable[..., dict[str, Any]], clean: Files, serving: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = {name: array.copy() for name, array in clean.items()}
    every_fault_at_once(files)
    allowed = [word for name in findings.NAMES for word in ("--allow", name)]
    record = start(files, *allowed, "--train-steps", "300", "--force-push", "to see it in the serving folder")
    assert record["verdict"] == "pushed", record["reason"]
    # Production may have been trained on one's own data by now; the test before has that finding.
    names = {row["name"] for row in record["findings"]} | {"dataset-changed"}
    assert names == set(findings.NAMES) - {"class-missing"}
    assert all(row["allowed"] for row in record["findings"])
    assert record["config"]["allow"] == sorted(findings.NAMES)
    duplicates = [row for row in record["findings"] if row["name"] == "duplicate-images"]
    assert sum(row["count"] for row in duplicates) >= 19  # some of the twenty may be in val
    assert all(row["examples"] for row in duplicates)

    excluded = record["dataset"]["excluded"]
    assert sum(map(sum, (by_label.values() for by_label in excluded.values()))) == 4
    assert excluded["test"] == {"10": 1}
    assert record["metrics"]["examples"] == len(files[idx.TEST_LABELS]) - 1
    assert record["dataset"]["images"] == sum(len(files[name]) for name in (idx.TRAIN_LABELS, idx.TEST_LABELS))
    assert "Excluded, as their label is not a class: " in capfd.readouterr().out
    [sentence] = [
        row["sentence"]
        for row in record["findings"]
        if row["name"] == "label-out-of-range" and "test" in row["sentence"]
    ]
    assert "1 of test (label 10: 1)" in sentence
    assert "1 of test (label 10: 1)" in pathlib.Path(record["report"]).read_text(encoding="utf-8")
    beside = pathlib.Path(record["model"]["path"], "assets.extra")
    provenance = json.loads((beside / "provenance.json").read_text())
    assert provenance["dataset"]["excluded"] == excluded
    assert sum(provenance["dataset"]["splits"].values()) == record["dataset"]["images"] - 4
    assert "1 of test (label 10: 1)" in (beside / "model_card.md").read_text()
    trained = statistics_pb2.DatasetFeatureStatisticsList.FromString((beside / "train_stats.pb").read_bytes())
    assert trained.datasets[0].num_examples == provenance["dataset"]["splits"]["train"]


def test_classes_that_are_missing_and_allowed_end_with_a_verdict_that_says_so(
    start: Callable[..., dict[str, Any]], clean: Files
) -> None:
    files = {name: array.copy() for name, array in clean.items()}
    class_missing(files)
    rows = files[idx.TEST_LABELS] != 7
    files[idx.TEST_IMAGES], files[idx.TEST_LABELS] = files[idx.TEST_IMAGES][rows], files[idx.TEST_LABELS][rows]
    allowed = [word for name in ("class-missing", "class-balance", "skew", "drift") for word in ("--allow", name)]
    record = start(files, *allowed, "--train-steps", "300")
    assert (record["code"], record["verdict"]) == (3, "not_blessed"), record["reason"]
    gates = {gate["name"]: gate for gate in record["gates"]}
    assert gates["recall-floor"]["measured"] == 0
    assert "that of class 3," in gates["recall-floor"]["reason"]
    assert gates["recall-floor"]["reason"].endswith("not measured for want of test images: class 7")
    assert "7" not in record["metrics"]["recall"]


def test_a_class_of_which_nothing_is_left_stops_the_run(start: Callable[..., dict[str, Any]], clean: Files) -> None:
    files = {name: array.copy() for name, array in clean.items()}
    files[idx.TEST_LABELS][files[idx.TEST_LABELS] == 4] = 44
    record = start(files, "--allow", "label-out-of-range", "--allow", "skew")
    assert (record["code"], record["verdict"]) == (3, "stopped")
    assert "namely 4 (0)" in record["reason"]
    files[idx.TEST_LABELS][:] = 44
    record = start(files, "--allow", "label-out-of-range")
    assert (record["code"], record["verdict"]) == (3, "stopped")
    assert record["reason"].startswith("Every image of test has a label outside 0 to 9")


def test_an_empty_split_stops_whatever_is_allowed(start: Callable[..., dict[str, Any]], clean: Files) -> None:
    files = {name: array[:11].copy() for name, array in clean.items()}  # one of twelve would be held out
    record = start(files, *(word for name in findings.NAMES for word in ("--allow", name)))
    assert (record["code"], record["verdict"]) == (3, "stopped")
    assert record["reason"] == "The split val has no images, so no model can be trained or evaluated: give more images."
    assert "KeyError" not in pathlib.Path(record["report"]).read_text(encoding="utf-8")  # as what the report lacks
