# SPDX-License-Identifier: Apache-2.0
"""Each adaptation to the launcher, by two tiny tasks that fail without it; and what a task notes."""

from __future__ import annotations

import gc
import inspect
import json
import logging
import pathlib
from typing import Any

import absl.logging
import pytest

from pipeline import code_digest
from pipeline.kubeflow import adapt, entrypoint, notes
from tests import object_stores
from tests.kubeflow import launcher

ADAPTATIONS = [
    "drop_launchers_outputs",
    "restore_input_types",
    "unwrap_metadata",
    "drop_servers_metadata",
    "localize",
    "make_output_folders",
    "restore_uris",
    "restore_uris_in_metadata",
]
MODEL = {"instanceSchema": "title: tfx.Model\ntype: object\n"}
SPEC = {"artifacts": {"model": {"artifactType": MODEL}}, "parameters": {"steps": {"parameterType": "NUMBER_INTEGER"}}}


@pytest.fixture(scope="module")
def s3():
    with object_stores.running() as server:
        server.bucket("tiny")
        yield server


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """The entrypoint sets up logging, and what is garbage, for its whole process, which here is that of the tests."""
    handlers, level = list(logging.root.handlers), logging.root.level
    verbosity = absl.logging.get_verbosity()
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    absl.logging.set_verbosity(verbosity)
    gc.unfreeze()


@pytest.fixture
def cluster(s3, tmp_path, monkeypatch):
    def start(command, container, log):
        monkeypatch.setattr(adapt, "ROOT", container)
        return entrypoint.main(command)

    monkeypatch.setenv("KFP_POD_NAME", "pod")
    monkeypatch.chdir(tmp_path)
    made = launcher.Cluster("minio://tiny/root", tmp_path / "containers", start)
    made.new_run()
    return made


def run(cluster, executor, inputs, digest=None, parameters=None):
    command = [
        "--executor_class_path", f"tests.kubeflow.tiny.{executor}",
        "--json_serialized_invocation_args", "{{$}}",
        "--json_serialized_inputs_spec_args", json.dumps(SPEC),
        "--task", executor.lower(),
        "--code_digest", digest or code_digest.of_project(),
    ]  # fmt: skip
    artifacts = {key: {"artifacts": [artifact]} for key, artifact in inputs.items()}
    told = {
        "inputs": {"artifacts": artifacts, "parameterValues": parameters or {"steps": 3}},
        "outputs": {"artifacts": {"model": {"artifacts": [{"type": MODEL}]}}},
    }
    return cluster.run_task(executor.lower(), command, told)


def chain(cluster):
    """Whether both tasks succeed."""
    made = run(cluster, "Produce", {})
    return made is not None and run(cluster, "Consume", made) is not None


def test_tasks_are_adapted_to_the_launcher(cluster):
    assert chain(cluster)
    noted: dict[str, Any] = dict(notes.read(cluster.prefix))
    assert {name: note.state for name, note in noted.items()} == {"produce": "done", "consume": "done"}
    made = noted["produce"].outputs["model"]
    assert made["uri"].startswith(f"{cluster.prefix}/produce/")
    assert noted["consume"].inputs["model"]["uri"] == made["uri"]
    assert noted["consume"].inputs["model"]["metadata"]["layers"] == [3, 5]
    assert noted["produce"].ended >= noted["produce"].started


@pytest.mark.parametrize("what", ["the pipeline root", "TMPDIR"])
def test_a_folder_that_tensorflow_takes_for_a_pattern_is_refused(cluster, tmp_path, monkeypatch, capsys, what):
    if what == "TMPDIR":
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "b?"))
    else:
        cluster = launcher.Cluster("minio://tiny/b[1]", tmp_path / "containers", cluster.start)
        cluster.new_run()
    assert run(cluster, "Produce", {}) is None
    told = capsys.readouterr().err
    assert told.startswith(f"error: {what} takes a path without")
    assert told.count("\n") == 1


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_no_adaptation_can_be_left_out(cluster, monkeypatch, adaptation):
    monkeypatch.setattr(adapt, adaptation, lambda *arguments: None)
    assert not chain(cluster)


def test_every_adaptation_is_left_out_once():
    functions = {name for name, value in vars(adapt).items() if inspect.isfunction(value) and name[0] != "_"}
    assert functions - set(ADAPTATIONS) == {"local_path", "uris"}


def test_push_is_told_the_run_and_what_its_parameters_made_of_the_configuration(cluster):
    compiled = {"config": {"data_dir": "/compiled", "training": {"model": "cnn"}}, "git_commit": "abc"}
    changed = {"run_data_dir": "s3://data", "run_model": "linear", "run_force_push": "I know", "run_seed": 4.0}
    made = run(cluster, "Tell", {}, parameters={"run": json.dumps(compiled), "model": "mine", **changed})
    assert made is not None
    assert "run_data_dir" not in made["model"]["metadata"]
    assert made["model"]["metadata"]["model"] == "mine"
    told = json.loads(made["model"]["metadata"]["run"])
    assert (told["run_id"], told["git_commit"], told["forced"]) == (cluster.run_id, "abc", "I know")
    assert told["config"]["data_dir"] == "s3://data"
    assert told["config"]["training"]["model"] == "linear"
    assert told["config"]["training"]["seed"] == 4


