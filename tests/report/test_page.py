# SPDX-License-Identifier: Apache-2.0
"""The pages of runs with every outcome."""

import html
import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest

from pipeline.report import content, page
from pipeline.run_record import RunRecord
from tests.report.conftest import BASELINE, CANDIDATE, LABELS, parse, probabilities

HOSTILE = "<script>alert('x')</script>\"'&"


@pytest.fixture(autouse=True)
def no_vega(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the JavaScript out, as bundling takes seconds."""
    monkeypatch.setattr(page, "javascript", lambda: "")


def text_of(record: RunRecord, tmp_path: pathlib.Path) -> str:
    return page.write(record, tmp_path / "page").read_text(encoding="utf-8")


def section(text: str, name: str) -> str:
    """Returns the content of a section; empty if the page has none of that name."""
    match = re.search(rf'<section id="{name}">(.*?)</section>', text, re.DOTALL)
    return match[1] if match else ""


def words(text: str) -> str:
    """Returns the visible text."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


SECTIONS = [
    "verdict", "data", "training", "evaluation", "classes", "confusion", "calibration", "gallery", "changes", "lineage",
    "stages",
]  # fmt: skip


def test_a_complete_run_has_every_section(make_run, tmp_path: pathlib.Path) -> None:
    text = text_of(make_run(), tmp_path)
    assert [name for name in SECTIONS if not section(text, name)] == []
    assert "could not be read" not in text
    assert "PUSHED: accuracy 95.00%, baseline 90.00% (version 1)" in words(section(text, "verdict"))


def test_the_training_says_which_epoch_is_exported(make_run, tmp_path: pathlib.Path) -> None:
    text = words(section(text_of(make_run(), tmp_path), "training"))
    assert "87.50% accuracy on val after epoch 2, whose weights are exported" in text
    assert "; training stopped early, after epoch 2" in text


def test_gate_table(make_run, tmp_path: pathlib.Path) -> None:
    text = text_of(make_run(), tmp_path)
    rows = {name: words(row) for name, row in re.findall(r'<tr data-gate="([^"]*)">(.*?)</tr>', text, re.DOTALL)}
    assert rows["change"] == ("accuracy vs production 95.00% 90.00% +5.00 points -7.50 to +17.50 -3.50 points ✓ pass")
    assert rows["accuracy-floor"] == "accuracy 95.00% 85.00 to 100.00% 90.00% – 93.00% ✓ pass"
    assert rows["recall-floor"] == "lowest class recall missed by 10 points 50.00% 0.00% – 60.00% ✗ fail"
    assert list(rows) == ["data", "change", "accuracy-floor", "recall-floor"]


def test_evaluation(make_run) -> None:
    evaluation = content.gather_report(make_run())["evaluation"]
    assert evaluation["examples"] == 20
    assert {row["model"]: row["accuracy"] for row in evaluation["summary"]} == {"candidate": 0.95, "baseline": 0.9}
    points = evaluation["calibration_chart"]["data"]["values"]
    assert [(point["model"], point["accuracy"], point["count"]) for point in points] == [
        ("candidate", 0.95, 20), ("baseline", 0.9, 20)
    ]  # fmt: skip
    assert evaluation["changes"] == [2, 1]
    four, nine = evaluation["classes"][4], evaluation["classes"][9]
    assert four["candidate"]["recall"].value == 0.5
    assert four["candidate"]["precision"].value == 1.0
    assert four["candidate"]["f1"] == pytest.approx(2 / 3)
    assert nine["candidate"]["precision"].value == pytest.approx(2 / 3)
    assert [cell["count"] for cell in evaluation["matrix"][4]["cells"]] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]


def test_summary_of_the_evaluation_is_the_records(make_run, tmp_path: pathlib.Path) -> None:
    summary = section(text_of(make_run(), tmp_path), "evaluation")
    rows = {name: words(row) for name, row in re.findall(r'<tr data-model="(\w+)">(.*?)</tr>', summary, re.DOTALL)}
    assert rows["candidate"] == "candidate 95.00% 85.00% – 100.00% 0.3125 97.50% 4.00%"
    assert rows["baseline"] == "baseline (version 1) 90.00% 80.00% – 95.00% 0.4375 97.50% 1.00%"


