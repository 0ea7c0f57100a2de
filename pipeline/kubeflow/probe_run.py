# SPDX-License-Identifier: Apache-2.0
"""A run of one small task on the cluster, which checks what `doctor` cannot see from outside.

Its pod requests as much as the largest task does, on the nodes and with the volumes, secrets and environment of the
training. No pipeline is uploaded, and the run is deleted once its findings have been read.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import pathlib
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from components.errors import ProjectError
from pipeline import cli, code_digest
from pipeline.cli import BLOCKED, OK, UNKNOWN, Check
from pipeline.kubeflow import commands, probe, resources, runs
from pipeline.kubeflow.resources import TRAIN, Needs, Share

if TYPE_CHECKING:
    from pipeline.kubeflow.client import Server

PIPELINE, TASK = "mnist-tfx-doctor", "probe"
COMMAND = ("python", "-m", "pipeline.kubeflow.probe")
POLL_SECONDS, LIMIT_SECONDS = 3.0, 900.0
_ON_ITS_WAY = re.compile(r"(ContainerCreating|PodInitializing)?$")
# Check, pattern in the reason that Kubernetes gives for a pod that does not start, advice.
_START_FAILURES = (
    ("image", r"image", "push it to where the nodes can pull it; a private registry wants a pull secret"),
    ("secret", r"secret", "--secret names one that is there, with its key; --storage own leaves Kubeflow's out"),
    ("volume", r"persistentvolumeclaim|volume", "--pvc CLAIM=PATH with a claim of the runs' namespace that is bound"),
    ("GPUs", r"Insufficient \S+/", "--gpus, --gpu-resource"),
    ("nodes", r"Insufficient (?!\S+/)|taint|affinity|selector", "--cpu, --memory, --node-selector, --toleration"),
)  # fmt: skip


def largest(needs: Needs) -> Share:
    """Returns the largest request for processors, and for memory, of all tasks; limits likewise."""

    def maximum(resource: str, bound: int) -> str:
        amounts = [getattr(share, resource)[bound] for share in needs.shares.values()]
        return max(amounts, key=lambda text: resources.amount(resource, text))

    return Share((maximum("cpu", 0), maximum("cpu", 1)), (maximum("memory", 0), maximum("memory", 1)))


def package(image: str, needs: Needs, serving_dir: str) -> str:
    """Returns the text of the package."""
    import yaml

    gpus = needs.gpus or needs.gpus_per_worker
    pod_needs = dataclasses.replace(needs, shares={TRAIN: largest(needs)}, gpus=gpus, workers=0)
    args = ["--task", TASK, "--input", "{{$}}", "--code_digest", code_digest.of_project()]
    flags = {
        "serving_dir": serving_dir, "volumes": ",".join(needs.volumes.values()),
        "shared_memory": needs.shared_memory, "gpus": str(gpus or ""),
    }  # fmt: skip
    args += [text for name, value in flags.items() if value for text in (f"--{name}", value)]
    args += ["--workers"] * bool(needs.workers)
    label, component = f"exec-{TASK}", f"comp-{TASK}"
    container = {"image": image, "command": list(COMMAND), "args": args, **pod_needs.container(TRAIN)}
    output = {"artifactType": {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}}
    task = {"taskInfo": {"name": TASK}, "componentRef": {"name": component}, "cachingOptions": {}}
    pod = pod_needs.pod(TRAIN)
    return yaml.safe_dump_all([
        {
            "pipelineInfo": {"name": PIPELINE, "description": "Checks what a run needs of this cluster."},
            "schemaVersion": "2.1.0",
            "sdkVersion": PIPELINE,
            "root": {"dag": {"tasks": {TASK: task}}},
            "components": {
                component: {
                    "executorLabel": label,
                    "outputDefinitions": {"artifacts": {probe.OUTPUT: output}},
                }
            },
            "deploymentSpec": {"executors": {label: {"container": container}}},
        },
        {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {label: pod} if pod else {}}}}},
    ])  # fmt: skip


def run(server: Server, text: str, args: argparse.Namespace) -> list[Check]:
    """Starts the run, waits for its end, and returns its findings; the check `probe` is about the run itself.

    Args:
        server: to run on.
        text: the package.
        args: of the command: `submit` is how many seconds the pod may be without a node.
    """
    try:
        with _start(server, text, args) as run_id:
            return _follow(server, run_id, args)
    except KeyboardInterrupt:
        raise ProjectError("stopped, and the run of the probe is deleted") from None
    except ProjectError as error:
        return [Check(TASK, BLOCKED, " ".join(str(error).split()))]


@contextlib.contextmanager
def _start(server: Server, text: str, args: argparse.Namespace) -> Iterator[str]:
    client, namespace = server.kfp, server.namespace
    experiment = server.call("make an experiment", client.create_experiment, "Default", namespace=namespace)
    options: dict[str, Any] = {"pipeline_root": args.pipeline_root, "service_account": args.service_account}
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "probe.yaml"
        file.write_text(text, encoding="utf-8")
        options["pipeline_package_path"] = str(file)
        name = commands.run_name(PIPELINE)
        run = server.call("start a run", client.run_pipeline, experiment.experiment_id, name, **options)
    cli.print_lines(args.json, f"{TASK}: run {run.run_id}, {server.host}/#/runs/details/{run.run_id}")
    try:
        yield run.run_id
    finally:
        with contextlib.suppress(ProjectError):
            server.call("delete the run", client.delete_run, run.run_id)


def _follow(server: Server, run_id: str, args: argparse.Namespace) -> list[Check]:
    start, waiting_since, shown = time.monotonic(), None, ""
    run = runs.patiently(lambda: runs.Run(server, run_id), POLL_SECONDS)
    while run.state not in runs.ENDED:
        seconds = time.monotonic() - start
        message = [run.state, *run.messages][-1]
        if message != shown:
            cli.print_lines(args.json, f"{TASK}: {message} ({seconds:.0f} s)")
            shown = message
        is_waiting = bool(run.messages) and not _ON_ITS_WAY.match(message)
        waiting_since = (seconds if waiting_since is None else waiting_since) if is_waiting else None
        if waiting_since is not None and seconds - waiting_since >= args.submit:
            return _start_failures(message, f"its pod did not start in {args.submit:.0f} s")
        if seconds > LIMIT_SECONDS:
            return [Check(TASK, BLOCKED, f"it did not end in {LIMIT_SECONDS:.0f} s: {message}")]
        run.poll(POLL_SECONDS)
    return _findings(run, args, time.monotonic() - start)


def _start_failures(message: str, summary: str) -> list[Check]:
    """Returns the checks that a pod's message is about, and that of the probe."""
    checks = [
        Check(name, BLOCKED, message, advice)
        for name, pattern, advice in _START_FAILURES
        if re.search(pattern, message, re.IGNORECASE)
    ]
    return [*checks, Check(TASK, BLOCKED, summary if checks else f"{summary}: {message}")]


