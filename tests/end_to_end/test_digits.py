# SPDX-License-Identifier: Apache-2.0
"""The whole pipeline on the embedded digits: first push, nothing changed, a worse model, an equally good one."""

import json
import pathlib
import re
import resource
import subprocess
import sys
from typing import Any

import nbclient
import nbformat
import pytest

from components.ingest import idx
from tests import browser

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def output(copy_output: Any, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the first run's output folder, in which the others run."""
    folder: pathlib.Path = copy_output(tmp_path_factory.mktemp("digits") / "output")
    return folder


@pytest.fixture(scope="module")
def first(pushed_run: Any) -> Any:
    """The first run, which has nothing to compare with."""
    return pushed_run


def test_first_run_pushes_version_1(first: Any) -> None:
    record = first.record
    assert record["verdict"] == "pushed"
    assert record["dataset"]["name"] == "digits"
    assert record["dataset"]["images"] == 1797
    assert record["model"]["version"] == 1
    assert record["model"]["path"] == str(pathlib.Path(record["config"]["output"], "serving", "mnist", "1"))
    assert record["metrics"]["accuracy"] > 0.93
    assert set(record["metrics"]["recall"]) == set("0123456789")
    assert record["baseline"] is None
    assert all(gate["passed"] for gate in record["gates"])
    assert {stage["state"] for stage in record["stages"]} == {"done"}
    assert pathlib.Path(record["log"]).stat().st_size > 0
    assert json.loads((pathlib.Path(record["log"]).parent / "record.json").read_text()) == record


def test_console_is_a_screenful_with_one_verdict_line(first: Any) -> None:
    lines = first.stdout.splitlines()
    assert len(lines) <= 24
    assert [line for line in lines if line.startswith("PUSHED: accuracy ")]
    assert "digits" in lines[0]
    assert first.stderr == ""


def test_provenance_lies_beside_the_model(first: Any, output: pathlib.Path) -> None:
    extra = output / "serving" / "mnist" / "1" / "assets.extra"
    assert {path.name for path in extra.iterdir()} >= {
        "provenance.json",
        "train_stats.pb",
        "schema.pbtxt",
        "model.keras",
    }
    provenance = json.loads((extra / "provenance.json").read_text())
    assert provenance["dataset"]["name"] == "digits"
    assert "digits" in provenance["dataset_choice"]
    assert provenance["run_id"] == first.record["run_id"]
    assert provenance["metrics"] == first.record["metrics"]
    assert provenance["config"]["training"]["train_steps"] == 200


def test_the_pushed_model_answers_with_tensorflow_alone(
    first: Any, output: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    program = (
        "import sys, numpy as np, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "pixels = tf.constant(np.load(sys.argv[2]))\n"
        "answer = model.signatures['serving_pixels'](pixels=pixels)\n"
        "others = {'tfx', 'tensorflow_transform', 'components'} & {name.split('.')[0] for name in sys.modules}\n"
        "assert not others, others\n"
        "np.save(sys.argv[3], answer['classes'].numpy())\n"
    )
    import numpy as np

    images, labels = _digits(tmp_path)
    np.save(tmp_path / "images.npy", images)
    subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            output / "serving" / "mnist" / "1",
            tmp_path / "images.npy",
            tmp_path / "out.npy",
        ],
        check=True,
        cwd=tmp_path,
        capture_output=True,
    )
    assert np.mean(np.load(tmp_path / "out.npy") == labels) == pytest.approx(first.record["metrics"]["accuracy"])


def test_nothing_changed(run: Any, first: Any, output: pathlib.Path, serving_digest: Any) -> None:
    before = serving_digest(output / "serving")
    again = run("--dataset", "digits", "--train-steps", "200", "--output", output)
    assert again.code == 0
    assert again.record["verdict"] == "unchanged"
    assert again.record["run_id"] == first.record["run_id"]
    assert serving_digest(output / "serving") == before