def test_a_task_that_launches_a_training_job_is_told_where_its_files_lie(monkeypatch, tmp_path):
    monkeypatch.setattr(adapt, "ROOT", tmp_path)
    told = {
        "inputs": {
            "artifacts": {"examples": {"artifacts": [{"uri": "minio://data/root/other/run0/ingest/examples"}]}},
            "parameterValues": {"custom_config": json.dumps({"seed": 3, "training_job": {"kind": "TFJob"}})},
        },
        "outputs": {"artifacts": {"model": {"artifacts": [{"uri": "minio://bucket/root/mnist/run1/train/0f/model"}]}}},
    }
    told = json.loads(entrypoint._with_addresses(json.dumps(told), "train"))
    assert json.loads(told["inputs"]["parameterValues"]["custom_config"]) == {
        "seed": 3,
        "training_job": {"kind": "TFJob"},
        "task": {
            "name": "train",
            "run": "s3://bucket/root/mnist/run1",
            "urls": {
                f"{tmp_path}/minio/data/root/other/run0/ingest/examples": "s3://data/root/other/run0/ingest/examples",
                f"{tmp_path}/minio/bucket/root/mnist/run1/train/0f/model": "s3://bucket/root/mnist/run1/train/0f/model",
            },
        },
    }


@pytest.mark.parametrize("config", ["null", "{}", ""])
def test_other_tasks_configurations_stay_as_they_are(cluster, config):
    assert run(cluster, "Produce", {}, parameters={"steps": 3, "custom_config": config}) is not None


def test_a_gate_that_stops(cluster, capsys):
    assert run(cluster, "Stop", {}) is None
    assert cluster.tasks[-1].exit_code == 3
    assert capsys.readouterr().err.splitlines()[-1] == "error: The candidate must be good, it is not. Train it longer."
    note: Any = notes.read(cluster.prefix)["stop"]
    assert (note.state, note.outputs) == ("failed", {})
    assert (note.failure.exit_code, note.failure.gate, note.failure.expected) == (3, True, True)
    assert note.failure.sentence == "The candidate must be good, it is not. Train it longer."


def test_a_task_that_breaks(cluster, capsys):
    assert run(cluster, "Break", {}) is None
    assert cluster.tasks[-1].exit_code == 1
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().err
    failure: Any = notes.read(cluster.prefix)["break"].failure
    assert (failure.exit_code, failure.gate, failure.expected) == (1, False, False)
    assert failure.sentence == "ZeroDivisionError: division by zero"


def test_an_image_with_other_code_is_refused(cluster, capsys):
    assert run(cluster, "Produce", {}, digest="0" * 64) is None
    assert cluster.tasks[-1].exit_code == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith("error: The image must hold the code that the package was compiled from")
    note: Any = notes.read(cluster.prefix)["produce"]
    assert note.failure.exit_code == 1


def test_a_store_that_refuses_the_note_stops_the_task_before_it_starts(cluster, s3, capsys):
    s3.before = lambda method, path: method == "PUT"
    try:
        assert run(cluster, "Produce", {}) is None
    finally:
        s3.reset()
    assert cluster.tasks[-1].exit_code == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "notes in the run's storage" in sentence
    assert object_stores.ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in sentence


def test_on_vertex_nothing_is_adapted(tmp_path, monkeypatch):
    monkeypatch.delenv("KFP_POD_NAME", raising=False)
    monkeypatch.chdir(tmp_path)
    pathlib.Path("model").mkdir()
    told = {
        "inputs": {},
        "outputs": {
            "artifacts": {"model": {"artifacts": [{"uri": str(tmp_path / "model"), "type": MODEL, "metadata": {}}]}},
            "outputFile": str(tmp_path / "task/executor_output.json"),
        },
    }
    code = entrypoint.main(
        ["--executor_class_path", "tests.kubeflow.tiny.Produce", "--json_serialized_invocation_args", json.dumps(told),
         "--task", "produce", "--code_digest", code_digest.of_project()]
    )  # fmt: skip
    assert code == 0
    answer = json.loads(pathlib.Path("task/executor_output.json").read_text())
    [made] = answer["artifacts"]["model"]["artifacts"]
    assert made["uri"] == str(tmp_path / "model")
    assert "nothing" in made["metadata"]


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("minio://b/root/mnist/run1/train/0a-1b/model", ("minio://b/root/mnist/run1", "train", "model")),
        ("s3://b/mnist/run1/train/model", ("s3://b/mnist/run1", "train", "model")),
        ("gs://b/mnist/run1/other/salt/model", None),
        ("train/model", None),
    ],
)
def test_an_uri_says_the_run_the_task_and_the_key(uri, place):
    assert notes.place_of(uri, frozenset({"train", "push"})) == place


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("gs://bucket/a/b", "/gcs/bucket/a/b"),
        ("s3://bucket/a/b", "/s3/bucket/a/b"),
        ("minio://bucket/a/b", "/minio/bucket/a/b"),
        ("/volume/a/b", "/volume/a/b"),
    ],
)
def test_where_the_launcher_keeps_what_an_uri_names(uri, path):
    assert adapt.local_path(uri) == path
