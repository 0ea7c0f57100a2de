# SPDX-License-Identifier: Apache-2.0
"""A run of one tiny task, which finds out on the cluster what `doctor` cannot see from outside.

Its pod asks for as much as the largest task does, on the nodes, with the volumes, secrets and environment of the
training. No pipeline is uploaded, and the run is deleted when its findings are read.
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
from datetime import datetime
from typing import TYPE_CHECKING, Any

from components.errors import ProjectError
from pipeline import cli, code_digest
from pipeline.cli import BLOCKED, OK, UNKNOWN, Check
from pipeline.kubeflow import probe, resources, workflow
from pipeline.kubeflow.resources import TRAIN, Needs, Share

if TYPE_CHECKING:
    from pipeline.kubeflow.client import Server

PIPELINE, TASK = "mnist-tfx-doctor", "probe"
COMMAND = ("python", "-m", "pipeline.kubeflow.probe")
POLL_SECONDS, LIMIT_SECONDS, PATIENCE_SECONDS = 3.0, 900.0, 60.0
_ON_ITS_WAY = re.compile(r"(ContainerCreating|PodInitializing)?$")
# What Kubernetes says of a pod that does not start -> the line that it belongs to, and the way out.
_HINDRANCES = (
    ("image", r"image", "push it to where the nodes can pull it; a private registry wants a pull secret"),
    ("secret", r"secret", "--secret names one that is there, with its key; --storage own leaves Kubeflow's out"),
    ("volume", r"persistentvolumeclaim|volume", "--pvc CLAIM=PATH with a claim of the runs' namespace that is bound"),
    ("GPUs", r"Insufficient \S+/", "--gpus, --gpu-resource"),
    ("nodes", r"Insufficient (?!\S+/)|taint|affinity|selector", "--cpu, --memory, --node-selector, --toleration"),
)  # fmt: skip


def largest(needs: Needs) -> Share:
    """The largest request for processors, and for memory, of all tasks; limits likewise."""

    def most(of: str, bound: int) -> str:
        amounts = [getattr(share, of)[bound] for share in needs.shares.values()]
        return max(amounts, key=lambda text: resources.amount(of, text))

    return Share((most("cpu", 0), most("cpu", 1)), (most("memory", 0), most("memory", 1)))


def package(image: str, needs: Needs, serving_dir: str) -> str:
    """The package's text."""
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
            "pipelineInfo": {"name": PIPELINE, "description": "Looks at what a run would find on this cluster."},
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
    """Starts the run, waits for its end, and returns what it found; `probe` says how it went.

    Args:
        server: where it runs.
        text: the package.
        args: of the command: `submit`, in seconds, is for how long the pod may have no node.
    """
    try:
        with _started(server, text, args) as run_id:
            return _followed(server, run_id, args)
    except KeyboardInterrupt:
        raise ProjectError("stopped, and the run of the probe is deleted") from None
    except ProjectError as error:
        return [Check(TASK, BLOCKED, " ".join(str(error).split()))]


@contextlib.contextmanager
def _started(server: Server, text: str, args: argparse.Namespace) -> Iterator[str]:
    client, namespace = server.kfp, server.namespace
    experiment = server.call("make an experiment", lambda: client.create_experiment("Default", namespace=namespace))
    options: dict[str, Any] = {"pipeline_root": args.pipeline_root, "service_account": args.service_account}
    name = f"{PIPELINE} {datetime.now():%Y-%m-%d %H-%M-%S}"
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "probe.yaml"
        file.write_text(text, encoding="utf-8")
        options["pipeline_package_path"] = str(file)
        run = server.call("start a run", lambda: client.run_pipeline(experiment.experiment_id, name, **options))
    cli.print_lines(args.json, f"{TASK}: run {run.run_id}, {server.host}/#/runs/details/{run.run_id}")
    try:
        yield run.run_id
    finally:
        with contextlib.suppress(ProjectError):
            server.call("delete the run", lambda: client.delete_run(run.run_id))


def _followed(server: Server, run_id: str, args: argparse.Namespace) -> list[Check]:
    start = heard = time.monotonic()
    waits_since, shown = None, ""
    while True:
        now = time.monotonic()
        try:
            run, argo = workflow.get(server, run_id), workflow.fetch(server, run_id)
            heard = now
        except ProjectError:
            if now - heard > PATIENCE_SECONDS:
                raise
            time.sleep(POLL_SECONDS)
            continue
        state, messages = workflow.state(run), _messages(argo)
        if state in workflow.ENDED:
            return _findings(server, run, argo, messages, args, now - start)
        word = messages[-1] if messages else state
        if word != shown:
            cli.print_lines(args.json, f"{TASK}: {word} ({now - start:.0f} s)")
            shown = word
        waits_since = (waits_since or now) if messages and not _ON_ITS_WAY.match(word) else None
        if waits_since is not None and now - waits_since >= args.submit:
            return _hindered(word, f"its pod did not start in {args.submit:.0f} s")
        if now - start > LIMIT_SECONDS:
            return [Check(TASK, BLOCKED, f"it did not end in {LIMIT_SECONDS:.0f} s: {word}")]
        time.sleep(POLL_SECONDS)


def _messages(argo: workflow.Workflow | None) -> list[str]:
    nodes = [node for node in argo.nodes if node.message and node.state != "succeeded"] if argo else []
    return [" ".join(node.message.split()) for node in sorted(nodes, key=lambda node: len(node.path))]


def _hindered(message: str, how: str) -> list[Check]:
    """The lines that a pod's message is about, else that of the probe."""
    lines = [
        Check(name, BLOCKED, message, advice)
        for name, pattern, advice in _HINDRANCES
        if re.search(pattern, message, re.IGNORECASE)
    ]
    return [*lines, Check(TASK, BLOCKED, how if lines else f"{how}: {message}")]


def _findings(
    server: Server, run: Any, argo: workflow.Workflow | None, messages: Sequence[str], args: argparse.Namespace,
    seconds: float,
) -> list[Check]:  # fmt: skip
    spec, state = workflow.spec(server, run), workflow.state(run)
    task = next(task for task in workflow.tasks(run, spec, argo) if task.name == TASK)
    log, reason = workflow.log(server, run, argo, task)
    checks = probe.parse(log or "")
    if checks is not None:
        account = args.service_account or "the server's service account"
        ran = [
            Check("nodes", OK, "one takes the largest request of all tasks"),
            Check("secret", OK, "its keys came into the task's environment"),
            Check("account", OK, f"{account} ran a task"),
        ]
        names = {check.name for check in checks}
        end = Check("launcher", OK, f"its output lies below {args.pipeline_root}")
        if state != "succeeded":
            end = Check("launcher", BLOCKED, f"the task ended well, its run is {state}: {_last(messages, log or '')}")
        checks += [*(check for check in ran if check.name not in names), end]
        return [*checks, Check(TASK, OK, f"ran in {seconds:.0f} s")]
    if log is None and state == "succeeded":
        return [Check(TASK, UNKNOWN, f"not known: {reason}", "--host of the user interface, which has the logs")]
    if log is None:
        return _hindered(messages[-1] if messages else reason, f"its run is {state}, without a log")
    if re.search(r"No module named '?pipeline|executable file not found", log):
        return [Check("image", BLOCKED, "pulled, but does not hold this code", "build it from this checkout")]
    return [Check(TASK, BLOCKED, f"its run is {state}: {_last(messages, log)}")]


def _last(messages: Sequence[str], log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip() and probe.parse(line) is None]
    return "; ".join([*messages[-1:], *lines[-1:]]) or "no reason was given"