@pytest.fixture(scope="module")
def fresh(run: Any, output: pathlib.Path, serving_digest: Any) -> Any:
    """The first run again, with every stage; with the digest of the serving folder before it."""
    before = serving_digest(output / "serving")
    return run("--dataset", "digits", "--train-steps", "200", "--output", output, "--fresh"), before


def test_the_same_model_trained_afresh_is_not_pushed_again(
    first: Any, fresh: Any, output: pathlib.Path, serving_digest: Any
) -> None:
    result, before = fresh
    assert result.record["verdict"] == "unchanged", result.record["reason"]
    assert result.record["run_id"] != first.record["run_id"]
    assert {stage["state"] for stage in result.record["stages"]} == {"done"}
    assert serving_digest(output / "serving") == before


def test_a_verdict_is_repeated_without_tensorflow_within_two_seconds(
    fresh: Any, output: pathlib.Path, guard: dict[str, str]
) -> None:
    program = (
        "import sys, runner_local\n"
        "code = runner_local.main(sys.argv[1:])\n"
        "heavy = {'tensorflow', 'tfx', 'apache_beam', 'ml_metadata'} & set(sys.modules)\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)\n"
    )
    arguments = ("--dataset", "digits", "--train-steps", "200", "--output", str(output))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    completed = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, env=guard, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert completed.returncode == 0, completed.stderr
    assert f"Nothing has changed since run {fresh[0].record['run_id']}" in completed.stdout
    # Of the processor, so that nothing else on this machine counts.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_a_worse_model_is_refused_with_both_figures(
    run: Any, first: Any, output: pathlib.Path, serving_digest: Any
) -> None:
    before = serving_digest(output / "serving")
    worse = run("--dataset", "digits", "--train-steps", "5", "--output", output)
    assert worse.code == 3
    assert worse.record["verdict"] == "not_blessed"
    states = {stage["name"]: stage["state"] for stage in worse.record["stages"]}
    assert states["ingest"] == states["statistics"] == states["transform"] == "cached"
    assert states["train"] == states["evaluate"] == "done"
    assert states["push"] == "failed"
    [verdict] = [line for line in worse.stdout.splitlines() if line.startswith("NOT BLESSED: ")]
    assert f"{worse.record['metrics']['accuracy']:.2%}" in verdict
    assert f"{first.record['metrics']['accuracy']:.2%}" in verdict
    assert serving_digest(output / "serving") == before
    again = run("--dataset", "digits", "--train-steps", "5", "--output", output)
    assert (again.code, again.record["verdict"]) == (3, "not_blessed")


@pytest.mark.parametrize(("steps", "forced"), [("200", ()), ("5", ("--force-push", "we need it"))])
def test_a_model_that_cannot_be_served_stops_the_run_whatever_it_is_worth(
    run: Any, first: Any, output: pathlib.Path, tmp_path: pathlib.Path, serving_digest: Any, steps: str, forced: Any
) -> None:
    before = serving_digest(output / "serving")
    (tmp_path / "strict.toml").write_text("[infra-gate]\nlatency-ms = 0.000001\n")
    ended = run(
        "--dataset", "digits", "--train-steps", steps, "--output", output, "--config", tmp_path / "strict.toml", *forced
    )  # fmt: skip
    assert (ended.code, ended.record["verdict"]) == (3, "stopped")
    assert "ms" in ended.record["reason"]
    assert {stage["name"]: stage["state"] for stage in ended.record["stages"]}["push"] == "failed"
    assert f"STOPPED: {ended.record['reason']}" in ended.stdout
    assert serving_digest(output / "serving") == before


@pytest.fixture(scope="module")
def second(run: Any, first: Any, output: pathlib.Path) -> Any:
    """An equally good model, which is compared with the first. With this seed it makes mistakes, three of 299."""
    return run("--dataset", "digits", "--train-steps", "200", "--seed", "5", "--output", output)


