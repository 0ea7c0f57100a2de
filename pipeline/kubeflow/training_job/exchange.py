# SPDX-License-Identifier: Apache-2.0
"""Files that a training job and the task that launches it exchange through the artifact store.

    JOB/job.json                URLs of the inputs, and the configuration; written by the task
    JOB/results/ATTEMPT/…       outputs of the first worker: model/…, model_run/…
    JOB/results/manifest.json   {"attempt": ATTEMPT, "files": {"model/…": {"size": …, "sha256": …}, …}}; written last

Only the files in the manifest are the model, so a partial upload is never used. A killed attempt leaves files that
nothing reads; the next attempt has another name.
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

# Keys in the `custom_config` of a task that launches a job: the TFJob, and the task's name and addresses.
MANIFEST, TASK = "training_job", "task"
_JOB, _RESULTS, _MANIFEST = "job.json", "results", "manifest.json"


@dataclasses.dataclass(frozen=True)
class Job:
    """The inputs of a training.

    Attributes:
        train: URLs of the folders with the TFRecords of the split train.
        val: URLs for the split val. There are none for test, which training never reads.
        transform_graph: URL of the TransformGraph.
        config: `custom_config` of `trainer.run_fn`.
    """

    train: list[str]
    val: list[str]
    transform_graph: str
    config: dict[str, Any]


def write(url: str, job: Job) -> None:
    """Writes job.json.

    Raises:
        BadInput: here and in every function, if the store cannot be used.
    """
    _write(f"{url}/{_JOB}", json.dumps(dataclasses.asdict(job), indent=1).encode())


def read(url: str) -> Job:
    """Reads job.json.

    Raises:
        BadInput: there is none.
    """
    content = _read(f"{url}/{_JOB}")
    if content is None:
        raise BadInput(f"{url} must be the address of a training job; it has no {_JOB}. Start it from its pipeline.")
    return Job(**json.loads(content))


def is_published(url: str) -> bool:
    """Returns whether a job has a complete model."""
    return _read(f"{url}/{_RESULTS}/{_MANIFEST}") is not None


def publish(url: str, folder: pathlib.Path) -> None:
    """Uploads all files below a folder as the results of a job, and then the manifest."""
    attempt = uuid.uuid4().hex
    store, root = storage.connect(f"{url}/{_RESULTS}/{attempt}")
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        files[name] = {"size": path.stat().st_size, "sha256": _sha256(path)}
        with storage.refusals(url):
            store.put_file(str(path), f"{root}/{name}")
    _write(f"{url}/{_RESULTS}/{_MANIFEST}", json.dumps({"attempt": attempt, "files": files}, indent=1).encode())


def fetch_results(url: str, folders: Mapping[str, pathlib.Path]) -> None:
    """Downloads the results of a job, and copies them to local folders after all files match the manifest.

    Args:
        url: of the job.
        folders: name of a published folder -> local folder that its files are copied to.

    Raises:
        ProjectError: there is no manifest, or a file does not match it.
    """
    content = _read(f"{url}/{_RESULTS}/{_MANIFEST}")
    if content is None:
        raise ProjectError(
            f"a training job that succeeds must publish a model with a manifest; {url} has none. Look at the log of "
            "worker 0, and run again."
        )
    manifest = json.loads(content)
    store, root = storage.connect(f"{url}/{_RESULTS}/{manifest['attempt']}")
    with tempfile.TemporaryDirectory() as scratch:
        for name, expected in manifest["files"].items():
            path = storage.inside(pathlib.Path(scratch), name, url)
            with storage.refusals(url):
                store.get_file(f"{root}/{name}", str(path))
            if (path.stat().st_size, _sha256(path)) != (expected["size"], expected["sha256"]):
                raise ProjectError(
                    f"{url}: every file of a model must match the size and the checksum in its manifest; {name} does "
                    "not. Run again."
                )
        for name, folder in folders.items():
            shutil.copytree(pathlib.Path(scratch, name), folder, dirs_exist_ok=True)


def remove(url: str) -> None:
    """Removes a job's files from the store if its rights allow it; the task has the results or has failed."""
    with contextlib.suppress(BadInput), storage.refusals(url):
        store, root = storage.connect(url)
        for name in store.find(root):
            store.rm_file(name)


def _write(url: str, content: bytes) -> None:
    store, path = storage.connect(url)
    with storage.refusals(url):
        store.pipe_file(path, content)


def _read(url: str) -> bytes | None:
    store, path = storage.connect(url)
    with storage.refusals(url):
        try:
            return bytes(store.cat_file(path))
        except FileNotFoundError:
            return None


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
