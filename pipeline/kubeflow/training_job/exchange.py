# SPDX-License-Identifier: Apache-2.0
"""What a training job and the task that launched it give each other, by way of the artifact store.

    JOB/job.json                what to train: addresses of the inputs, the configuration; written by the task
    JOB/results/ATTEMPT/…       what the first worker made: model/…, model_run/…
    JOB/results/manifest.json   {"attempt": ATTEMPT, "files": {"model/…": {"size": …, "sha256": …}, …}}; written last

Without a manifest there is no model, and only the files that it names are it: half an upload is never taken for one. An
attempt that was killed leaves files that nobody reads, and the next one has another name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from typing import Any

from components import storage
from components.errors import BadInput, ProjectError

# Keys of the `custom_config` of a task that launches a job: the TFJob, and what the orchestrator says of the task.
MANIFEST, TASK = "training_job", "task"
_JOB, _RESULTS, _MANIFEST = "job.json", "results", "manifest.json"


@dataclasses.dataclass(frozen=True)
class Job:
    """What to train.

    Attributes:
        train: URLs of the folders with the TFRecords of the split train.
        val: the same of the split val. The split test is not part of a job: training never sees it.
        transform_graph: URL of the TransformGraph.
        config: what `run.run_fn` takes as `custom_config`.
    """

    train: list[str]
    val: list[str]
    transform_graph: str
    config: dict[str, Any]


def write(url: str, job: Job) -> None:
    """Writes a job to its place.

    Raises:
        BadInput: here and in every function, if the store cannot be used.
    """
    _put(f"{url}/{_JOB}", json.dumps(dataclasses.asdict(job), indent=1).encode())


def read(url: str) -> Job:
    """Reads a job."""
    content = _get(f"{url}/{_JOB}")
    if content is None:
        raise BadInput(f"{url} must be the address of a training job; it has no {_JOB}. Start it from its pipeline.")
    return Job(**json.loads(content))


def is_published(url: str) -> bool:
    """Whether a job's model is there, whole."""
    return _get(f"{url}/{_RESULTS}/{_MANIFEST}") is not None


def publish(url: str, folder: pathlib.Path) -> None:
    """Uploads all files below a folder as the results of a job, and then says so."""
    attempt = uuid.uuid4().hex
    files, root = storage.connect(f"{url}/{_RESULTS}/{attempt}")
    manifest = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        manifest[name] = {"size": path.stat().st_size, "sha256": _sha256(path)}
        with storage.refusals(url):
            files.put_file(str(path), f"{root}/{name}")
    _put(f"{url}/{_RESULTS}/{_MANIFEST}", json.dumps({"attempt": attempt, "files": manifest}, indent=1).encode())


def take(url: str, places: Mapping[str, pathlib.Path]) -> None:
    """Fetches the results of a job, and copies them to their places once each file is what the manifest says.

    Args:
        url: the job's.
        places: name of a folder that was published -> folder that gets its files.

    Raises:
        ProjectError: there is no manifest, or a file is not what it says.
    """
    content = _get(f"{url}/{_RESULTS}/{_MANIFEST}")
    if content is None:
        raise ProjectError(
            f"a training job that succeeds must leave a model and a manifest of it; {url} has none. Look at the log of "
            "worker 0, and run again."
        )
    manifest = json.loads(content)
    files, root = storage.connect(f"{url}/{_RESULTS}/{manifest['attempt']}")
    with tempfile.TemporaryDirectory() as scratch:
        for name, told in manifest["files"].items():
            path = storage.inside(pathlib.Path(scratch), name, url)
            with storage.refusals(url):
                files.get_file(f"{root}/{name}", str(path))
            if (path.stat().st_size, _sha256(path)) != (told["size"], told["sha256"]):
                raise ProjectError(
                    f"{url}: every file of a model must be what its manifest says; {name} is another. Run again."
                )
        for name, folder in places.items():
            shutil.copytree(pathlib.Path(scratch, name), folder, dirs_exist_ok=True)


def tidy(url: str) -> None:
    """Removes a job's files from the store, as far as it may: the task has put out what they hold, or failed."""
    with contextlib.suppress(BadInput), storage.refusals(url):
        files, root = storage.connect(url)
        for name in files.find(root):
            files.rm_file(name)


def _put(url: str, content: bytes) -> None:
    files, path = storage.connect(url)
    with storage.refusals(url):
        files.pipe_file(path, content)


def _get(url: str) -> bytes | None:
    files, path = storage.connect(url)
    with storage.refusals(url):
        try:
            return bytes(files.cat_file(path))
        except FileNotFoundError:
            return None


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