def test_an_equally_good_model_is_judged_against_the_first(first: Any, second: Any) -> None:
    assert second.record["verdict"] == "pushed", second.record["reason"]
    assert second.record["baseline"]["version"] == 1
    assert second.record["baseline"]["metrics"]["accuracy"] == pytest.approx(first.record["metrics"]["accuracy"])
    assert second.record["model"]["version"] == 2


def test_the_verdict_is_explained(second: Any) -> None:
    """On the console, on a screen of 80 columns, and in the record."""
    metrics, baseline = second.record["metrics"], second.record["baseline"]["metrics"]
    by_name = {gate["name"]: gate for gate in second.record["gates"]}
    change = by_name["change"]
    assert change["measured"] == pytest.approx(metrics["accuracy"] - baseline["accuracy"])
    assert (change["candidate"], change["baseline"]) == (metrics["accuracy"], baseline["accuracy"])
    assert change["interval"] == metrics["intervals"]["change"]
    assert change["interval"][0] <= change["measured"] <= change["interval"][1]
    lines = second.stdout.splitlines()
    top = next(number for number, line in enumerate(lines) if line.startswith("PUSHED: "))
    assert lines[top + 1].split() == ["metric", "candidate", "baseline", "difference", "(95", "%)", "limit"]
    low, high = (f"{100 * end:+.2f}" for end in change["interval"])
    assert lines[top + 2].split() == [
        "accuracy", "vs", "production", f"{metrics['accuracy']:.2%}", f"{baseline['accuracy']:.2%}",
        f"{100 * change['measured']:+.2f}", f"({low}", "to", f"{high})", "-3.50", "✓", "pass",
    ]  # fmt: skip
    assert max(map(len, lines[top + 1 : -1])) <= 80


def test_the_report_says_in_a_browser_what_the_record_says(second: Any, tmp_path: pathlib.Path) -> None:
    record, path = second.record, pathlib.Path(second.record["report"])
    assert path.stat().st_size < 3_000_000
    shown = browser.show(path, tmp_path / "profile")
    assert shown.console == []
    assert "could not be" not in browser.words(shown.dom)
    charts = {"data": 1, "training": 3, "classes": 3, "calibration": 1}
    assert {name: shown.section(name).count("<svg") for name in charts} == charts
    # A page names files by their place in the output folder, with which it may be moved.
    sentence = record["sentence"].replace(str(path.parents[2]), ".")
    assert sentence in browser.words(shown.section("verdict"))
    table = dict(re.findall(r'<tr data-gate="([^"]*)">(.*?)</tr>', shown.section("verdict"), re.DOTALL))
    assert list(table) == [gate["name"] for gate in record["gates"]]
    assert all("✓ pass" in row for row in table.values())
    low, high = (f"{100 * end:+.2f}" for end in record["metrics"]["intervals"]["change"])
    assert f"{low} to {high}" in browser.words(table["change"])
    evaluation = browser.words(shown.section("evaluation"))
    for model, metrics in (
        ("candidate", record["metrics"]), ("baseline (version 1)", record["baseline"]["metrics"])
    ):  # fmt: skip
        ends = metrics["intervals"]
        assert (
            f"{model} {metrics['accuracy']:.2%} {ends['accuracy'][0]:.2%} – {ends['accuracy'][1]:.2%} "
            f"{metrics['loss']:.4f} {ends['loss'][0]:.4f} – {ends['loss'][1]:.4f} {metrics['top2']:.2%} "
            f"{metrics['calibration']['error']:.2%}"
        ) in evaluation
    rows = dict(re.findall(r'<tr data-class="(\d)">(.*?)</tr>', shown.section("classes"), re.DOTALL))
    for name, row in rows.items():
        cells = browser.words(row).split()
        assert int(cells[1]) == sum(record["metrics"]["confusion"][int(name)])
        assert cells[2] == f"{record['metrics']['recall'][name]:.2%}"
    counts = re.findall(r"<td class=\"(?:zero|right|wrong)\"[^>]*>(\d+)", shown.section("confusion"))
    assert list(map(int, counts)) == [count for row in record["metrics"]["confusion"] for count in row]
    wrong = sum(map(sum, record["metrics"]["confusion"])) - sum(
        record["metrics"]["confusion"][index][index] for index in range(10)
    )
    assert shown.section("gallery").partition("Right for the baseline")[0].count("<img") == wrong
    assert record["dataset"]["sha256"] in shown.section("lineage")
    assert "training.seed 1 5" in browser.words(shown.section("changes"))
    for stage in record["stages"]:
        assert f"{stage['name']} {stage['state']}" in browser.words(shown.section("stages"))


