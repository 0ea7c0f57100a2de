# SPDX-License-Identifier: Apache-2.0
"""The task of `doctor --submit`: checks on the cluster what the tasks of a run need.

    python -m pipeline.kubeflow.probe --task probe --input JSON --code_digest DIGITS [--serving_dir URL|DIR]
        [--volumes DIR,DIR] [--shared_memory SIZE] [--gpus N] [--workers]

The checks are one line of JSON on stdout, which the client reads from the log, and the task's output. The exit code is
always 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from components import environment, paths, stdio, storage
from components.errors import ProjectError
from pipeline import cgroup, code_digest
from pipeline.cli import BLOCKED, OK, WARNING, Check
from pipeline.kubeflow import entrypoint, launcher_adapter, resources, task_records

KEY, OUTPUT = "probe", "findings"
SHARED_MEMORY = pathlib.Path("/dev/shm")
_MEMORY = pathlib.Path("/proc/meminfo")


def main(arguments: Sequence[str]) -> int:
    """Runs and writes every check."""
    parser = argparse.ArgumentParser(prog="pipeline.kubeflow.probe", description=__doc__, allow_abbrev=False)
    for name in ("task", "input", "code_digest"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("serving_dir", "volumes", "shared_memory"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--workers", action="store_true")
    args = parser.parse_args(arguments)
    executor_input = json.loads(args.input)
    checks = [
        _check("image", lambda: _image(args.code_digest)),
        _check("store", lambda: _store(task_records.prefix(executor_input, args.task))),
        _check("pod", lambda: _pod(args.shared_memory)),
    ]
    if args.serving_dir:
        checks.append(_check("push", lambda: _push(args.serving_dir)))
    if args.volumes:
        checks.append(_check("volume", lambda: _volume(args.volumes.split(","), args.serving_dir)))
    if args.workers:
        checks.append(_check("account", _account))
    if args.gpus:
        checks.append(_check("GPUs", lambda: _gpus(args.gpus)))
    text = json.dumps({KEY: [check._asdict() for check in checks]})
    sys.stdout.write(f"{text}\n")
    _publish(executor_input, text)
    return 0


def parse(log: str) -> list[Check] | None:
    """Returns the checks in a task's log, in which the launcher writes too; None where there are none."""
    for line in reversed(log.splitlines()):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return [Check(**row) for row in json.loads(line[line.index("{") :])[KEY]]
    return None


def _check(name: str, work: Callable[[], Check]) -> Check:
    try:
        return work()
    except ProjectError as error:
        return Check(name, BLOCKED, " ".join(str(error).split()))
    except Exception as error:  # its text may hold a secret that a library received
        return Check(name, BLOCKED, f"the check failed ({type(error).__name__})")


def _image(digest: str) -> Check:
    entrypoint.check_code(digest)
    return Check("image", OK, f"pulled, and holds this code, SHA-256 {code_digest.of_project()[:12]}…")


def _store(prefix: str) -> Check:
    url = f"{prefix}/probe.json"
    task_records.put(url, b"{}")
    files, path = storage.connect(task_records.address(url))
    files.cat_file(path)
    with contextlib.suppress(Exception):  # credentials may lack this right, which no task needs
        files.rm_file(path)
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    through = f" at {endpoint}" if endpoint and not url.startswith("gs://") else ""
    return Check("store", OK, f"{prefix.rsplit('/', 2)[0]}{through} can be written and read")


def _push(serving_dir: str) -> Check:
    from components.push.serving_dir import open_destination

    open_destination(serving_dir).probe()
    condition = ", and the store obeys If-None-Match" if serving_dir.startswith("s3://") else ""
    return Check("push", OK, f"{serving_dir} accepts models{condition}")


def _volume(folders: Sequence[str], serving_dir: str) -> Check:
    """Checks that volumes can be read, and that `serving_dir` can be written if one of them holds it."""
    faults, read_only = [], []
    for folder in folders:
        is_for_models = pathlib.PurePath(serving_dir).is_relative_to(folder)
        if fault := _read_fault(folder):
            faults.append(f"not readable: {fault}")
        elif fault := paths.fault(pathlib.Path(serving_dir if is_for_models else folder)):
            if is_for_models:
                faults.append(f"not writable: {fault}")
            else:
                read_only.append(fault)
    advice = f"give it to user {os.getuid()}, as deploy/storage.yaml does"
    if faults:
        return Check("volume", BLOCKED, "; ".join(faults), advice)
    if read_only:
        summary = f"can be read but not written: {'; '.join(read_only)}"
        return Check("volume", WARNING, summary, f"a volume of data needs no more; for models, {advice}")
    return Check("volume", OK, f"{', '.join(folders)} can be written")


def _read_fault(folder: str) -> str:
    """Returns the path and the reason why a folder cannot be listed, as `PATH: REASON`; "" if it can."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        return f"{folder}: {(error.strerror or str(error)).lower()}"
    return ""


def _pod(shared_memory: str) -> Check:
    size = shutil.disk_usage(SHARED_MEMORY).total
    memory = float(_MEMORY.read_text(encoding="ascii").split()[1]) * 1024  # of the node
    if container := cgroup.memory():
        memory = min(memory, container.limit)
    summary = f"{os.cpu_count()} CPUs, {memory / 2**30:.1f} GiB of memory, /dev/shm of {size / 2**20:.0f} MiB"
    if shared_memory and size < float(resources.amount("--shared-memory", shared_memory)):
        return Check("pod", BLOCKED, f"{summary}, but --shared-memory is {shared_memory}", "lower --shared-memory")
    return Check("pod", OK, summary)


def _account() -> Check:
    from pipeline.kubeflow.training_job import cluster

    with cluster.JobClient() as api:
        missing = [f"{verb} {kind}" for group, kind, verb in cluster.RIGHTS if not api.may(group, kind, verb)]
        name = api.account() or "the run's service account"
    if missing:
        advice = "deploy/training-job.yaml, or another --service-account"
        return Check("account", BLOCKED, f"{name} may not {', '.join(missing)}", advice)
    return Check("account", OK, f"{name} ran a task, and may create training jobs")


def _gpus(count: int) -> Check:
    import tensorflow as tf

    visible = len(tf.config.list_physical_devices("GPU"))
    if visible < count:
        advice = "--image with CUDA (make image TARGET=gpu), and the nodes' driver"
        return Check("GPUs", BLOCKED, f"TensorFlow sees {visible} of {count}", advice)
    return Check("GPUs", OK, f"TensorFlow sees {visible}")


def _publish(executor_input: dict[str, Any], text: str) -> None:
    outputs = executor_input["outputs"]
    path = pathlib.Path(launcher_adapter.local_path(outputs["artifacts"][OUTPUT]["artifacts"][0]["uri"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    environment.prepare()
    os.umask(entrypoint.UMASK)
    stdio.run(lambda: main(sys.argv[1:]))
