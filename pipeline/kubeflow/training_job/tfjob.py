# SPDX-License-Identifier: Apache-2.0
"""Trains as a training job of several workers, instead of in the task itself: in the place of `run.run_fn`.

The job is a TFJob of Kubeflow's training operator. The task makes it, follows it, and puts out what it made; the task
needs no accelerator. This module holds functions only: TFX loads it a second time when it resolves `run_fn`.
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
from pipeline.kubeflow.training_job.cluster import Cluster, Json, Refused
from pipeline.kubeflow.training_job.job_watch import JobWatch

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs

# Labels of a job: whose it is.
RUN_LABEL, TASK_LABEL = "mnist-tfx/run", "mnist-tfx/task"
_GONE_SECONDS = 120.0  # until the workers of a former job must be gone
_TRIES, _PAUSE_SECONDS = 5, 5.0  # of making and of removing a job


def run_fn(fn_args: FnArgs) -> None:
    """Has a training job do the work of `run.run_fn`.

    Reads:
        `train_files`, `eval_files`, `transform_graph_path`: only where they lie; the workers read them in the store.
        `custom_config`: that of `run.run_fn`, with two more keys. `training_job`: the TFJob, complete but for its name,
        its labels and its owner, and the address of its job, which becomes the last argument of the workers' command.
        `task`: `{"name": node, "run": URL of the run's folder in the store, "urls": {local path: URL}}`.

    Writes:
        `serving_model_dir` and keras/ beside it, `model_run_dir`: what the first worker made, once all of it is there.

    Raises:
        BadInput: this is no pod of a cluster, or the store cannot be used.
        GateStopped, BadInput, ProjectError: the job failed, by the exit code of the worker that failed.
        ProjectError: the API refuses, the job was deleted, or its model is not whole.
    """
    config = dict(fn_args.custom_config)
    manifest, task = config.pop(exchange.MANIFEST), config.pop(exchange.TASK, None)
    if task is None or "KFP_POD_NAME" not in os.environ:
        raise BadInput(
            "a training job is made by a task of the open-source Kubeflow Pipelines, whose storage the workers reach; "
            "compile the package without --workers for another place"
        )
    model = pathlib.Path(fn_args.serving_model_dir).parent
    labels = {RUN_LABEL: _label(task["run"].rpartition("/")[2]), TASK_LABEL: _label(task["name"])}
    name = f"{labels[TASK_LABEL][:20]}-{labels[RUN_LABEL][:8].rstrip('-')}-{secrets.token_hex(3)}"
    url = f"{task['urls'][str(model)].rpartition('/')[0]}/jobs/{name}"
    job = exchange.Job(
        train=[_url(pattern, task["urls"]) for pattern in fn_args.train_files],
        val=[_url(pattern, task["urls"]) for pattern in fn_args.eval_files],
        transform_graph=_url(fn_args.transform_graph_path, task["urls"]),
        # The same for each try of this task, so that one goes on where another stopped.
        config=config | {"checkpoints": f"{task['run']}/checkpoints"},
    )
    with Cluster() as cluster:
        _remove_former(cluster, labels)
        exchange.write(url, job)
        try:
            with _stopped_by_sigterm(), _made(cluster, _completed(manifest, name, labels, cluster, url)):
                JobWatch(cluster, name, manifest["spec"]["runPolicy"]["backoffLimit"]).until_it_succeeds()
                exchange.take(url, {"model": model, "model_run": pathlib.Path(fn_args.model_run_dir)})
        finally:
            exchange.tidy(url)


def _url(path: str, urls: Mapping[str, str]) -> str:
    """The URL of a folder, or of the folder that a pattern matches all files of."""
    folder = path.removesuffix("/*")
    root = next(root for root in sorted(urls, key=len, reverse=True) if f"{folder}/".startswith(f"{root}/"))
    return f"{urls[root]}{folder.removeprefix(root)}"


def _label(text: str) -> str:
    """A text as part of a name and as a label of Kubernetes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].rstrip("-")


def _completed(manifest: Json, name: str, labels: Mapping[str, str], cluster: Cluster, url: str) -> Json:
    """The TFJob with what is only known now."""
    made = copy.deepcopy(manifest)
    # Kubernetes removes the job when this task's pod is removed. Nothing blocks on it: that would take further rights.
    owner = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": os.environ["KFP_POD_NAME"],
        "uid": os.environ.get("KFP_POD_UID", ""),
    }
    made["metadata"] = {
        "name": name,
        "namespace": cluster.namespace,
        "labels": dict(labels),
        **({"ownerReferences": [owner]} if owner["uid"] else {}),
    }
    template = made["spec"]["tfReplicaSpecs"]["Worker"]["template"]
    template["metadata"]["labels"].update(labels)
    template["spec"]["containers"][0]["args"].append(url)
    if account := cluster.account():  # whose rights in a store may be the only ones that the workers have there
        template["spec"]["serviceAccountName"] = account
    return made


def _report(text: str, level: int = logging.INFO) -> None:
    progress.report(progress.Message(f"training job: {text}"), level)


def _remove_former(cluster: Cluster, labels: Mapping[str, str]) -> None:
    """Removes what a former try of this task has left running: its workers would train on, beside the new ones."""
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    for job in cluster.jobs(selector):
        name = job["metadata"]["name"]
        _report(f"{name} of a former try is removed")
        cluster.delete(name)
        until = time.monotonic() + _GONE_SECONDS
        while cluster.pods(name):
            if time.monotonic() > until:
                raise ProjectError(
                    f"the workers of the former training job {name} must end; they did not in {_GONE_SECONDS:.0f} s. "
                    "Look at their nodes: kubectl get pods --output wide"
                )
            time.sleep(1)


@contextlib.contextmanager
def _made(cluster: Cluster, job: Json) -> Iterator[None]:
    """A job that is there as long as the block lasts, however that ends."""
    name = job["metadata"]["name"]
    try:
        _make(cluster, job)
        workers = job["spec"]["tfReplicaSpecs"]["Worker"]["replicas"]
        _report(f"{name}, {workers} workers, in the namespace {cluster.namespace}")
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what began to end, ends
        _remove(cluster, name)


def _make(cluster: Cluster, job: Json) -> None:
    """Makes a job, where need be by several tries, of which one may have come through without its answer."""
    for left in reversed(range(_TRIES)):
        try:
            cluster.create(job)
        except Refused as error:
            if error.status == 409 and left < _TRIES - 1 and cluster.job(job["metadata"]["name"]):
                return
            if not (left and _passes(error)):
                raise
            _report(str(error))
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _remove(cluster: Cluster, name: str) -> None:
    """Removes a job; where that cannot be, says so: what the job has come to does not depend on it."""
    for left in reversed(range(_TRIES)):
        try:
            cluster.delete(name)
        except Refused as error:
            if not (left and _passes(error)):
                _report(f"{name} stays: kubectl delete tfjob {name}. {error}", logging.WARNING)
                return
            time.sleep(_PAUSE_SECONDS)
        else:
            _report(f"{name} is removed")
            return


def _passes(error: Refused) -> bool:
    """Whether it may be otherwise in a minute."""
    return error.status in {0, 429} or error.status >= 500


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """What ends a pod ends the block, with all that it has to clear away."""

    def stop(number: int, frame: Any) -> None:
        _report("this task is being ended", logging.WARNING)
        sys.exit(128 + number)

    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
