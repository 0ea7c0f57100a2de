# SPDX-License-Identifier: Apache-2.0
"""The runs of an output folder, by their records."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from components import findings
from components.errors import BadInput, GateStopped, NotBlessed, ProjectError

RECORD_FILE, REPORT_FILE = "record.json", "report.html"
SCHEMA_VERSION = 1


def all_runs(output: pathlib.Path) -> list[dict[str, Any]]:
    """The record of every run that has one, in the order in which they began; one that cannot be read is left out."""
    found = []
    for path in (output / "runs").glob(f"*/{RECORD_FILE}"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and record.get("schema_version") == SCHEMA_VERSION:
            found.append(rebase(record, output))
    return sorted(found, key=run_order)


def run_order(record: Mapping[str, Any]) -> tuple[int, str]:
    """A key to sort records by the order of their runs, whatever clocks said; former records have their id alone."""
    return int(record.get("sequence") or 0), str(record.get("run_id"))


def rebase(record: Any, output: pathlib.Path | str) -> Any:
    """A record, or a provenance, whose paths are where its output folder is now; that may have been copied or moved.

    Args:
        record: JSON values; `config.output` is where the folder was.
        output: where it is now.
    """
    former = (record.get("config") or {}).get("output")
    if not former or former == str(output):
        return record
    # As a whole path or the beginning of one, also amid a sentence.
    mention = re.compile(rf"""(?<![\w./~-]){re.escape(former)}(?=[/\s,;:'")\]]|$)""")

    def rebased(value: Any) -> Any:
        if isinstance(value, str):
            return mention.sub(lambda _: str(output), value)
        if isinstance(value, Mapping):
            return {rebased(key): rebased(item) for key, item in value.items()}
        return [rebased(item) for item in value] if isinstance(value, list) else value

    return rebased(record)


def find_run(output: pathlib.Path, name: str) -> dict[str, Any]:
    """The record of one run.

    Args:
        output: the output folder.
        name: the run's id, or a part of it that no other run's has.

    Raises:
        BadInput: there is no such run, or more than one.
    """
    known = all_runs(output)
    exact = [record for record in known if record["run_id"] == name]
    matching = exact or [record for record in known if name and name in record["run_id"]]
    if len(matching) != 1:
        what = f"{len(matching)} of them match" if matching else "none of them matches"
        names = ", ".join(record["run_id"] for record in known[-5:]) or "none"
        raise BadInput(f"a run is named by its id or a part of it, but {what} {name!r}; the last in {output}: {names}")
    return matching[0]


def run_folder(output: pathlib.Path, record: dict[str, Any]) -> pathlib.Path:
    """Where the record and the report of a run lie."""
    return output / "runs" / str(record["run_id"])


PUSHED, UNCHANGED, NOT_BLESSED, STOPPED, FAILED = "pushed", "unchanged", "not_blessed", "stopped", "failed"
DID_NOT_END = "the run did not end"
EXIT_CODES = {PUSHED: 0, UNCHANGED: 0, NOT_BLESSED: 3, STOPPED: 3, FAILED: 1}


def new_record(run_id: str, **known: Any) -> dict[str, Any]:
    """A record in which what is not known is null.

    Args:
        run_id: the run's name.
        **known: fields that are.
    """
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "sequence": None,
        "created_at": None,
        "verdict": FAILED,
        "exit_code": EXIT_CODES[FAILED],
        "reason": DID_NOT_END,
        "sentence": None,
        "forced": None,
        "dataset": None,
        "config": None,
        "model": None,
        "tuning": None,
        "candidate": None,
        "metrics": None,
        "baseline": None,
        "findings": [],
        "gates": [],
        "devices": None,
        "stages": [],
        "artifacts": {},
        "report": None,
        "log": None,
        "fingerprint": None,
    }
    unknown = set(known) - set(fields)
    if unknown:
        raise KeyError(f"a record has no field {sorted(unknown)[0]!r}")
    return fields | known


def write_record(record: Mapping[str, Any], path: pathlib.Path) -> None:
    """Writes a record so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_record(folder: pathlib.Path) -> dict[str, Any]:
    """The record of the run that a folder belongs to, with paths in the output folder as that is named now."""
    row = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    return dict(rebase(row, folder.parent.parent))


def newest_record(output: pathlib.Path) -> dict[str, Any] | None:
    """The record of the last run that has a complete one, None without any.

    The last in the order of `sequence`: neither the zone of a run's clock nor one that was set back has a say in it.
    """
    fields = new_record("").keys() - {"sequence", "created_at"}  # which former records do not have
    return next((row for row in reversed(all_runs(output)) if row.keys() >= fields), None)


def next_sequence(output: pathlib.Path) -> int:
    """The number of the run that begins now in an output folder, 1 or more: one more than the highest there."""
    return max((run_order(row)[0] for row in all_runs(output)), default=0) + 1


def run_ids(output: pathlib.Path) -> list[str]:
    """The name of each folder of a run, in the order in which they began; first those without a record."""
    known = [str(row["run_id"]) for row in all_runs(output)]
    return [*sorted({path.name for path in (output / "runs").glob("*") if path.is_dir()} - {*known}), *known]


def verdict_sentence(record: Mapping[str, Any]) -> str:
    """The verdict in one line."""
    metrics, model, baseline = record["metrics"], record["model"], record["baseline"]
    words = {
        PUSHED: "PUSHED", UNCHANGED: "UNCHANGED", NOT_BLESSED: "NOT BLESSED", STOPPED: "STOPPED", FAILED: "FAILED"
    }  # fmt: skip
    parts = []
    if record["verdict"] not in (PUSHED, UNCHANGED):
        parts.append(record["reason"])
    elif metrics:
        parts.append(f"accuracy {metrics['accuracy']:.2%}")
        if baseline:
            parts.append(f"baseline {baseline['metrics']['accuracy']:.2%} (version {baseline['version']})")
        else:
            parts.append("no baseline yet")
        if model and model.get("path"):
            parts.append(f"version {model['version']} in {model['path']}")
        if record["forced"]:
            parts.append(f"FORCED past the model gate: {record['forced']}")
    return f"{words[record['verdict']]}: {', '.join(parts)}"


RUNNING, DONE, CACHED, SKIPPED = "running", "done", "cached", "skipped"  # and FAILED
_VERDICTS = ((NotBlessed, NOT_BLESSED), (GateStopped, STOPPED))


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
    verdict: str = FAILED
    expected: bool = True

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """What an error says."""
        if isinstance(error, ProjectError):
            verdict = next((verdict for kind, verdict in _VERDICTS if isinstance(error, kind)), FAILED)
            return cls(error.exit_code, " ".join(str(error).split()), verdict)
        if isinstance(error, shutil.Error):  # a list of all files that could not be copied, from where and why
            error = OSError(f"{error.args[0][0][1]}: {error.args[0][0][2]}")
        text = " ".join(str(error).split())
        return cls(EXIT_CODES[FAILED], f"{type(error).__name__}: {text[:300]}", expected=False)


def failure_cause(failure: Exception) -> Exception:
    """The first error behind a failure that is meant for a person, else the one that it comes from."""
    errors = [failure]
    error: BaseException | None = failure.__cause__
    while isinstance(error, Exception) and not any(error is one for one in errors):  # they may name each other
        errors.append(error)
        error = error.__cause__ or error.__context__
    return next((one for one in errors if isinstance(one, ProjectError)), errors[:2][-1])


def fill_record(row: dict[str, Any], stages: Sequence[Stage]) -> None:
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
        row["verdict"] = PUSHED if pushed else UNCHANGED
        row["reason"] = "every gate is open" if pushed else "this very model is in production already"
        row["exit_code"] = EXIT_CODES[row["verdict"]]
        return
    failed = next((stage.name for stage in stages if stage.state == FAILED), "start")
    row["verdict"] = failure.verdict
    row["exit_code"] = failure.exit_code
    row["reason"] = failure.sentence if failure.expected else f"the stage {failed} failed: {failure.sentence}"


def _read_json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
