# SPDX-License-Identifier: Apache-2.0
"""Trains in a training job of several workers; replaces `trainer.run_fn` in the training task.

The job is a TFJob of Kubeflow's training operator. The task creates it, follows it, and fetches its results; the task
itself needs no accelerator. This module holds functions only, because TFX loads it a second time to resolve `run_fn`.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import pathlib
import re
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from components import progress
from components.errors import BadInput, ProjectError
from pipeline.kubeflow.training_job import exchange
from pipeline.kubeflow.training_job.cluster import ApiError, JobClient, Json
from pipeline.kubeflow.training_job.job_watch import JobWatch

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs

# Labels of a job that identify its task.
RUN_LABEL, TASK_LABEL = "mnist-tfx/run", "mnist-tfx/task"
_SHUTDOWN_SECONDS = 120.0  # for the workers of a previous job
_ATTEMPTS, _PAUSE_SECONDS = 5, 5.0  # to create and to remove a job


def run_fn(fn_args: FnArgs) -> None:
    """Runs `trainer.run_fn` in the workers of a training job.

    Reads:
        `train_files`, `eval_files`, `transform_graph_path`: only the paths; the workers read the files in the store.
        `custom_config`: that of `trainer.run_fn`, with two more keys. `training_job`: the TFJob without name, labels,
            owner and the job's URL, which becomes the last argument of the workers' command. `task`: `{"name": node,
            "run": URL of the run's folder in the store, "urls": {local path: URL}}`.

    Writes:
        `serving_model_dir` and keras/ beside it, `model_run_dir`: the first worker's outputs, once they are complete.

    Raises:
        BadInput: this is no pod of a cluster, or the store cannot be used.
        GateStopped, BadInput, ProjectError: the job failed; by the exit code of the failed worker.
        ProjectError: the API refuses, the job was deleted, or its model is incomplete.
    """
    config = dict(fn_args.custom_config)
    manifest, task = config.pop(exchange.MANIFEST), config.pop(exchange.TASK, None)
    if task is None or "KFP_POD_NAME" not in os.environ:
        raise BadInput(
            "a training job is created by a task of the open-source Kubeflow Pipelines, whose storage the workers "
            "reach; to run elsewhere, compile the package without --workers"
        )
    model = pathlib.Path(fn_args.serving_model_dir).parent
    labels = {RUN_LABEL: _label(task["run"].rpartition("/")[2]), TASK_LABEL: _label(task["name"])}
    name = f"{labels[TASK_LABEL][:20]}-{labels[RUN_LABEL][:8].rstrip('-')}-{secrets.token_hex(3)}"
    url = f"{task['urls'][str(model)].rpartition('/')[0]}/jobs/{name}"
    job = exchange.Job(
        train=[_url(pattern, task["urls"]) for pattern in fn_args.train_files],
        val=[_url(pattern, task["urls"]) for pattern in fn_args.eval_files],
        transform_graph=_url(fn_args.transform_graph_path, task["urls"]),
        # The same for every attempt at this task, so that one resumes another.
        config=config | {"checkpoints": f"{task['run']}/checkpoints"},
    )
    with JobClient() as client:
        _remove_previous(client, labels)
        exchange.write(url, job)
        try:
            with _exit_on_sigterm(), _running(client, _complete(manifest, name, labels, client, url)):
                JobWatch(client, name, manifest["spec"]["runPolicy"]["backoffLimit"]).wait()
                exchange.fetch_results(url, {"model": model, "model_run": pathlib.Path(fn_args.model_run_dir)})
        finally:
            exchange.remove(url)


def _url(path: str, urls: Mapping[str, str]) -> str:
    """Returns the URL of a folder or of a pattern FOLDER/*."""
    folder = path.removesuffix("/*")
    root = next(root for root in sorted(urls, key=len, reverse=True) if f"{folder}/".startswith(f"{root}/"))
    return f"{urls[root]}{folder.removeprefix(root)}"


def _label(text: str) -> str:
    """Converts a text to a valid label and part of a name in Kubernetes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].rstrip("-")


def _complete(manifest: Json, name: str, labels: Mapping[str, str], client: JobClient, url: str) -> Json:
    """Adds to a TFJob the fields that depend on the run."""
    job = copy.deepcopy(manifest)
    # Kubernetes removes the job with this task's pod. blockOwnerDeletion would require further rights.
    owner = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": os.environ["KFP_POD_NAME"],
        "uid": os.environ.get("KFP_POD_UID", ""),
    }
    job["metadata"] = {
        "name": name,
        "namespace": client.namespace,
        "labels": dict(labels),
        **({"ownerReferences": [owner]} if owner["uid"] else {}),
    }
    template = job["spec"]["tfReplicaSpecs"]["Worker"]["template"]
    template["metadata"]["labels"].update(labels)
    template["spec"]["containers"][0]["args"].append(url)
    if account := client.account():  # the workers may depend on its rights in the store
        template["spec"]["serviceAccountName"] = account
    return job


def _report(text: str, level: int = logging.INFO) -> None:
    progress.report(progress.Message(f"training job: {text}"), level)


def _remove_previous(client: JobClient, labels: Mapping[str, str]) -> None:
    """Removes jobs of previous attempts at this task, whose workers would train beside the new ones."""
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    for job in client.jobs(selector):
        name = job["metadata"]["name"]
        _report(f"removing {name} of a previous attempt")
        client.delete(name)
        deadline = time.monotonic() + _SHUTDOWN_SECONDS
        while client.pods(name):
            if time.monotonic() > deadline:
                raise ProjectError(
                    f"the workers of the previous training job {name} must end within {_SHUTDOWN_SECONDS:.0f} s; they "
                    "did not. Look at their nodes: kubectl get pods --output wide"
                )
            time.sleep(1)


@contextlib.contextmanager
def _running(client: JobClient, job: Json) -> Iterator[None]:
    """Creates a job and removes it at the end of the block, however that ends."""
    name = job["metadata"]["name"]
    try:
        _create(client, job)
        workers = job["spec"]["tfReplicaSpecs"]["Worker"]["replicas"]
        _report(f"{name}, {workers} workers, in the namespace {client.namespace}")
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt the removal
        _remove(client, name)


def _create(client: JobClient, job: Json) -> None:
    """Creates a job with several attempts, one of which may succeed although its response is lost."""
    for remaining in reversed(range(_ATTEMPTS)):
        try:
            client.create(job)
        except ApiError as error:
            if error.status == 409 and remaining < _ATTEMPTS - 1 and client.job(job["metadata"]["name"]):
                return
            if not (remaining and _is_transient(error)):
                raise
            _report(str(error))
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _remove(client: JobClient, name: str) -> None:
    """Removes a job; logs a warning if that fails, because the result does not depend on it."""
    for remaining in reversed(range(_ATTEMPTS)):
        try:
            client.delete(name)
        except ApiError as error:
            if not (remaining and _is_transient(error)):
                _report(f"{name} was not removed; remove it: kubectl delete tfjob {name}. {error}", logging.WARNING)
                return
            time.sleep(_PAUSE_SECONDS)
        else:
            _report(f"{name} was removed")
            return


def _is_transient(error: ApiError) -> bool:
    """Returns whether the request may succeed in a minute."""
    return error.status in {0, 429} or error.status >= 500


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Raises SystemExit in the block when its pod is stopped, so that the block cleans up."""

    def stop(number: int, frame: Any) -> None:
        _report("this task is being stopped", logging.WARNING)
        sys.exit(128 + number)

    handler = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