def test_a_record_without_calibration_and_intervals(make_run, tmp_path: pathlib.Path) -> None:
    record = make_run(metrics={"accuracy": 0.95, "loss": 0.3125, "recall": {}}, baseline=None)
    text = text_of(record, tmp_path)
    assert "candidate 95.00% 0.3125 – –" in words(section(text, "evaluation"))
    assert "Not measured." in section(text, "calibration")


def test_galleries_show_errors(make_run, tmp_path: pathlib.Path) -> None:
    text = text_of(make_run(), tmp_path)
    galleries = dict(re.findall(r'<div class="gallery" data-gallery="(\w+)">(.*?)</div>', text, re.DOTALL))
    misclassified, lost = galleries["misclassified"], galleries["lost"]
    assert words(misclassified) == "4 → 9 (91%) #14"
    assert misclassified.count("data:image/png") == 1
    assert 't10k-images-idx3-ubyte#14"' in misclassified
    assert words(lost) == words(misclassified)


def test_data_section(make_run, tmp_path: pathlib.Path) -> None:
    data = section(text_of(make_run(), tmp_path), "data")
    assert "30 train images 10 val images 20 test images" in words(data)
    assert "5, looks like 6 (75%) #5" in words(data)
    assert data.count('class="digit"') == 31  # three of each class, and the suspect


def test_changes_since_the_baseline(make_run, tmp_path: pathlib.Path) -> None:
    changes = words(section(text_of(make_run(), tmp_path), "changes"))
    assert changes == "Changes since the baseline (version 1) item baseline this run training.seed 7 1"


def test_changed_code_of_a_run_that_pushed_nothing(make_run, tmp_path: pathlib.Path) -> None:
    code = {"git_commit": "c" * 40, "code_digest": "d" * 64, "lock_digest": "e" * 64}
    record = make_run(verdict="not_blessed", model=None, fingerprint={"inputs": "cd" * 32, **code})
    path = tmp_path / "output/serving/mnist/1/assets.extra/provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | code | {"code_digest": "f" * 64}))
    text = text_of(record, tmp_path)
    changes = words(section(text, "changes"))
    assert f"SHA-256 of the code {'f' * 64} {'d' * 64}" in changes
    assert "commit" not in changes
    assert "locked" not in changes
    assert f"commit {'c' * 40}" in words(section(text, "lineage"))


@pytest.mark.parametrize("serving", ["elsewhere", "s3://bucket/models"])
def test_the_provenance_of_a_baseline_in_another_serving_folder(make_run, tmp_path: pathlib.Path, serving: str) -> None:
    baseline = tmp_path / "artifact"
    values = make_run(artifacts={"baseline.baseline": str(baseline)}).to_json()
    values["config"]["serving_dir"] = serving
    baseline.mkdir()
    (tmp_path / "output/serving/mnist/1").rename(baseline / "Format-Serving")
    assert words(section(text_of(parse(values), tmp_path), "changes")).endswith("training.seed 7 1")


def test_forced_and_allowed_are_visible(make_run, tmp_path: pathlib.Path) -> None:
    finding = {
        "name": "label-noise", "sentence": "Some labels look wrong.", "measured": 0.1, "limit": 0.05, "count": 2,
        "examples": ["train-images-idx3-ubyte#5", "train-images-idx3-ubyte#999"], "allowed": True,
    }  # fmt: skip
    text = text_of(make_run(forced="the deadline", findings=[finding]), tmp_path)
    verdict = words(section(text, "verdict"))
    assert "Forced past the model gate. Reason: the deadline" in verdict
    assert "A finding was allowed: label-noise. Some labels look wrong." in verdict
    assert "label-noise (allowed) : Some labels look wrong. 2 examples. 5 #5" in words(section(text, "data"))


def test_no_notice_without_force_or_allowed_finding(make_run, tmp_path: pathlib.Path) -> None:
    text = text_of(make_run(), tmp_path)
    assert "Forced" not in text
    assert "was allowed" not in text


