# SPDX-License-Identifier: Apache-2.0
"""The lineage command on models that were pushed without a run: usage, what is answered, what a person sees."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2

from components.push import labels, publish, rollback, versions
from pipeline import lineage, metadata
from tests.push.test_card import PROVENANCE


def push(output: pathlib.Path, **changed: Any) -> versions.Version:
    source = output / "source"
    source.mkdir(parents=True, exist_ok=True)
    (source / "saved_model.pb").write_bytes(b"graph")
    return publish.publish(
        source, output / "serving" / "mnist", {}, lambda number: {**PROVENANCE, **changed, "version": number}
    )


@pytest.fixture
def output(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two versions, of which the second has another seed, other data and a better figure; no metadata."""
    push(tmp_path)
    push(
        tmp_path,
        run_id="other",
        model={**PROVENANCE["model"], "sha256": "30de2"},
        config={"serving_name": "mnist", "training": {"model": "cnn", "seed": 8}},
        dataset={**PROVENANCE["dataset"], "sha256": "ffff"},
        metrics={**PROVENANCE["metrics"], "accuracy": 0.995},
        findings=[],
    )
    return tmp_path


def answered(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert lineage.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_without_a_version_it_is_the_one_in_production(
    output: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answered(capsys, "--output", str(output))["version"] == 2
    labels.change(output / "serving" / "mnist", 2, "canary")
    told = answered(capsys, "--output", str(output))
    assert (told["version"], told["production"], told["labels"]) == (1, True, [])
    told = answered(capsys, "2", "--output", str(output))
    assert (told["production"], told["labels"]) == (False, ["canary"])


def test_a_person_sees_all_of_it(output: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lineage.main(["1", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    for told in (
        f"There are no metadata in {output / 'metadata.db'}. What lies beside the model answers instead.",
        "mnist, version 1 (not in production)", "2026-03-01T12:00:00+00:00", "beef", "c0de", "10c4", "5c4e", "da7a",
        "70,000: 55,000 train, 5,000 val, 10,000 test", "SHA-256 of train-images-idx3-ubyte  f11e", "training.seed",
        "99.00% (95 % interval 98.79% to 99.18%)", "50.00%, class 1", "version 2, accuracy 98.50%",
        "version 1, accuracy 98.90%", "accuracy-floor", "it is enough", "12 labels look wrong", "CC BY-SA 3.0",
    ):  # fmt: skip
        assert " ".join(told.split()) in " ".join(shown.split()), told


def test_markup_in_what_was_given_is_no_markup(output: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(output, forced="[bold red]because[/] \x1b[31m")
    assert lineage.main(["--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "[bold red]because[/]" in shown
    assert "\x1b" not in shown


def test_two_versions_are_compared(output: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, "--compare", "1", "2", "--output", str(output))
    assert found["compared"] == [1, 2]
    assert found["differences"] == [
        {"name": "model.sha256", "one": "30de1", "other": "30de2"},
        {"name": "data.sha256", "one": "da7a", "other": "ffff"},
        {"name": "config.training.seed", "one": 7, "other": 8},
        {"name": "metrics.accuracy", "one": 0.99, "other": 0.995},
        {"name": "findings.label-noise", "one": 1, "other": None},
    ]
    assert found["different"] == ["model", "data", "config", "metrics", "findings"]
    assert {"schema", "code", "dependencies", "gates", "baseline", "best"} <= set(found["same"])
    assert lineage.main(["--compare", "1", "2", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "Different: model, data, config, metrics, findings." in shown
    assert ["config.training.seed", "7", "8"] in [line.split() for line in shown.splitlines()]


def test_a_version_does_not_differ_from_itself(output: pathlib.Path) -> None:
    one = lineage.model_lineage(output / "serving" / "mnist", output / "metadata.db", 1)
    assert lineage.differences(one, one)["differences"] == []


def test_json_goes_to_a_file(output: pathlib.Path, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    assert lineage.main(["1", "--output", str(output), "--json", str(tmp_path / "told.json")]) == 0
    assert json.loads((tmp_path / "told.json").read_text())["version"] == 1
    assert "mnist, version 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["9"], "9 was not. Known are: 1, 2"),
        (["--compare", "1", "9"], "9 was not"),
        (["1", "--compare", "1", "2"], "not both"),
        (["one"], "invalid int value"),
        (["--serving-name", "other"], "the one in production is meant; there is none in"),
        (["1", "--json", "/proc/none/file"], "--json names a file"),
    ],
)
def test_wrong_usage_is_one_line(
    output: pathlib.Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert lineage.main(["--output", str(output), *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert told in errors


def test_it_needs_no_tensorflow() -> None:
    program = (
        "import sys\n"
        "from pipeline import lineage, metadata\n"
        "from pipeline.local import housekeeping\n"
        "assert not {'tensorflow', 'tfx', 'apache_beam'} & {name.partition('.')[0] for name in sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=pathlib.Path(__file__).parents[2])


def test_a_rollback_leads_to_the_run_that_trained_the_model(output: pathlib.Path) -> None:
    store = _store(output / "metadata.db")
    serving = output / "serving" / "mnist"
    train = _execute(store, "Train", {"model": ("Model", "trained")}, [])
    for version in versions.all_versions(serving):
        properties = {"pushed": 1, "version": version.number, "path": version.location}
        _execute(
            store, "Push", {"pushed_model": ("PushedModel", version.location)}, train, properties, version.provenance
        )
    origin = metadata.matching(
        metadata.pushed(store), 1, str(serving / "1"), versions.find_version(serving, 1).provenance
    )
    new = rollback.roll_back(serving, rollback.choose(serving, 1), "why")
    metadata.record_rollback(store, origin, new.number, new.location, new.provenance)
    told = lineage.model_lineage(serving, output / "metadata.db", 3)
    assert (told["source"], told["note"]) == ("ML Metadata", None)
    assert told["rollback"]["of"] == 1
    assert [step["stage"] for step in told["steps"]] == ["train", "push", "rollback"]
    # Pushes that another folder of the same number got are not taken for this one.
    assert metadata.matching(metadata.pushed(store), 1, "/elsewhere/other/1", {}) is None
    assert metadata.matching(metadata.pushed(store), 1, "/elsewhere/mnist/1", {}) == origin


def _store(database: pathlib.Path) -> metadata_store.MetadataStore:
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(database)
    connection.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return metadata_store.MetadataStore(connection)


def _execute(
    store: metadata_store.MetadataStore,
    stage: str,
    outputs: dict[str, tuple[str, str]],
    inputs: list[Any],
    told: dict[str, Any] | None = None,
    provenance: dict[str, Any] | None = None,
) -> list[Any]:
    """Notes an execution; returns the artifacts that it made."""
    execution = metadata_store_pb2.Execution(
        type_id=store.put_execution_type(metadata_store_pb2.ExecutionType(name=stage)),
        last_known_state=metadata_store_pb2.Execution.COMPLETE,
    )
    pairs = [(one, _event(metadata_store_pb2.Event.INPUT, "model")) for one in inputs]
    for key, (kind, uri) in outputs.items():
        type_id = store.put_artifact_type(metadata_store_pb2.ArtifactType(name=kind))
        artifact = metadata_store_pb2.Artifact(type_id=type_id, uri=uri)
        for name, value in (told or {}).items():
            field = "int_value" if isinstance(value, int) else "string_value"
            setattr(artifact.custom_properties[name], field, value)
        if provenance:
            artifact.custom_properties["provenance"].string_value = json.dumps(provenance)
        pairs.append((artifact, _event(metadata_store_pb2.Event.OUTPUT, key)))
    _, ids, _ = store.put_execution(execution, pairs, [])
    return store.get_artifacts_by_id(ids[len(inputs) :])


def _event(kind: Any, key: str) -> metadata_store_pb2.Event:
    event = metadata_store_pb2.Event(type=kind)
    event.path.steps.add(key=key)
    return event
