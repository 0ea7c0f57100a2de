# SPDX-License-Identifier: Apache-2.0
"""The lineage command on models that were pushed without a run: usage, JSON, and printed text."""

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


def push(output: pathlib.Path, **fields: Any) -> versions.Version:
    source = output / "source"
    source.mkdir(parents=True, exist_ok=True)
    (source / "saved_model.pb").write_bytes(b"graph")
    return publish.publish(
        source, output / "serving" / "mnist", {}, lambda number: {**PROVENANCE, **fields, "version": number}
    )


@pytest.fixture
def output(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two versions, of which the second has another seed, other data and a higher accuracy; no metadata."""
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


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert lineage.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_without_a_version_it_is_the_one_in_production(
    output: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_json(capsys, "--output", str(output))["version"] == 2
    labels.change(output / "serving" / "mnist", 2, "canary")
    values = run_json(capsys, "--output", str(output))
    assert (values["version"], values["production"], values["labels"]) == (1, True, [])
    values = run_json(capsys, "2", "--output", str(output))
    assert (values["production"], values["labels"]) == (False, ["canary"])


def test_the_lineage_is_printed(output: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lineage.main(["1", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    for text in (
        f"There are no metadata in {output / 'metadata.db'}. The facts are from provenance.json instead.",
        "mnist, version 1 (not in production)", "2026-03-01T12:00:00+00:00", "beef", "c0de", "10c4", "5c4e", "da7a",
        "70,000: 55,000 train, 5,000 val, 10,000 test", "SHA-256 of train-images-idx3-ubyte  f11e", "training.seed",
        "99.00% (95 % interval 98.79% to 99.18%)", "50.00%, class 1", "version 2, accuracy 98.50%",
        "version 1, accuracy 98.90%", "accuracy-floor", "it is enough", "12 labels look wrong", "CC BY-SA 3.0",
    ):  # fmt: skip
        assert " ".join(text.split()) in " ".join(printed.split()), text


def test_markup_in_a_reason_is_text(output: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(output, forced="[bold red]because[/] \x1b[31m")
    assert lineage.main(["--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "[bold red]because[/]" in printed
    assert "\x1b" not in printed


def test_two_versions_are_compared(output: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "--compare", "1", "2", "--output", str(output))
    assert result["compared"] == [1, 2]
    assert result["differences"] == [
        {"name": "model.sha256", "a": "30de1", "b": "30de2"},
        {"name": "data.sha256", "a": "da7a", "b": "ffff"},
        {"name": "config.training.seed", "a": 7, "b": 8},
        {"name": "metrics.accuracy", "a": 0.99, "b": 0.995},
        {"name": "findings.label-noise", "a": 1, "b": None},
    ]
    assert result["different"] == ["model", "data", "config", "metrics", "findings"]
    assert {"schema", "code", "dependencies", "gates", "baseline", "best"} <= set(result["same"])
    assert lineage.main(["--compare", "1", "2", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "Different: model, data, config, metrics, findings." in printed
    assert ["config.training.seed", "7", "8"] in [line.split() for line in printed.splitlines()]


def test_a_version_does_not_differ_from_itself(output: pathlib.Path) -> None:
    version = lineage.model_lineage(output / "serving" / "mnist", output / "metadata.db", 1)
    assert lineage.compare(version, version).differences == ()


def test_json_goes_to_a_file(output: pathlib.Path, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    assert lineage.main(["1", "--output", str(output), "--json", str(tmp_path / "lineage.json")]) == 0
    assert json.loads((tmp_path / "lineage.json").read_text())["version"] == 1
    assert "mnist, version 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["9"], "not 9; pushed versions: 1, 2"),
        (["--compare", "1", "9"], "not 9"),
        (["1", "--compare", "1", "2"], "not both"),
        (["one"], "invalid int value"),
        (["--serving-name", "other"], "the one in production is described"),
        (["1", "--json", "/proc/none/file"], "--json names a file"),
    ],
)
def test_wrong_usage_is_one_line(
    output: pathlib.Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert lineage.main(["--output", str(output), *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors


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
    origin = metadata.find_push(
        metadata.read_pushes(store), 1, str(serving / "1"), versions.find_version(serving, 1).provenance
    )
    new = rollback.roll_back(serving, rollback.choose(serving, 1), "why")
    metadata.record_rollback(store, origin, new.number, new.location, new.provenance)
    result = lineage.model_lineage(serving, output / "metadata.db", 3)
    assert (result.source, result.note) == ("ML Metadata", None)
    assert result.card["rollback"]["of"] == 1
    assert [step.stage for step in result.steps] == ["train", "push", "rollback"]
    # A push of the same number to another folder is not that of this version.
    assert metadata.find_push(metadata.read_pushes(store), 1, "/elsewhere/other/1", {}) is None
    assert metadata.find_push(metadata.read_pushes(store), 1, "/elsewhere/mnist/1", {}) == origin


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
    properties: dict[str, Any] | None = None,
    provenance: dict[str, Any] | None = None,
) -> list[Any]:
    """Records an execution; returns the artifacts that it made."""
    execution = metadata_store_pb2.Execution(
        type_id=store.put_execution_type(metadata_store_pb2.ExecutionType(name=stage)),
        last_known_state=metadata_store_pb2.Execution.COMPLETE,
    )
    pairs = [(artifact, _event(metadata_store_pb2.Event.INPUT, "model")) for artifact in inputs]
    for key, (kind, uri) in outputs.items():
        type_id = store.put_artifact_type(metadata_store_pb2.ArtifactType(name=kind))
        artifact = metadata_store_pb2.Artifact(type_id=type_id, uri=uri)
        for name, value in (properties or {}).items():
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