def test_a_run_that_the_data_gate_stopped(make_run, tmp_path: pathlib.Path) -> None:
    values = make_run().to_json()
    artifacts = values["artifacts"].items()
    artifacts = {name: path for name, path in artifacts if name.split(".")[0] not in ("train", "evaluate")}
    finding = {
        "name": "blank", "sentence": "One image is blank.", "measured": 1, "limit": 0, "count": 1,
        "examples": ["val-images-idx3-ubyte#3"], "allowed": False,
    }  # fmt: skip
    values |= {
        "verdict": "stopped", "reason": "One image is blank.", "sentence": "STOPPED: One image is blank.",
        "metrics": None, "baseline": None, "model": None, "candidate": None, "artifacts": artifacts,
        "findings": [finding],
        "gates": [{"name": "data", "measured": 1, "limit": 0, "passed": False, "reason": "One image is blank."}],
    }  # fmt: skip
    text = text_of(parse(values), tmp_path)
    assert "STOPPED: One image is blank." in words(section(text, "verdict"))
    assert "blank : One image is blank. 1 example" in words(section(text, "data")).replace("examples", "example")
    assert [name for name in SECTIONS if section(text, name)] == ["verdict", "data", "lineage", "stages"]


def test_a_run_that_failed_at_once(make_run, tmp_path: pathlib.Path) -> None:
    unknown = dict.fromkeys(("dataset", "config", "model", "candidate", "metrics", "baseline", "fingerprint", "log"))
    record = make_run(verdict="failed", reason="no disk", sentence=None, gates=[], stages=[], artifacts={}, **unknown)
    text = text_of(record, tmp_path)
    assert "no disk" in words(section(text, "verdict"))
    assert [name for name in SECTIONS if section(text, name)] == ["verdict", "lineage", "stages"]


def test_a_missing_artifact_costs_its_part_only(make_run, tmp_path: pathlib.Path) -> None:
    record = make_run()
    (pathlib.Path(record.artifacts["train.model_run"]) / "training.json").unlink()
    text = text_of(record, tmp_path)
    assert "the training: FileNotFoundError" in words(section(text, "verdict"))
    assert not section(text, "training")
    assert section(text, "confusion")


def test_all_text_is_escaped(make_run, tmp_path: pathlib.Path) -> None:
    values = make_run(forced=HOSTILE, reason=HOSTILE, sentence=HOSTILE, log=f"/tmp/{HOSTILE}").to_json()
    values["dataset"] |= {"name": HOSTILE, "choice": HOSTILE}
    values["gates"][0] |= {"name": HOSTILE, "reason": HOSTILE, "passed": False}
    values["stages"][0] |= {"name": HOSTILE}
    values["config"]["training"] |= {"model": HOSTILE}
    values["model"] |= {"type": HOSTILE}
    text = text_of(parse(values), tmp_path)
    assert "alert(" in text
    assert "<script>alert" not in text
    assert HOSTILE in html.unescape(text)


