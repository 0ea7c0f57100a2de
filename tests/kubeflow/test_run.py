# SPDX-License-Identifier: Apache-2.0
"""The compiled package, run from ingest to push by kfp's own local orchestrator, as the server's launcher would."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

import runner_kfp
from components import findings
from components.ingest import digits, idx
from components.push import versions
from tests import object_stores
from tests.kubeflow import cluster_stub, launcher

pytestmark = pytest.mark.slow

NODES = [
    "ingest", "baseline", "statistics", "image-check", "data-check", "data-gate", "transform", "train", "infra-check",
    "evaluate", "push",
]  # fmt: skip


@dataclasses.dataclass
class RunResult:
    """A run's record and report, its tasks, and the outputs of its last task by name."""

    succeeded: bool
    record: dict[str, Any]
    html: str
    tasks: dict[str, launcher.Task]
    outputs: dict[str, Any]


@pytest.fixture(scope="module")
def s3() -> Iterator[object_stores.S3]:
    with object_stores.running() as server:
        for bucket in ("artifacts", "models", "data"):
            server.bucket(bucket)
        yield server


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("data")
    digits.write(folder)
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Compiled as a user does; the defaults of its parameters lead nowhere."""
    file = tmp_path_factory.mktemp("package") / "pipeline.yaml"
    nowhere = ["--data-dir", "s3://nowhere/data", "--serving-dir", "s3://nowhere/models"]
    code = runner_kfp.main(
        ["compile", "--image", "registry.example/mnist:1", "--profile", "digits", *nowhere, "--output", str(file)]
    )
    assert code == 0
    return file


@pytest.fixture(scope="module")
def run(
    s3: object_stores.S3, package: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., RunResult]:
    """Runs the package below a pipeline root with such parameters."""

    def start(root: str, lost: frozenset[str] = frozenset(), **parameters: Any) -> RunResult:
        return run_package(package, root, tmp_path_factory.mktemp("run"), lost, **parameters)

    return start


def run_package(
    package: pathlib.Path, root: str, folder: pathlib.Path, lost: frozenset[str] = frozenset(), **parameters: Any
) -> RunResult:
    cluster = launcher.Cluster(root, folder / "containers", launcher.forked, lost=lost)
    with launcher.orchestrated(cluster, folder / "local") as orchestrate:
        succeeded = orchestrate(package, **parameters)
    tasks = {task.name: task for task in cluster.tasks}
    assert "report" in tasks, cluster.tasks[-1].log
    assert tasks["report"].exit_code == 0, tasks["report"].log
    row = json.loads(read(f"{cluster.prefix}/record.json"))
    assert json.loads(read(cluster.published["report"]["record"]["uri"])) == row
    return RunResult(succeeded, row, read(row["report"]).decode(), tasks, cluster.published["report"])


def read(uri: str) -> bytes:
    bucket, key = launcher.store(uri)
    content: bytes = bucket.Object(key).get()["Body"].read()
    return content


def production(serving: pathlib.Path | str) -> Any:
    return versions.production_version(serving)


def states(result: RunResult) -> dict[str, str]:
    return {stage["name"]: stage["state"] for stage in result.record["stages"]}


def test_from_ingest_to_push_twice(run, data, tmp_path):
    serving = tmp_path / "volume" / "mnist"
    parameters = {"data_dir": str(data), "serving_dir": str(serving)}

    first = run("minio://artifacts/root", train_steps=200, **parameters)
    assert first.succeeded, first.record
    assert (first.record["verdict"], first.record["exit_code"]) == ("pushed", 0)
    assert states(first) == dict.fromkeys(NODES, "done")
    assert first.record["baseline"] is None
    assert first.record["dataset"]["images"] == 1797
    assert first.record["config"]["training"]["train_steps"] == 200
    assert (serving / "1" / "saved_model.pb").is_file()
    assert production(serving).provenance["run_id"] == first.record["run_id"]
    assert production(serving).provenance["config"]["training"]["train_steps"] == 200
    assert first.outputs["metrics"]["metadata"]["accuracy"] == first.record["metrics"]["accuracy"] > 0.93
    matrix = first.outputs["classification_metrics"]["metadata"]["confusionMatrix"]["struct"]
    assert sum(sum(row["row"]) for row in matrix["rows"]) == 299
    assert len(matrix["annotationSpecs"]) == len(matrix["rows"]) == 10
    curve = first.outputs["classification_metrics"]["metadata"]["confidenceMetrics"]["list"]
    assert curve[-1]["recall"] == curve[-1]["falsePositiveRate"] == 1
    assert "PUSHED" in first.html
    assert "/containers" not in first.html  # no path that was gone with the task's container
    assert first.record["artifacts"]["train.model"] in first.html
    # Argo's executor sets the umask to 0, and a volume is open to others.
    assert {path.stat().st_mode & 0o022 for path in serving.rglob("*")} == {0}

    # Pods of a gate and of push that are lost after their work are started again, on KFP 2.17.
    lost = frozenset({"data-gate", "push"})
    second = run("minio://artifacts/root", lost, train_steps=200, seed=2, **parameters)
    assert second.succeeded, second.record
    assert production(serving).number == 2
    assert second.record["verdict"] == "pushed"
    assert second.record["baseline"]["version"] == 1
    assert second.record["baseline"]["metrics"]["accuracy"] == first.record["metrics"]["accuracy"]
    assert second.record["model"]["version"] == 2
    assert sorted(path.name for path in serving.iterdir() if path.name.isdigit()) == ["1", "2"]


def test_each_gate_stops_and_an_allowed_finding_does_not_with_everything_in_an_object_store(run, data, tmp_path):
    broken = shutil.copytree(data, tmp_path / "data")
    with (broken / idx.TRAIN_LABELS).open("r+b") as labels:
        labels.seek(8)  # behind the header
        labels.write(bytes([11] * 10))
    for path in broken.iterdir():
        launcher.store("s3://data/digits")[0].upload_file(str(path), f"digits/{path.name}")
    parameters = {"data_dir": "s3://data/digits", "serving_dir": "s3://models/mnist", "model": "linear"}

    stopped = run("s3://artifacts/other", **parameters)
    assert not stopped.succeeded
    assert stopped.tasks["data-gate"].exit_code == 3
    assert "train" not in stopped.tasks
    assert (stopped.record["verdict"], stopped.record["exit_code"]) == ("stopped", 3)
    assert "label-out-of-range" in {finding["name"] for finding in stopped.record["findings"]}
    assert stopped.record["reason"] in stopped.tasks["data-gate"].log
    assert stopped.record["metrics"] is None
    assert stopped.record["findings"][0]["sentence"] in stopped.html.replace("&#39;", "'")

    parameters |= {"allow": "label-out-of-range"}
    pushed = run("s3://artifacts/other", train_steps=300, **parameters)
    assert pushed.succeeded, pushed.record
    assert pushed.record["verdict"] == "pushed"
    assert pushed.record["model"]["type"] == "linear"
    assert pushed.record["model"]["path"] == "s3://models/mnist/1"
    assert read("s3://models/mnist/1/saved_model.pb")
    excluded = pushed.record["dataset"]["excluded"]
    assert sum(by_label["11"] for by_label in excluded.values()) == 10
    assert production("s3://models/mnist").provenance["dataset"]["excluded"] == excluded
    assert findings.excluded_words(excluded) in pushed.html
    assert findings.excluded_words(excluded) in pushed.tasks["report"].log

    refused = run("s3://artifacts/other", train_steps=5, **parameters)
    assert not refused.succeeded
    assert refused.record["baseline"]["version"] == 1
    assert refused.tasks["push"].exit_code == 3
    assert "Traceback" not in refused.tasks["push"].log
    assert (refused.record["verdict"], refused.record["exit_code"]) == ("not_blessed", 3)
    assert states(refused)["push"] == "failed"
    assert not all(gate["passed"] for gate in refused.record["gates"])
    assert "NOT BLESSED" in refused.html
    assert production("s3://models/mnist").number == 1


def test_two_workers_of_a_training_job_train_the_model_that_is_pushed(s3, data, tmp_path):
    file, serving = tmp_path / "pipeline.yaml", tmp_path / "volume" / "mnist"
    code = runner_kfp.main(
        ["compile", "--image", "registry.example/mnist:1", "--profile", "digits", "--data-dir", "s3://nowhere/data",
         "--serving-dir", "s3://nowhere/models", "--workers", "2", "--gpus-per-worker", "0", "--storage", "own",
         "--env", f"AWS_ENDPOINT_URL={s3.url}", "--secret", "store:id=AWS_ACCESS_KEY_ID",
         "--secret", "store:key=AWS_SECRET_ACCESS_KEY", "--output", str(file)]
    )  # fmt: skip
    assert code == 0
    with cluster_stub.running(tmp_path / "cluster") as stub:
        stub.secrets["store"] = {
            "id": object_stores.ENVIRONMENT["AWS_ACCESS_KEY_ID"],
            "key": object_stores.ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
        }
        parameters: dict[str, Any] = {"data_dir": str(data), "serving_dir": str(serving), "train_steps": 200}
        result = run_package(file, "minio://artifacts/root", tmp_path / "run", **parameters)
        assert result.succeeded, result.tasks["train"].log[-3000:]
        assert result.record["verdict"] == "pushed"
        assert result.record["devices"] == ["worker 0 CPU:0", "worker 1 CPU:0"]
        assert result.record["metrics"]["accuracy"] > 0.93
        assert (serving / "1" / "saved_model.pb").is_file()
        assert "worker 0: epoch 1/" in result.tasks["train"].log
        [job] = stub.created_jobs
        assert job["metadata"]["name"].startswith(f"train-{result.record['run_id'][:8]}-")
        assert stub.jobs == {}
        assert [code for _, _, code in stub.exits] == [0, 0]


def test_the_package_has_no_path_of_this_machine(package):
    documents = list(yaml.safe_load_all(package.read_text()))
    assert len(documents) == 2
    assert str(pathlib.Path(__file__).parents[2]) not in package.read_text()
