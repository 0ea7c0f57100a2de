# SPDX-License-Identifier: Apache-2.0
"""Baseline and Push as the graph runs them, on tiny SavedModels."""

import hashlib
import json
import pathlib
from typing import Any

import pytest
import tensorflow as tf
from tfx.types import artifact, standard_artifacts
from tfx.types.channel import Channel

from components import findings, paths
from components.artifacts import Checks
from components.errors import BadInput, GateStopped, NotBlessed
from components.push import component, model_card, model_digest, rollback
from tests import object_stores
from tests.transform import stages


class Adder(tf.Module):
    def __init__(self, value: float):
        super().__init__()
        self.value = tf.Variable(value)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return x + self.value


def at(kind: Any, folder: pathlib.Path) -> artifact.Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    result = kind()
    result.uri = str(folder)
    return result


def candidate(folder: pathlib.Path, value: float, accuracy: float = 0.9) -> dict[str, artifact.Artifact]:
    """All that Push reads, around a model that adds `value`."""
    tf.saved_model.save(Adder(value), str(folder / "model" / "Format-Serving"))
    (folder / "model" / "keras").mkdir()
    (folder / "model" / "keras" / "model.keras").write_bytes(b"keras")
    inputs = {
        "model": at(standard_artifacts.Model, folder / "model"),
        "model_run": at(standard_artifacts.ModelRun, folder / "run"),
        "examples": at(standard_artifacts.Examples, folder / "examples"),
        "statistics": at(standard_artifacts.ExampleStatistics, folder / "statistics"),
        "schema": at(standard_artifacts.Schema, folder / "schema"),
        **{f"{name}_checks": at(Checks, folder / name) for name in ("data", "infra", "model")},
    }
    (folder / "run" / "training.json").write_text(
        '{"parameters": 1, "steps": 2, "hyperparameters": {"model": "cnn", "seed": 4}}'
    )
    (folder / "statistics" / "Split-train").mkdir()
    (folder / "statistics" / "Split-train" / "FeatureStats.pb").write_bytes(b"statistics")
    (folder / "schema" / "schema.pbtxt").write_text("")
    for name in ("data", "infra", "model"):
        findings.write(folder / name)
    (folder / "model" / "metrics.json").write_text(json.dumps({"candidate": {"accuracy": accuracy}}))
    examples = inputs["examples"]
    examples.set_string_custom_property("dataset", "mnist")
    examples.set_string_custom_property("dataset_sha256", "ab")
    examples.set_int_custom_property("images", 10)
    source = {"files": {"images": "cd"}, "splits": {"train": 8, "test": 2}}
    (folder / "examples" / "source.json").write_text(json.dumps(source))
    return inputs


def baseline(serving: pathlib.Path | str, folder: pathlib.Path) -> dict[str, artifact.Artifact]:
    return stages.run(component.baseline(serving_dir=str(serving), state=""), {}, folder)


def push(
    serving: pathlib.Path | str,
    inputs: dict[str, artifact.Artifact],
    against: Any,
    folder: pathlib.Path,
    forced: str | None = None,
    run_id: str = "r1",
    **facts: Any,
) -> Any:
    channels = {key: Channel(type=type(value)) for key, value in {**inputs, "baseline": against}.items()}
    node = component.push(
        serving_dir=str(serving), run=json.dumps({"run_id": run_id, "forced": forced, **facts}), **channels
    )
    return stages.run(node, {**inputs, "baseline": against}, folder)["pushed_model"]


def test_without_a_model_the_baseline_is_an_artifact_that_is_not_resolved(tmp_path: pathlib.Path) -> None:
    outputs = baseline(tmp_path / "serving", tmp_path / "out")
    for key in ("baseline", "best"):
        assert outputs[key].get_int_custom_property("resolved") == 0
        assert list(pathlib.Path(outputs[key].uri).iterdir()) == []