def test_the_notebook_shows_the_same(
    second: Any, output: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = second.record
    monkeypatch.setenv("OUTPUT_DIR", str(output))
    monkeypatch.setenv("RUN_ID", record["run_id"])
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    path = pathlib.Path(__file__).parents[2] / "docs" / "review.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # kept without results
    folder = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=folder).execute()
    results = [result for cell in notebook.cells for result in cell.get("outputs", ())]
    assert {result.output_type for result in results} <= {"execute_result", "display_data"}
    text = "\n".join(result.data.get("text/plain", "") for result in results)
    html = "\n".join(result.data.get("text/html", "") for result in results)
    words = browser.words(html)
    assert record["sentence"] in text
    low, high = record["metrics"]["intervals"]["change"]
    for name, figures in (("candidate", record["metrics"]), ("baseline", record["baseline"]["metrics"])):
        ends = figures["intervals"]["accuracy"]
        # TFMA's own end may be above 1, which the record cuts off.
        assert f"sparse_categorical_accuracy {figures['accuracy']:.6f} {ends[0]:.6f}" in words, name
    assert re.search(rf"sparse_categorical_accuracy_diff \S+ {low:.6f} {high:.6f}", words)
    for row in record["metrics"]["confusion"]:
        assert " ".join(map(str, row)) in words
    assert record["artifacts"]["evaluate.evaluation"] in words
    assert words.count("No anomalies found") == 3
    assert any("image/png" in result.data for result in results)
    assert "http" not in html  # nothing is loaded from elsewhere


def test_force_push_is_recorded(run: Any, first: Any, output: pathlib.Path) -> None:
    reason = "to see whether anyone looks"
    forced = run("--dataset", "digits", "--train-steps", "5", "--output", output, "--force-push", reason)
    assert forced.code == 0, forced.record["reason"]
    assert forced.record["forced"] == reason
    assert any(not gate["passed"] for gate in forced.record["gates"])
    assert reason in forced.stdout
    provenance = pathlib.Path(forced.record["model"]["path"]) / "assets.extra" / "provenance.json"
    assert json.loads(provenance.read_text())["forced"] == reason


def test_other_data_than_that_of_production_stops_before_training(
    run: Any, first: Any, output: pathlib.Path, tmp_path: pathlib.Path, serving_digest: Any
) -> None:
    images, labels = _digits(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    for part in ("train", "t10k"):
        idx.write(folder / f"{part}-images-idx3-ubyte", images)
        idx.write(folder / f"{part}-labels-idx1-ubyte", labels)
    before = serving_digest(output / "serving")
    stopped = run("--data-dir", folder, "--profile", "digits", "--output", output)
    assert stopped.code == 3
    assert stopped.record["verdict"] == "stopped"
    assert "dataset-changed" in {finding["name"] for finding in stopped.record["findings"]}
    assert {s["name"]: s["state"] for s in stopped.record["stages"]}["train"] == "skipped"
    assert serving_digest(output / "serving") == before


def _digits(cache: pathlib.Path) -> Any:
    """The test split's images and labels."""
    from components import features
    from components.ingest import source

    dataset = source.resolve("digits", image_shape=features.IMAGE_SHAPE, cache_dir=cache).source
    _, contents = source.load(dataset.directory, None, features.IMAGE_SHAPE, "digits")
    return contents[idx.TEST_IMAGES].array, contents[idx.TEST_LABELS].array