def _findings(run: runs.Run, args: argparse.Namespace, seconds: float) -> list[Check]:
    messages = run.messages
    try:
        log = run.log(next(task for task in run.tasks if task.name == TASK))
    except ProjectError as error:
        if run.state == "succeeded":
            advice = "--host of the user interface, which has the logs"
            return [Check(TASK, UNKNOWN, f"not known: {error}", advice)]
        return _start_failures(messages[-1] if messages else str(error), f"its run is {run.state}, without a log")
    checks = probe.parse(log)
    if checks is not None:
        account = args.service_account or "the server's service account"
        passed = [
            Check("nodes", OK, "one takes the largest request of all tasks"),
            Check("secret", OK, "its keys are in the task's environment"),
            Check("account", OK, f"{account} ran a task"),
        ]
        names = {check.name for check in checks}
        launcher = Check("launcher", OK, f"its output lies below {args.pipeline_root}")
        if run.state != "succeeded":
            reason = f"the task succeeded, its run is {run.state}: {_last(messages, log)}"
            launcher = Check("launcher", BLOCKED, reason)
        checks += [*(check for check in passed if check.name not in names), launcher]
        return [*checks, Check(TASK, OK, f"ran in {seconds:.0f} s")]
    if re.search(r"No module named '?pipeline|executable file not found", log):
        return [Check("image", BLOCKED, "pulled, but does not hold this code", "build it from this checkout")]
    return [Check(TASK, BLOCKED, f"its run is {run.state}: {_last(messages, log)}")]


def _last(messages: Sequence[str], log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip() and probe.parse(line) is None]
    return "; ".join([*messages[-1:], *lines[-1:]]) or "no reason was given"
