# SPDX-License-Identifier: Apache-2.0
"""How a run ended: what its stages published, put into the record, and the verdict."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Any

from components import findings
from components.errors import GateStopped, ProjectError
from pipeline import record

if TYPE_CHECKING:
    from pipeline.local.stages import Stage


def cause(failure: Exception) -> Exception:
    """The first error behind a failure that is meant for a person, else the one that it comes from."""
    causes = [failure] if failure.__cause__ is None else []
    error: BaseException | None = failure.__cause__
    while isinstance(error, Exception):
        causes.append(error)
        error = error.__cause__ or error.__context__
    return next((cause for cause in causes if isinstance(cause, ProjectError)), causes[0])


def fill(row: dict[str, Any], stages: list[Stage]) -> None:
    """Puts what the stages published into the record."""
    row["stages"] = [{"name": stage.name, "state": stage.state, "seconds": round(stage.seconds, 2)} for stage in stages]
    by_name = {stage.name: stage for stage in stages if stage.outputs}
    row["artifacts"] = {
        f"{stage.name}.{key}": str(stage.uri(key)) for stage in by_name.values() for key in sorted(stage.outputs)
    }
    if "data-check" in by_name:
        found, _ = findings.read(by_name["data-check"].uri("checks"))
        row["findings"] = [vars(finding) for finding in found]
        closed = [finding for finding in found if not finding.allowed]
        reason = (
            closed[0].sentence if closed else f"{len(found)} findings, all of them allowed" if found else "no findings"
        )
        row["gates"].append(
            {"name": "data", "measured": len(closed), "limit": 0, "passed": not closed, "reason": reason}
        )
    if "train" in by_name:
        training = _read_json(by_name["train"].uri("model_run") / "training.json")
        row["candidate"] = str(by_name["train"].uri("model"))
        row["devices"] = training["devices"]
        row["model"] = {
            "type": row["config"]["training"]["model"],
            "parameters": training["parameters"],
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


def judge(row: dict[str, Any], stages: list[Stage], error: Exception | None) -> None:
    """Decides verdict, exit code and reason."""
    if error is None:
        push = next(stage for stage in stages if stage.name == "push")
        pushed = push.property("pushed_model", "pushed")
        row["verdict"] = record.PUSHED if pushed else record.UNCHANGED
        row["reason"] = "every gate is open" if pushed else "this very model is in production already"
        row["exit_code"] = record.EXIT_CODES[row["verdict"]]
        return
    failed = next((stage.name for stage in stages if stage.state == "failed"), "start")
    if isinstance(error, GateStopped):
        row["verdict"] = record.NOT_BLESSED if failed == "model-gate" else record.STOPPED
    else:
        row["verdict"] = record.FAILED
    if isinstance(error, ProjectError):
        row["exit_code"], row["reason"] = error.exit_code, str(error)
    else:
        text = " ".join(str(error).split())
        row["exit_code"] = record.EXIT_CODES[record.FAILED]
        row["reason"] = f"the stage {failed} failed: {type(error).__name__}: {text[:300]}"


def _read_json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