def test_charts_are_in_the_page_as_json(make_run, tmp_path: pathlib.Path) -> None:
    text = text_of(make_run(), tmp_path)
    charts = [json.loads(script) for script in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    assert len(charts) == 6
    losses = charts[2]["data"]["values"]
    assert {(row["step"], row["on"], row["value"]) for row in losses} == {
        (10, "train", 1.5), (10, "val", 1.25), (20, "train", 0.5), (20, "val", 0.25)
    }  # fmt: skip


def test_slices_of_both_models(make_run) -> None:
    values = make_run().to_json()
    values["metrics"]["slices"] = {"ink_share": {"little": {"accuracy": 0.75, "examples": 8}}}
    values["baseline"]["metrics"]["slices"] = {"ink_share": {"little": {"accuracy": 0.5, "examples": 8}}}
    [(feature, chart)] = content.gather_report(parse(values))["evaluation"]["slice_charts"].items()
    assert feature == "ink share"
    assert [(row["model"], row["value"], row["count"]) for row in chart["data"]["values"]] == [
        ("candidate", 0.75, 8), ("baseline", 0.5, 8)
    ]  # fmt: skip


def test_comparison(make_run, tmp_path: pathlib.Path) -> None:
    run_a = make_run("20260101-000000-aaaa")
    values = make_run("20260102-000000-bbbb", forced="a reason").to_json()
    values["metrics"]["accuracy"] = 0.875
    values["config"]["training"]["seed"] = 3
    text = page.write_comparison(run_a, parse(values), tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "accuracy 95.00% 87.50% -7.50 points" in words(section(text, "metrics"))
    assert "recall of 4 50.00% 50.00% +0.00 points" in words(section(text, "metrics"))
    assert "training.seed 1 3" in words(section(text, "settings"))
    assert "Forced past the model gate. a reason" in words(text)
    assert "The data differ" not in text
    assert "accuracy vs production ✓ pass" in words(section(text, "gates"))


def test_comparison_of_predictions_on_the_same_images(make_run, tmp_path: pathlib.Path) -> None:
    run_a, run_b = make_run("20260101-000000-aaaa"), make_run("20260102-000000-bbbb")
    path = pathlib.Path(run_a.artifacts["evaluate.checks"]) / "predictions.npz"
    arrays = dict(np.load(path))
    for predictions, sentence in (
        (
            BASELINE,
            "B is 5.00 points more accurate than A. The 95 % interval of the difference is -11.83 to +21.83 points.",
        ),
        (CANDIDATE, "B is as accurate as A. The 95 % interval of the difference is +0.00 to +0.00 points."),
        (LABELS, "B is 5.00 points less accurate than A."),
    ):
        np.savez(path, **arrays | {"candidate": probabilities(predictions)})
        text = page.write_comparison(run_a, run_b, tmp_path / "compare.html").read_text(encoding="utf-8")
        assert f"On the same test images, {sentence}" in words(section(text, "metrics"))


def test_comparison_of_runs_on_other_data_without_predictions(make_run, tmp_path: pathlib.Path) -> None:
    dataset = {"name": "digits", "sha256": "00"}
    run_a = make_run("20260101-000000-aaaa")
    run_b = make_run("20260102-000000-bbbb", metrics=None, artifacts={}, dataset=dataset)
    text = page.write_comparison(run_a, run_b, tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "The data differ" in text
    assert not section(text, "galleries")
    assert "accuracy 95.00% – –" in words(section(text, "metrics"))


TRIALS: Any = {
    "trials": [
        {
            "number": number, "values": {"learning_rate": rate, "batch_size": 1024}, "state": state,
            "val_accuracy": score, "val_loss": score and 0.25,
            "seconds": score and 75.0, "steps": score and 1075, "reason": reason,
        }
        for number, rate, state, score, reason in (
            (1, 0.005, "done", 0.9812, None),
            (2, 0.0199999, "diverged", None, "its loss was <nan>"),
            (3, 0.00123456, "done", 0.9875, None),
        )
    ],
    "winner": 3,
    "space": {"learning_rate": "0.00125 to 0.02", "batch_size": "512, 1024"},
    "share": 0.25,
}  # fmt: skip


def test_trials_best_first_with_winner_and_defaults(make_run, tmp_path: pathlib.Path) -> None:
    text = section(text_of(make_run(tuning=TRIALS), tmp_path), "tuning")
    assert "3 trials, each on 25 % of the images" in words(text)
    assert "Trial 3 is the best, with 98.75%; trial 1" in words(text)
    assert "trial 1, which has the values that a run without a search uses, has 98.12%." in words(text)
    rows = [words(row) for row in re.findall(r"<tr data-trial=.\d.>(.*?)</tr>", text, re.DOTALL)]
    assert rows == [
        "3 0.00123 1024 98.75% 0.2500 1,075 1 min 15 s ✓ best",
        "1 0.005 1024 98.12% 0.2500 1,075 1 min 15 s values without a search",
        "2 0.02 1024 diverged its loss was <nan>",
    ]
    assert "learning rate 0.00125 to 0.02" in words(text)
    assert "<nan>" not in text


def test_a_search_whose_first_trial_is_the_best(make_run, tmp_path: pathlib.Path) -> None:
    tuning = TRIALS | {"winner": 1, "trials": [TRIALS["trials"][0]]}
    text = text_of(make_run(tuning=tuning), tmp_path)
    assert "None beat the first" in words(section(text, "tuning"))
    assert '<a href="#tuning">' in text
    assert 'id="tuning"' not in text_of(make_run("20260101-000000-bbbb"), tmp_path)


def test_a_search_whose_first_trial_diverged(make_run, tmp_path: pathlib.Path) -> None:
    first = TRIALS["trials"][1] | {"number": 1}
    tuning = TRIALS | {"trials": [first, TRIALS["trials"][2]]}
    text = words(section(text_of(make_run(tuning=tuning), tmp_path), "tuning"))
    assert "trial 1, which has the values that a run without a search uses, diverged." in text