def test_a_pushed_model_is_the_next_baseline_and_best_is_the_most_accurate(tmp_path: pathlib.Path) -> None:
    serving = tmp_path / "serving"
    for number, accuracy in enumerate((0.97, 0.95), start=1):
        against = baseline(serving, tmp_path / f"before{number}")["baseline"]
        inputs = candidate(tmp_path / f"candidate{number}", float(number), accuracy)
        pushed = push(serving, inputs, against, tmp_path / f"pushed{number}")
        assert pushed.get_int_custom_property("pushed") == 1
        assert pushed.get_int_custom_property("version") == number
    outputs = baseline(serving, tmp_path / "after")
    assert outputs["baseline"].get_int_custom_property("version") == 2
    assert outputs["best"].get_int_custom_property("version") == 1
    assert outputs["baseline"].get_string_custom_property("dataset") == "mnist"
    loaded = tf.saved_model.load(f"{outputs['baseline'].uri}/Format-Serving")
    assert loaded(tf.constant([1.0])).numpy() == [3.0]
    provenance = json.loads((serving / "2" / "assets.extra" / "provenance.json").read_text())
    assert provenance["run_id"] == "r1"
    assert provenance["dataset"] == {
        "name": "mnist", "sha256": "ab", "images": 10, "span": None,
        "files": {"images": "cd"}, "splits": {"train": 8, "test": 2}, "excluded": {},
    }  # fmt: skip
    assert provenance["schema"] == {"sha256": hashlib.sha256(b"").hexdigest()}
    assert json.loads(pushed.get_string_custom_property("provenance")) == provenance
    card = json.loads((serving / "2" / "assets.extra" / "model_card.json").read_text())
    assert card == model_card.build_card(provenance)
    assert (serving / "2" / "assets.extra" / "model_card.md").read_text() == model_card.render_markdown(card)


def test_a_candidate_judged_against_what_is_no_longer_in_production_is_refused(tmp_path: pathlib.Path) -> None:
    serving = tmp_path / "serving"
    against = baseline(serving, tmp_path / "before")["baseline"]
    push(serving, candidate(tmp_path / "candidate", 1.0), against, tmp_path / "pushed1")
    before = paths.tree_digest(serving)
    with pytest.raises(GateStopped, match="that was version none, now it is 1"):
        push(serving, candidate(tmp_path / "two", 2.0), against, tmp_path / "pushed2")
    assert paths.tree_digest(serving) == before


def test_the_same_model_is_not_pushed_again_though_its_files_differ(tmp_path: pathlib.Path) -> None:
    serving = tmp_path / "serving"
    push(
        serving, candidate(tmp_path / "candidate", 1.0), baseline(serving, tmp_path / "b1")["baseline"], tmp_path / "p1"
    )
    again = candidate(tmp_path / "two", 1.0)
    exported = pathlib.Path(again["model"].uri) / "Format-Serving"
    assert (exported / "fingerprint.pb").read_bytes() != (serving / "1" / "fingerprint.pb").read_bytes()
    pushed = push(serving, again, baseline(serving, tmp_path / "b2")["baseline"], tmp_path / "p2", run_id="r2")
    assert pushed.get_int_custom_property("pushed") == 0
    assert pushed.get_int_custom_property("version") == 1
    assert [path.name for path in serving.iterdir()] == ["1"]


def test_a_second_try_of_a_push_that_came_through_is_no_failure(tmp_path: pathlib.Path) -> None:
    serving = tmp_path / "serving"
    against = baseline(serving, tmp_path / "before")["baseline"]
    inputs = candidate(tmp_path / "candidate", 1.0)
    for attempt in ("first", "second"):
        pushed = push(serving, inputs, against, tmp_path / attempt)
        assert pushed.get_int_custom_property("pushed") == 1
        assert pushed.get_int_custom_property("version") == 1
    assert [path.name for path in serving.iterdir()] == ["1"]


def test_an_object_store_is_pushed_to_and_read_as_a_folder_is(tmp_path: pathlib.Path) -> None:
    serving = "s3://models/serving/mnist"
    with object_stores.running() as server:
        server.bucket("models")
        first = baseline(serving, tmp_path / "before1")["baseline"]
        assert first.get_int_custom_property("resolved") == 0
        push(serving, candidate(tmp_path / "candidate", 1.0, 0.97), first, tmp_path / "pushed1")
        against = baseline(serving, tmp_path / "before2")["baseline"]
        pushed = push(serving, candidate(tmp_path / "two", 2.0, 0.95), against, tmp_path / "pushed2", run_id="r2")
        assert pushed.get_int_custom_property("version") == 2
        assert pushed.get_string_custom_property("path") == f"{serving}/2"
        outputs = baseline(serving, tmp_path / "after")
        assert [outputs[key].get_int_custom_property("version") for key in ("baseline", "best")] == [2, 1]
        for key, added in (("baseline", 2.0), ("best", 1.0)):
            loaded = tf.saved_model.load(f"{outputs[key].uri}/Format-Serving")
            assert loaded(tf.constant([1.0])).numpy() == [1.0 + added]
        with pytest.raises(GateStopped, match="that was version 1, now it is 2"):
            push(serving, candidate(tmp_path / "three", 3.0), against, tmp_path / "pushed3", run_id="r3")
        again = push(serving, candidate(tmp_path / "four", 2.0), against, tmp_path / "pushed4", run_id="r4")
        assert again.get_int_custom_property("pushed") == 0


