# SPDX-License-Identifier: Apache-2.0
"""The stages of a run on Kubeflow, as `pipeline.outcome` looks at them, from what the tasks have noted."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from components import storage
from pipeline import outcome
from pipeline.kubeflow import notes

# Outputs that are models: large, and no report looks into them.
_MODELS = frozenset({"model", "baseline", "best", "pushed_model", "trial_runs"})


@dataclasses.dataclass
class Stage:
    """One node in one run; its outputs are fetched from the storage when they are asked for."""

    name: str
    state: str
    seconds: float
    outputs: dict[str, dict[str, Any]]
    folder: pathlib.Path
    failure: outcome.Failure | None = None

    def uri(self, key: str) -> pathlib.Path:
        """The folder of an output, fetched.

        Raises:
            BadInput: it cannot be.
        """
        path = self.folder / self.name / key
        if not path.exists():
            storage.fetch(notes.address(self.location(key)), path)
        return path

    def location(self, key: str) -> str:
        """The URI of an output."""
        return str(self.outputs[key]["uri"])

    def property(self, key: str, name: str) -> Any:
        """A custom property of an output; the server keeps whole numbers as doubles."""
        value = self.outputs[key]["metadata"].get(name)
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def is_read(self, key: str) -> bool:
        """Whether a report may look into an output."""
        return key not in _MODELS


def of_run(noted: Mapping[str, notes.Note], names: Sequence[str], folder: pathlib.Path) -> list[Stage]:
    """Every stage of a run, in the order of the names.

    A task whose results the server took from its cache did not run and noted nothing, but what it made is an input of
    tasks that did, and the URI names its maker.

    Args:
        noted: what the tasks have noted.
        names: of all nodes.
        folder: where outputs are fetched to.
    """
    known: dict[str, dict[str, dict[str, Any]]] = {}
    for note in noted.values():
        for artifact in note.inputs.values():
            if made := notes.place_of(artifact["uri"], frozenset(names)):
                known.setdefault(made[1], {})[made[2]] = artifact
    return [
        _ran(noted[name], folder)
        if name in noted
        else Stage(name, outcome.CACHED if name in known else outcome.SKIPPED, 0.0, known.get(name, {}), folder)
        for name in names
    ]


def failure(stages: Sequence[Stage]) -> outcome.Failure | None:
    """Why the run did not get to its end; None where it did."""
    if failed := next((stage.failure for stage in stages if stage.failure), None):
        return failed
    missing = next((stage.name for stage in stages if stage.state == outcome.SKIPPED), None)
    if missing is None:
        return None
    return outcome.Failure(
        1, f"{missing} never started, and no task says why: the run was ended, or its pod could not start"
    )


def _ran(note: notes.Note, folder: pathlib.Path) -> Stage:
    seconds = max((time.time() if note.ended is None else note.ended) - note.started, 0.0)  # two machines' clocks
    if note.state != outcome.RUNNING:
        return Stage(note.task, note.state, seconds, note.outputs, folder, note.failure)
    lost = outcome.Failure(
        1,
        f"{note.task} started and noted no end: its process was killed or its pod was lost, and nothing here says "
        "why; its pod's events may",
    )
    return Stage(note.task, outcome.FAILED, seconds, {}, folder, lost)
