# SPDX-License-Identifier: Apache-2.0
"""The open-source launcher and its driver, as far as a task sees them; and kfp's local orchestrator in front of them.

What they do was read in kubeflow/pipelines 2.14 to 2.17, backend/src/v2: `driver/container.go` (what a task is told),
`component/launcher_v2.go` (download, run, upload), `metadata/converter.go` (what becomes of metadata),
`objectstore/object_store.go`. The object store is a real S3 server, so there are files only and no empty folders.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import runpy
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# What the launcher notes of the store with an artifact that does not say it.
SESSION = json.dumps({"Provider": "minio", "Params": {"fromEnv": "false", "secretName": "mlpipeline-minio-artifact"}})
ROOT = pathlib.Path(__file__).parents[2]
# Of the tests alone: where the credentials of a pod lie, which are at one place in each container.
ACCOUNT = "TESTS_SERVICE_ACCOUNT"
TELL = "--input"
# What the modules of the tasks import, so that each is forked from a process that has it already.
PRELOAD = [
    "apache_beam",
    "tensorflow_data_validation",
    "tensorflow_model_analysis",
    "tensorflow_transform.beam",
    "tfx.components.example_validator.executor",
    "tfx.components.trainer.executor",
    "tfx.components.transform.executor",
    "pipeline.kubeflow.task_executor",
]


@dataclasses.dataclass
class Task:
    """One task that ran."""

    name: str
    exit_code: int
    log: str


@dataclasses.dataclass
class Cluster:
    """A pretended cluster: an object store, and one run at a time.

    Attributes:
        root: the pipeline root, `minio://BUCKET/PATH` or `s3://BUCKET/PATH`.
        scratch: folder for the file systems of the containers.
        start: runs a command in a container with such a file system and such a log, and returns its exit code.
        pipeline: the pipeline's name.
        run_id: the run's.
        tasks: those that ran in this run.
        published: task -> key -> artifact, of those that succeeded.
        lost: tasks whose first pod is lost when its work is done, so that Argo starts another. With the policy OnError
            that KFP 2.17 has for all tasks, a command that fails gets one pod and a lost one gets another.
    """

    root: str
    scratch: pathlib.Path
    start: Callable[[list[str], pathlib.Path, pathlib.Path], int]
    pipeline: str = "mnist-tfx"
    run_id: str = ""
    tasks: list[Task] = dataclasses.field(default_factory=list)
    published: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    lost: frozenset[str] = frozenset()

    @property
    def prefix(self) -> str:
        return f"{self.root}/{self.pipeline}/{self.run_id}"

    def new_run(self) -> None:
        self.run_id, self.tasks, self.published = str(uuid.uuid4()), [], {}

    def run_task(self, name: str, command: list[str], executor_input: dict[str, Any]) -> dict[str, Any] | None:
        """Drives and launches a task.

        Args:
            name: of the task.
            command: with the placeholder {{$}} where it is told its inputs.
            executor_input: inputs as the tasks before published them; of the outputs, the types.

        Returns:
            Key -> artifact as published; None where the task failed, of which nothing is left then.
        """
        salt = str(uuid.uuid4())
        if name in self.lost:
            self._launch(name, command, executor_input, salt)
        task_input, task, container = self._launch(name, command, executor_input, salt)
        if task.exit_code:
            return None
        published = self._publish(task_input, task, container)
        shutil.rmtree(container)  # nothing of a container is there for the next one
        if published is not None:
            self.published[name] = published
        return published

    def _launch(
        self, name: str, command: list[str], executor_input: dict[str, Any], salt: str
    ) -> tuple[dict[str, Any], Task, pathlib.Path]:
        """Starts a pod: what the task was told, how it went, and the file system of its container."""
        container = self.scratch / self.run_id / f"{len(self.tasks):02}-{name}"
        container.mkdir(parents=True)
        task_input = self._drive(name, executor_input, container, salt)
        self._download(task_input, container)
        for artifact in _artifacts(task_input["outputs"]):
            (container / _local(artifact["uri"])).parent.mkdir(parents=True, exist_ok=True)
        log = container / "log.txt"
        arguments = [json.dumps(task_input) if argument == "{{$}}" else argument for argument in command]
        code = self.start(arguments, container, log)
        task = Task(name, code, log.read_text(errors="replace") if log.exists() else "")
        self.tasks.append(task)
        return task_input, task, container

    def _drive(self, name: str, executor_input: dict[str, Any], container: pathlib.Path, salt: str) -> dict[str, Any]:
        task_input = json.loads(json.dumps(executor_input))
        for number, artifact in enumerate(_artifacts(task_input.get("inputs", {}))):
            artifact["name"], artifact["type"] = str(number + 1), {"instanceSchema": ""}
        outputs = task_input.setdefault("outputs", {})
        kinds = {key: entry["artifacts"][0]["type"] for key, entry in outputs.get("artifacts", {}).items()}
        outputs["artifacts"] = {
            key: {"artifacts": [{"uri": f"{self.prefix}/{name}/{salt}/{key}", "type": kind, "metadata": {}}]}
            for key, kind in (kinds | {"executor-logs": {"schemaTitle": "system.Artifact"}}).items()
        }
        outputs["outputFile"] = str(container / "tmp/kfp_outputs/output_metadata.json")
        return task_input

    def _download(self, task_input: dict[str, Any], container: pathlib.Path) -> None:
        for artifact in _artifacts(task_input.get("inputs", {})):
            if not _local(artifact["uri"]):  # left alone
                continue
            bucket, key = store(artifact["uri"])
            for blob in bucket.objects.filter(Prefix=f"{key}/"):
                target = container / _local(artifact["uri"]) / blob.key.removeprefix(f"{key}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                bucket.download_file(blob.key, str(target))

    def _publish(self, task_input: dict[str, Any], task: Task, container: pathlib.Path) -> dict[str, Any] | None:
        file = pathlib.Path(task_input["outputs"]["outputFile"])
        output = json.loads(file.read_text()) if file.exists() else {}
        published = {}
        for key, entry in task_input["outputs"]["artifacts"].items():
            [artifact] = entry["artifacts"]
            for published_artifact in output.get("artifacts", {}).get(key, {}).get("artifacts", [])[:1]:
                artifact["uri"] = published_artifact.get("uri") or artifact["uri"]
                artifact["metadata"] |= published_artifact.get("metadata", {})
            if _local(artifact["uri"]):
                self._upload(artifact["uri"], container)
            try:
                artifact["metadata"] = {name: _stored(value) for name, value in artifact["metadata"].items()}
            except ValueError as error:
                task.exit_code, task.log = 1, f"{task.log}{error}\n"
                return None
            artifact["metadata"] = {"display_name": key, "store_session_info": SESSION} | artifact["metadata"]
            published[key] = artifact
        del published["executor-logs"]
        return published

    def _upload(self, uri: str, container: pathlib.Path) -> None:
        bucket, key = store(uri)
        root = container / _local(uri)
        if root.is_file():
            bucket.upload_file(str(root), key)
        for path in root.rglob("*"):
            if path.is_file():
                bucket.upload_file(str(path), f"{key}/{path.relative_to(root).as_posix()}")


def _artifacts(holder: dict[str, Any]) -> list[dict[str, Any]]:
    return [artifact for entry in holder.get("artifacts", {}).values() for artifact in entry["artifacts"]]


def _local(uri: str) -> str:
    """The place of a URI in a container, "" for one that is not a store's."""
    for scheme, folder in (("minio://", "minio/"), ("s3://", "s3/"), ("gs://", "gcs/")):
        if uri.startswith(scheme):
            return folder + uri.removeprefix(scheme)
    return ""


