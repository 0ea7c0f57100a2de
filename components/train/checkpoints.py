# SPDX-License-Identifier: Apache-2.0
"""Where a training that was killed goes on from, so that it ends with the weights it would have had.

The state is one .npz file in a folder or an object store, without pickle, so that any backend and any number of
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


def folder_of(parent: str, identity: Mapping[str, Any], files: Iterable[str] = ()) -> str:
    """A folder, or a URL, below `parent` for one training; another training finds nothing in it.

    Args:
        parent: must be the same for the run that was killed and the one that goes on, unlike an output artifact's URI.
        identity: JSON values: all that the result depends on.
        files: what else it depends on, by content: wherever the next attempt finds the same, it goes on.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for file in files:
        with pathlib.Path(file).open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"{parent.rstrip('/')}/{digest.hexdigest()[:32]}"


def remove(folder: str) -> None:
    """Removes what `Checkpoints` saved in a folder or URL: the training is done."""
    if not storage.is_url(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with storage.refusals(folder):
        files, path = storage.connect(folder)
        for name in files.find(path):  # one by one: not every store takes a request for many
            files.rm_file(name)


class Checkpoints(keras.callbacks.Callback):
    """Saves, after each epoch, all that the next one depends on; the last one saved is kept.

    That is the weights, the state of the optimizer and of each dropout's random numbers, the best epoch's weights, and
    the rows of the epochs done. Keras's own BackupAndRestore leaves out the random numbers: a training with dropout
    would go on differently.
    """

    def __init__(self, folder: str, network: keras.Model, rows: list[dict[str, float]], best: BestWeights):
        """Prepares for a compiled network; `rows` are those that `callbacks.History` fills, `best` keeps weights."""
        super().__init__()
        self._folder, self._network, self._rows, self._best = folder, network, rows, best

    def restore(self) -> bool:
        """Puts the last saved state into the network, the rows and `best`; False, and nothing done, without one.

        Raises:
            ProjectError: if the state cannot be read.
        """
        content = _read(self._folder)
        if content is None:
            return False
        try:
            with np.load(io.BytesIO(content)) as state:
                arrays = {name: state[name] for name in state.files}
            for name, variable in self._variables().items():
                variable.assign(arrays[name])
            self._best.weights = [arrays[f"best/{place}"] for place in range(len(self._best.weights))]
            self._rows[:] = json.loads(arrays["rows"].tobytes())
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ProjectError(
                f"the checkpoint {self._folder}/{_FILE} must hold the state of this training, but cannot be read "
                f"({type(error).__name__}); remove it, and the training begins anew"
            ) from None
        if not storage.is_url(self._folder):
            os.utime(self._folder)  # somebody goes on from here: it is not old
        return True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        arrays = {name: keras.ops.convert_to_numpy(variable) for name, variable in self._variables().items()}
        arrays |= {f"best/{place}": weight for place, weight in enumerate(self._best.weights)}
        arrays["rows"] = np.frombuffer(json.dumps(self._rows).encode(), np.uint8)
        content = io.BytesIO()
        np.savez(content, **arrays)
        _write(self._folder, content.getvalue())

    def _variables(self) -> dict[str, keras.Variable]:
        parts: dict[str, Sequence[keras.Variable]] = {
            "network": self._network.variables,
            "optimizer": self._network.optimizer.variables,
        }
        return {f"{part}/{place}": one for part, ones in parts.items() for place, one in enumerate(ones)}


def _read(folder: str) -> bytes | None:
    if not storage.is_url(folder):
        file = pathlib.Path(folder, _FILE)
        return file.read_bytes() if file.is_file() else None
    with storage.refusals(folder):
        files, path = storage.connect(folder)
        try:
            return bytes(files.cat_file(f"{path}/{_FILE}"))
        except FileNotFoundError:
            return None


def _write(folder: str, content: bytes) -> None:
    """A reader finds the state before or this one, never a part of it."""
    if storage.is_url(folder):
        with storage.refusals(folder):
            files, path = storage.connect(folder)
            files.pipe_file(f"{path}/{_FILE}", content)
        return
    part = pathlib.Path(folder, f"{_FILE}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(pathlib.Path(folder, _FILE))