def test_a_store_that_cannot_be_pushed_to_is_refused_before_any_work(tmp_path: pathlib.Path) -> None:
    with object_stores.running() as server:
        server.bucket("models")
        server.conditions = False
        with pytest.raises(BadInput, match="refuses to create an object twice"):
            baseline("s3://models/serving/mnist", tmp_path / "before")


def test_other_weights_or_another_program_are_another_model(tmp_path: pathlib.Path) -> None:
    class Doubler(Adder):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            return 2 * x + self.value

    digests = []
    for name, model in (("a", Adder(1.0)), ("b", Adder(1.0)), ("c", Adder(1.5)), ("d", Doubler(1.0))):
        tf.saved_model.save(model, str(tmp_path / name))
        digests.append(model_digest.model_digest(tmp_path / name))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_model_that_a_rollback_took_out_of_production_does_not_come_back_by_itself(tmp_path: pathlib.Path) -> None:
    serving = tmp_path / "serving"
    for number in (1, 2):
        against = baseline(serving, tmp_path / f"before{number}")["baseline"]
        push(serving, candidate(tmp_path / f"candidate{number}", float(number)), against, tmp_path / f"pushed{number}")
    rollback.roll_back(serving, rollback.choose(serving, None), "it takes sevens for ones")
    against = baseline(serving, tmp_path / "after")["baseline"]
    before = paths.tree_digest(serving)
    again = candidate(tmp_path / "again", 2.0)
    with pytest.raises(GateStopped, match=r"This very model was version 2, which a rollback by .* took out"):
        push(serving, again, against, tmp_path / "refused")
    assert paths.tree_digest(serving) == before
    assert (
        push(serving, again, against, tmp_path / "forced", forced="it does not").get_int_custom_property("version") == 4
    )
    # Forced back, it is withdrawn no longer.
    assert rollback.withdrawn_models(serving) == {}


def test_the_provenance_has_what_was_trained_with(tmp_path: pathlib.Path) -> None:
    serving = tmp_path / "serving"
    against = baseline(serving, tmp_path / "before")["baseline"]
    inputs = candidate(tmp_path / "candidate", 1.0, 0.9)
    config = {"training": {"model": "cnn", "seed": 3}, "tune": 2}
    push(serving, inputs, against, tmp_path / "pushed", config=config)
    extra = serving / "1" / "assets.extra"
    used = {"training": {"model": "cnn", "seed": 4}, "tune": 2}
    assert json.loads((extra / "provenance.json").read_text())["config"] == used
    assert json.loads((extra / "model_card.json").read_text())["config"] == used


def failed_check(folder: pathlib.Path, reason: str) -> None:
    findings.write(folder, gates=[findings.GateResult("accuracy-floor", 0.5, 0.9, False, reason)])


@pytest.mark.parametrize("forced", [None, "we need it"])
def test_a_failed_check_of_the_infrastructure_stops_also_a_forced_run(tmp_path: pathlib.Path, forced: Any) -> None:
    serving = tmp_path / "serving"
    against = baseline(serving, tmp_path / "before")["baseline"]
    inputs = candidate(tmp_path / "candidate", 1.0)
    failed_check(tmp_path / "candidate" / "infra", "it takes 2 s for an image")
    failed_check(tmp_path / "candidate" / "model", "the accuracy is 50.00%")
    with pytest.raises(GateStopped, match="it takes 2 s for an image") as stopped:
        push(serving, inputs, against, tmp_path / "refused", forced=forced)
    assert not isinstance(stopped.value, NotBlessed)
    assert not serving.exists()


def test_a_failed_check_of_the_model_stops_all_but_a_forced_run(tmp_path: pathlib.Path) -> None:
    serving = tmp_path / "serving"
    against = baseline(serving, tmp_path / "before")["baseline"]
    inputs = candidate(tmp_path / "candidate", 1.0)
    failed_check(tmp_path / "candidate" / "model", "the accuracy is 50.00%")
    for attempt in ("first", "second"):
        with pytest.raises(NotBlessed, match=r"the accuracy is 50\.00%"):
            push(serving, inputs, against, tmp_path / attempt)
    assert not serving.exists()
    assert push(serving, inputs, against, tmp_path / "forced", forced="we need it").get_int_custom_property("pushed")


def test_a_refused_model_that_is_in_production_is_refused_all_the_same(tmp_path: pathlib.Path) -> None:
    serving = tmp_path / "serving"
    push(
        serving, candidate(tmp_path / "candidate", 1.0), baseline(serving, tmp_path / "b1")["baseline"], tmp_path / "p1"
    )
    again = candidate(tmp_path / "two", 1.0)
    failed_check(tmp_path / "two" / "model", "the accuracy is 50.00%")
    with pytest.raises(NotBlessed):
        push(serving, again, baseline(serving, tmp_path / "b2")["baseline"], tmp_path / "p2", run_id="r2")