def store(uri: str) -> tuple[Any, str]:
    """Boto3's bucket of a URI, and the key in it."""
    import boto3

    name, _, key = uri.partition("://")[2].partition("/")
    return boto3.resource("s3").Bucket(name), key


def _stored(value: Any) -> Any:
    """Returns a value as ML Metadata returns it."""
    if value is None:
        raise ValueError("failed to publish: unknown/unsupported value type *structpb.Value_NullValue")
    if isinstance(value, bool | int):
        return float(value)
    if isinstance(value, list):
        return {"list": value}
    return {"struct": value} if isinstance(value, dict) else value


def forked(command: list[str], container: pathlib.Path, log: pathlib.Path) -> int:
    """Runs `python -m MODULE …` in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    passed = ("AWS_", "KUBERNETES_", "KFP_POD_", ACCOUNT)
    environment = {name: value for name, value in os.environ.items() if name.startswith(passed)}
    process = context.Process(target=_in_container, args=(command, container, log, environment))
    process.start()
    process.join()
    code = process.exitcode
    process.close()
    return int(code or 0)


def _in_container(command: list[str], container: pathlib.Path, log: pathlib.Path, environment: dict[str, str]) -> None:
    target = os.open(log, os.O_WRONLY | os.O_CREAT, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.umask(0)  # as Argo's executor
    os.environ.update({"KFP_POD_NAME": "pod", **environment})
    from pipeline.kubeflow import launcher_adapter

    launcher_adapter.ROOT = container
    if ACCOUNT in os.environ:
        from pipeline.kubeflow.training_job import cluster

        cluster.ACCOUNT = pathlib.Path(os.environ[ACCOUNT])
    # The image's working directory holds the project. Not the project itself: a URI taken for a path would land in it.
    work = container / "work"
    work.mkdir()
    (work / "pipeline").symlink_to(ROOT / "pipeline")
    os.chdir(work)
    assert command[:2] == ["python", "-m"]
    sys.argv = command[2:]
    runpy.run_module(command[2], run_name="__main__", alter_sys=True)


@contextlib.contextmanager
def orchestrated(cluster: Cluster, local_root: pathlib.Path) -> Iterator[Callable[..., bool]]:
    """The local orchestrator of kfp, whose tasks the cluster runs.

    Yields:
        Runs a package with such arguments, and says whether every task succeeded.
    """
    from kfp import components, local
    from kfp.local import config, status, subprocess_task_handler
    from kfp.local.orchestrator import dag_orchestrator

    class Handler:
        def __init__(self, image: str, full_command: list[str], pipeline_root: str, runner: Any) -> None:
            self.command = list(full_command)

        def run(self) -> status.Status:
            position = self.command.index(TELL) + 1
            task_input = json.loads(self.command[position])
            self.command[position] = "{{$}}"
            root = pathlib.Path(task_input["outputs"]["outputFile"])
            published = cluster.run_task(root.parent.name, self.command, task_input)
            if published is None:
                return status.Status.FAILURE
            root.parent.mkdir(parents=True, exist_ok=True)
            artifacts = {
                key: {"artifacts": [{"name": key, "uri": artifact["uri"], "metadata": artifact["metadata"]}]}
                for key, artifact in published.items()
            }
            root.write_text(json.dumps({"artifacts": artifacts}))
            return status.Status.SUCCESS

    root: Any = None
    failed: list[str] = []
    original = dag_orchestrator.run_dag

    def run_dag(**task_input: Any) -> tuple[dict[str, Any], status.Status]:
        """As the server does: what waits for all upstream tasks to end starts also where one of them failed."""
        outputs, ended = original(**task_input)
        last = root.dag.tasks["report"].trigger_policy
        waits = last.strategy == last.ALL_UPSTREAM_TASKS_COMPLETED
        if task_input["dag_component_spec"] != root and ended == status.Status.FAILURE and waits:
            failed.append(task_input["fail_stack"][-1])
            return {}, status.Status.SUCCESS
        return outputs, ended

    def run(package: pathlib.Path, **arguments: Any) -> bool:
        nonlocal root
        loaded = components.load_component_from_file(str(package))
        root = loaded.pipeline_spec.root
        cluster.new_run()
        failed.clear()
        loaded(**arguments)
        return not failed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess_task_handler, "SubprocessTaskHandler", Handler)
        patch.setattr(dag_orchestrator, "run_dag", run_dag)
        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(local_root),
            workspace_root=str(local_root / "workspace"),
        )
        try:
            yield run
        finally:
            config.LocalExecutionConfig.instance = None
