# SPDX-License-Identifier: Apache-2.0
"""How a run ended: what its stages published, put into the record, and the verdict. The same for every orchestrator."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from components import findings
from components.errors import GateStopped, NotBlessed, ProjectError
from pipeline import record

RUNNING, DONE, CACHED, FAILED, SKIPPED = "running", "done", "cached", "failed", "skipped"
_VERDICTS = ((NotBlessed, record.NOT_BLESSED), (GateStopped, record.STOPPED))


class Stage(Protocol):
    """One node in one run, and what it published."""

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def seconds(self) -> float: ...

    @property
    def outputs(self) -> Collection[str]:
        """The keys of its outputs, empty unless it is done or cached."""
        ...

    def uri(self, key: str) -> pathlib.Path:
        """The folder of an output on this machine."""
        ...

    def location(self, key: str) -> str:
        """Where an output lies for good: the same, or its address in the store."""
        ...

    def property(self, key: str, name: str) -> Any:
        """A custom property of an output, None where it has none of that name."""
        ...


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a run did not get to its end.

    Attributes:
        exit_code: of the process that it ends.
        sentence: for a person, one line.
        verdict: of the run that it ends: `record.STOPPED` by a gate, NOT_BLESSED by the model's, else FAILED.
        expected: whether the sentence was written for a person; else it is a library's.
    """

    exit_code: int
    sentence: str
    verdict: str = record.FAILED
    expected: bool = True

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """What an error says."""
        if isinstance(error, ProjectError):
            verdict = next((verdict for kind, verdict in _VERDICTS if isinstance(error, kind)), record.FAILED)
            return cls(error.exit_code, " ".join(str(error).split()), verdict)
        if isinstance(error, shutil.Error):  # a list of all files that could not be copied, from where and why
            error = OSError(f"{error.args[0][0][1]}: {error.args[0][0][2]}")
        text = " ".join(str(error).split())
        return cls(record.EXIT_CODES[record.FAILED], f"{type(error).__name__}: {text[:300]}", expected=False)


def cause(failure: Exception) -> Exception:
    """The first error behind a failure that is meant for a person, else the one that it comes from."""
    errors = [failure]
    error: BaseException | None = failure.__cause__
    while isinstance(error, Exception) and not any(error is one for one in errors):  # they may name each other
        errors.append(error)
        error = error.__cause__ or error.__context__
    return next((one for one in errors if isinstance(one, ProjectError)), errors[:2][-1])


def fill(row: dict[str, Any], stages: Sequence[Stage]) -> None:
    """Puts what the stages published into the record."""
    row["stages"] = [stage_row(stage) for stage in stages]
    by_name = {stage.name: stage for stage in stages if stage.outputs}
    row["artifacts"] = {
        f"{stage.name}.{key}": stage.location(key) for stage in by_name.values() for key in sorted(stage.outputs)
    }
    if "ingest" in by_name and row["dataset"]:
        excluded = json.loads(by_name["ingest"].property("examples", "excluded") or "{}")
        row["dataset"]["excluded"] = {split: told["labels"] for split, told in excluded.items()}
    if "data-check" in by_name:
        found, _ = findings.read(by_name["data-check"].uri("checks"))
        row["findings"] = [vars(finding) for finding in found]
        closed = [finding for finding in found if not finding.allowed]
        reason = (
            closed[0].sentence if closed else f"{len(found)} findings, all of them allowed" if found else "no findings"
        )
        row["gates"].append(vars(findings.GateResult("data", len(closed), 0, not closed, reason)))
    if "tune" in by_name:
        row["tuning"] = _read_json(by_name["tune"].uri("tuner_results") / "trials.json")
    if "train" in by_name:
        training = _read_json(by_name["train"].uri("model_run") / "training.json")
        row["candidate"] = by_name["train"].location("model")
        row["devices"] = training["devices"]
        # What was trained with, be it told or found by a search.
        row["config"] = row["config"] | {"training": training["hyperparameters"]}
        row["model"] = {
            "type": row["config"]["training"]["model"],
            "parameters": training["parameters"],
            "best_epoch": training["best_epoch"],
            "stopped_early": training["stopped_early"],
            "version": None,
            "path": None,
        }
    for name in ("infra-check", "evaluate"):
        if name in by_name:
            row["gates"] += [vars(gate) for gate in findings.read(by_name[name].uri("checks"))[1]]
    if "evaluate" in by_name:
        figures = _read_json(by_name["evaluate"].uri("checks") / "metrics.json")
        row["metrics"] = figures["candidate"]
        if baseline := figures.get("baseline"):
            row["baseline"] = {"version": baseline["version"], "metrics": baseline}
    if "push" in by_name:
        row["model"] |= {key: by_name["push"].property("pushed_model", key) for key in ("version", "path")}


def stage_row(stage: Stage) -> dict[str, Any]:
    """A stage as the record has it."""
    return {"name": stage.name, "state": stage.state, "seconds": round(stage.seconds, 2)}


def judge(row: dict[str, Any], stages: Sequence[Stage], failure: Failure | None) -> None:
    """Decides verdict, exit code and reason."""
    if failure is None:
        push = next(stage for stage in stages if stage.name == "push")
        pushed = push.property("pushed_model", "pushed")
        row["verdict"] = record.PUSHED if pushed else record.UNCHANGED
        row["reason"] = "every gate is open" if pushed else "this very model is in production already"
        row["exit_code"] = record.EXIT_CODES[row["verdict"]]
        return
    failed = next((stage.name for stage in stages if stage.state == FAILED), "start")
    row["verdict"] = failure.verdict
    row["exit_code"] = failure.exit_code
    row["reason"] = failure.sentence if failure.expected else f"the stage {failed} failed: {failure.sentence}"


def _read_json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
