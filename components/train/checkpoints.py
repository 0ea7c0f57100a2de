# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a killed training resumes from the last one and ends with the weights it would have had.

A checkpoint is one .npz file without pickles, in a folder or an object store, so that any backend and any number of
processes can read it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from components import storage
from components.errors import ProjectError
from components.train.callbacks import BestWeights

_FILE = "state.npz"


def checkpoint_folder(parent: str, identity: Mapping[str, Any], files: Iterable[str] = ()) -> str:
    """Returns a folder or URL below `parent` that only the same training uses.

    Args:
        parent: the same for the killed run and the resuming run, unlike an output artifact's URI.
        identity: JSON values, everything that the result depends on.
        files: paths of the files that the result depends on; their content counts, not their paths.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for path in files:
        with pathlib.Path(path).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"{parent.rstrip('/')}/{digest.hexdigest()[:32]}"


def remove(folder: str) -> None:
    """Removes the checkpoint of a finished training from its folder or URL."""
    if not storage.is_url(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with storage.refusals(folder):
        store, path = storage.connect(folder)
        for name in store.find(path):  # not every store supports removing many files in a request
            store.rm_file(name)


class Checkpoints(keras.callbacks.Callback):
    """Saves a checkpoint after each epoch, in place of the previous one.

    It has the weights, the state of the optimizer and of all random generators, the best epoch's weights, and the rows
    of the finished epochs. Keras's BackupAndRestore omits the random generators: with dropout, a resumed training would
    continue differently.
    """

    def __init__(self, folder: str, network: keras.Model, rows: list[dict[str, float]], best: BestWeights):
        """Sets the state to save and restore.

        Args:
            folder: of `checkpoint_folder`.
            network: compiled, with a built optimizer.
            rows: of `History`.
            best: saves the best epoch's weights.
        """
        super().__init__()
        self._folder, self._network, self._rows, self._best = folder, network, rows, best

    def restore(self) -> bool:
        """Restores the last checkpoint into the network, the rows and `best`; returns False if there is none.

        Raises:
            ProjectError: the checkpoint cannot be read.
        """
        content = _read(self._folder)
        if content is None:
            return False
        try:
            with np.load(io.BytesIO(content)) as state:
                arrays = {name: state[name] for name in state.files}
            for name, variable in self._variables().items():
                variable.assign(arrays[name])
            self._best.weights = [arrays[f"best/{index}"] for index in range(len(self._best.weights))]
            self._rows[:] = json.loads(arrays["rows"].tobytes())
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ProjectError(
                f"the checkpoint {self._folder}/{_FILE} must hold the state of this training, but cannot be read "
                f"({type(error).__name__}); remove it to start the training from the beginning"
            ) from None
        if not storage.is_url(self._folder):
            os.utime(self._folder)  # checkpoints that no run resumes from expire by their age
        return True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        arrays = {name: keras.ops.convert_to_numpy(variable) for name, variable in self._variables().items()}
        arrays |= {f"best/{index}": weight for index, weight in enumerate(self._best.weights)}
        arrays["rows"] = np.frombuffer(json.dumps(self._rows).encode(), np.uint8)
        content = io.BytesIO()
        np.savez(content, **arrays)
        _write(self._folder, content.getvalue())

    def _variables(self) -> dict[str, keras.Variable]:
        groups: dict[str, Sequence[keras.Variable]] = {
            "network": self._network.variables,
            "optimizer": self._network.optimizer.variables,
        }
        return {
            f"{group}/{index}": variable
            for group, variables in groups.items()
            for index, variable in enumerate(variables)
        }


def _read(folder: str) -> bytes | None:
    if not storage.is_url(folder):
        file = pathlib.Path(folder, _FILE)
        return file.read_bytes() if file.is_file() else None
    with storage.refusals(folder):
        store, path = storage.connect(folder)
        try:
            return bytes(store.cat_file(f"{path}/{_FILE}"))
        except FileNotFoundError:
            return None


def _write(folder: str, content: bytes) -> None:
    """Writes a checkpoint atomically: readers get the previous one or this one, never a part."""
    if storage.is_url(folder):
        with storage.refusals(folder):
            store, path = storage.connect(folder)
            store.pipe_file(f"{path}/{_FILE}", content)
        return
    partial = pathlib.Path(folder, f"{_FILE}.part")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(pathlib.Path(folder, _FILE))
