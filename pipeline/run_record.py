# SPDX-License-Identifier: Apache-2.0
"""The record of a run: its typed model, its file `record.json`, and the verdict.

A record is immutable: each step of a run makes a new one. Unknown fields are None.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import pathlib
import re
import shutil
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from components import findings
from components.errors import BadInput, GateStopped, NotBlessed, ProjectError
from components.findings import Finding, GateResult

RECORD_FILE, REPORT_FILE = "record.json", "report.html"
SCHEMA_VERSION = 1
_CONFIG = ConfigDict(ser_json_inf_nan="constants", defer_build=True)  # a loss may be NaN, and null would mean unknown


class Verdict(enum.StrEnum):
    """The outcome of a run."""

    PUSHED = "pushed"
    UNCHANGED = "unchanged"
    NOT_BLESSED = "not_blessed"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_good(self) -> bool:
        """True if the model in production is the one that the run trained."""
        return self in (Verdict.PUSHED, Verdict.UNCHANGED)

    @property
    def exit_code(self) -> int:
        """The exit code of the process: 0, 3 if a gate stopped the run, else 1."""
        return 0 if self.is_good else 1 if self is Verdict.FAILED else GateStopped.exit_code

    @property
    def display_name(self) -> str:
        """The verdict in capitals, such as "NOT BLESSED"."""
        return self.value.replace("_", " ").upper()


class State(enum.StrEnum):
    """The state of a stage."""

    RUNNING = "running"
    DONE = "done"
    CACHED = "cached"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, config=_CONFIG)
class StageRecord:
    """The state of a stage and its wall time in seconds."""

    name: str
    state: State
    seconds: float

    @classmethod
    def of(cls, stage: Stage) -> StageRecord:
        """Takes the state and the time of a stage, rounded to 10 ms."""
        return cls(stage.name, stage.state, round(stage.seconds, 2))


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class DatasetRecord:
    """The data of a run; `excluded` is split -> label that is not a class -> number of excluded images."""

    name: str
    images: int | None = None
    sha256: str | None = None
    choice: str | None = None
    excluded: dict[str, dict[str, int]] | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class ModelRecord:
    """The trained model; once it is pushed, `version` and `path` (or URL) are those in the serving folder."""

    type: str
    parameters: int | None = None
    best_epoch: int | None = None
    stopped_early: bool | None = None
    version: int | None = None
    path: str | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class CalibrationPoint:
    """Mean confidence and accuracy, 0 to 1, of the test images in one bin of confidence."""

    confidence: float
    accuracy: float
    examples: int


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Calibration:
    """The expected calibration error, 0 to 1, and the curve that it sums up."""

    error: float | None
    curve: tuple[CalibrationPoint, ...] = ()


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class SliceMetrics:
    """The accuracy, 0 to 1, on a slice of the test images."""

    accuracy: float
    examples: int


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Metrics:
    """The metrics of a model on the test images.

    Attributes:
        accuracy: 0 to 1.
        loss: cross-entropy in nats; NaN if the model diverged.
        examples: number of test images.
        intervals: metric -> ends of its 95 % interval.
        recall: class -> 0 to 1, like `precision` and `f1`, without classes that have no test images.
        top2: share of images whose class is among the two most probable, 0 to 1.
        confusion: counts [true class][predicted class].
        slices: feature -> slice -> metrics.
    """

    accuracy: float
    loss: float | None = None
    examples: int | None = None
    intervals: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    recall: dict[str, float] = dataclasses.field(default_factory=dict)
    precision: dict[str, float] = dataclasses.field(default_factory=dict)
    f1: dict[str, float] = dataclasses.field(default_factory=dict)
    top2: float | None = None
    confusion: tuple[tuple[int, ...], ...] = ()
    calibration: Calibration | None = None
    slices: dict[str, dict[str, SliceMetrics]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Baseline:
    """The version that was in production, and its metrics on the same test images."""

    version: int
    metrics: Metrics


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Trial:
    """One trial of a search; a trial that diverged has a `reason` and no metrics. `number` counts from 1."""

    number: int
    values: dict[str, Any]
    state: str
    val_accuracy: float | None = None
    val_loss: float | None = None
    seconds: float | None = None
    steps: int | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Tuning:
    """A search: `winner` is the number of a trial; each trial trained on `share` of the images of a full training."""

    trials: tuple[Trial, ...]
    winner: int
    space: dict[str, str]
    share: float


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Fingerprint:
    """The state that a run depended on; a later run compares it to find out whether anything has changed.

    Attributes:
        files: path in the project -> SHA-256.
        checkpoints: folder of an unfinished training -> time of its last change, in nanoseconds since 1970.
        code_digest: SHA-256 of the project's code.
        lock_digest: SHA-256 of the locked dependencies.
        git_commit: None outside a checkout.
        artifacts: folder -> SHA-256 of its content.
        inputs: SHA-256 of configuration, data and code; None until the run ends.
        serving: state of the serving folder after the run; None if it could not be read.
    """

    files: dict[str, str] = dataclasses.field(default_factory=dict)
    checkpoints: dict[str, int] = dataclasses.field(default_factory=dict)
    code_digest: str | None = None
    lock_digest: str | None = None
    git_commit: str | None = None
    artifacts: dict[str, str] = dataclasses.field(default_factory=dict)
    inputs: str | None = None
    serving: str | None = None


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class RunRecord:
    """A run from its first stage to its verdict; until it ends, the verdict is that it did not.

    Attributes:
        run_id: the run's name, and that of its folder.
        sequence: number of the run in its output folder, from 1.
        created_at: start of the run in UTC, ISO 8601.
        exit_code: of the process.
        reason: the cause of the verdict.
        sentence: the verdict in one line.
        forced: the reason given to push past the model gate.
        config: the effective configuration as JSON values.
        candidate: path or URI of the trained model.
        artifacts: STAGE.KEY -> path or URI.
        report: path or URI of the page.
        log: path of the log.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str
    sequence: int | None = None
    created_at: str | None = None
    verdict: Verdict = Verdict.FAILED
    exit_code: int = Verdict.FAILED.exit_code
    reason: str = "the run did not end"
    sentence: str | None = None
    forced: str | None = None
    dataset: DatasetRecord | None = None
    config: dict[str, Any] | None = None
    model: ModelRecord | None = None
    tuning: Tuning | None = None
    candidate: str | None = None
    metrics: Metrics | None = None
    baseline: Baseline | None = None
    findings: tuple[Finding, ...] = ()
    gates: tuple[GateResult, ...] = ()
    devices: tuple[str, ...] | None = None
    stages: tuple[StageRecord, ...] = ()
    artifacts: dict[str, str] = dataclasses.field(default_factory=dict)
    report: str | None = None
    log: str | None = None
    fingerprint: Fingerprint | None = None

    @property
    def order(self) -> tuple[int, str]:
        """The sort key for the order of runs, even if a clock was set back."""
        return self.sequence or 0, self.run_id

    @property
    def has_ended(self) -> bool:
        """True once the run has written its verdict."""
        return self.sentence is not None

    def end(self, verdict: Verdict, reason: str, exit_code: int | None = None) -> RunRecord:
        """Returns the record with a verdict, its sentence, and its exit code or the one passed."""
        code = verdict.exit_code if exit_code is None else exit_code
        record = dataclasses.replace(self, verdict=verdict, reason=reason, exit_code=code)
        return dataclasses.replace(record, sentence=_sentence(record))

    def rebase(self, output: pathlib.Path | str) -> RunRecord:
        """Returns the record with paths in the output folder at its present location; see `rebase`."""
        return _ADAPTER.validate_python(rebase(self.to_json(), output))

    def to_json(self) -> dict[str, Any]:
        """Returns the record as JSON values."""
        values: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return values

    def to_text(self) -> str:
        """Returns the content of `record.json`."""
        return json.dumps(self.to_json(), indent=1) + "\n"


_ADAPTER = TypeAdapter(RunRecord)
_METRICS = TypeAdapter(dict[str, Metrics], config=ConfigDict(defer_build=True))
_TUNING = TypeAdapter(Tuning)


def _sentence(record: RunRecord) -> str:
    parts = []
    if not record.verdict.is_good:
        parts.append(record.reason)
    elif record.metrics:
        parts.append(f"accuracy {record.metrics.accuracy:.2%}")
        if record.baseline:
            parts.append(f"baseline {record.baseline.metrics.accuracy:.2%} (version {record.baseline.version})")
        else:
            parts.append("no baseline yet")
        if record.model and record.model.path:
            parts.append(f"version {record.model.version} in {record.model.path}")
        if record.forced:
            parts.append(f"FORCED past the model gate: {record.forced}")
    return f"{record.verdict.display_name}: {', '.join(parts)}"


def rebase(values: Any, output: pathlib.Path | str) -> Any:
    """Returns JSON values in which paths below the old location of the output folder are below its present one.

    Args:
        values: of a record or a provenance; `config.output` is the old location.
        output: the present location, or any other prefix.
    """
    old = (values.get("config") or {}).get("output")
    if not old or old == str(output):
        return values
    # A path or the beginning of one, even within a sentence.
    mention = re.compile(rf"""(?<![\w./~-]){re.escape(old)}(?=[/\s,;:'")\]]|$)""")

    def replace(value: Any) -> Any:
        if isinstance(value, str):
            return mention.sub(lambda _: str(output), value)
        if isinstance(value, dict):
            return {replace(key): replace(item) for key, item in value.items()}
        return [replace(item) for item in value] if isinstance(value, list) else value

    return replace(values)


def parse_record(text: str | bytes) -> RunRecord:
    """Reads the content of a `record.json`.

    Raises:
        BadInput: a newer version of the project wrote it.
        ValueError: it is damaged.
    """
    values = json.loads(text)
    version = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BadInput(
            f"a run's record has schema version {SCHEMA_VERSION}, but that of {values.get('run_id')} has {version}; "
            "use the version of this project that wrote it, or name another folder with --output"
        )
    if version != SCHEMA_VERSION:
        raise ValueError(f"a record has schema_version {SCHEMA_VERSION}, not {version}")
    return _ADAPTER.validate_python(values)


def read_record(folder: pathlib.Path) -> RunRecord:
    """Reads the record in a run's folder, with paths in the output folder at its present location.

    Raises:
        BadInput: a newer version of the project wrote it.
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    return parse_record((folder / RECORD_FILE).read_bytes()).rebase(folder.parent.parent)


def write_record(record: RunRecord, folder: pathlib.Path) -> None:
    """Writes a record into a run's folder in one step, so that a reader never sees half of it."""
    temporary = folder / f".{RECORD_FILE}.part"
    temporary.write_text(record.to_text(), encoding="utf-8")
    temporary.replace(folder / RECORD_FILE)


def all_runs(output: pathlib.Path) -> list[RunRecord]:
    """Returns the records in an output folder in the order of their runs, without damaged ones.

    Raises:
        BadInput: a newer version of the project wrote one of them.
    """
    records = []
    for path in (output / "runs").glob(f"*/{RECORD_FILE}"):
        try:
            records.append(read_record(path.parent))
        except (OSError, ValueError):
            continue
    return sorted(records, key=lambda record: record.order)


def find_run(output: pathlib.Path, name: str) -> RunRecord:
    """Returns the record of one run.

    Args:
        output: the output folder.
        name: the run's id, or an unambiguous part of it.

    Raises:
        BadInput: no run matches, or more than one.
    """
    records = all_runs(output)
    exact = [record for record in records if record.run_id == name]
    matches = exact or [record for record in records if name and name in record.run_id]
    if len(matches) != 1:
        count = f"{len(matches)} of them match" if matches else "none of them matches"
        names = ", ".join(record.run_id for record in records[-5:]) or "none"
        raise BadInput(
            f"RUN takes a run's id or a part of it, but {count} {name!r}; the last runs in {output}: {names}"
        )
    return matches[0]


def newest_record(output: pathlib.Path) -> RunRecord | None:
    """Returns the record of the last run by `sequence`, regardless of clocks; None if there is none."""
    return next(reversed(all_runs(output)), None)


def next_sequence(output: pathlib.Path) -> int:
    """Returns the number of the next run in an output folder: one more than the highest, from 1."""
    return max((record.order[0] for record in all_runs(output)), default=0) + 1


def run_folder(output: pathlib.Path, run_id: str) -> pathlib.Path:
    """Returns the folder with the record, the report and the log of a run."""
    return output / "runs" / run_id


def run_ids(output: pathlib.Path) -> list[str]:
    """Returns the names of the runs' folders in the order of the runs, those without a record first."""
    with_record = [record.run_id for record in all_runs(output)]
    folders = {path.name for path in (output / "runs").glob("*") if path.is_dir()}
    return [*sorted(folders - {*with_record}), *with_record]


class Stage(Protocol):
    """One node in one run, with its outputs."""

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> State: ...

    @property
    def seconds(self) -> float: ...

    @property
    def outputs(self) -> Collection[str]:
        """The keys of its outputs; empty unless the stage is done or cached."""
        ...

    def uri(self, key: str) -> pathlib.Path:
        """Returns the folder of an output on this machine."""
        ...

    def location(self, key: str) -> str:
        """Returns the permanent address of an output: the same folder, or a URI in the store."""
        ...

    def property(self, key: str, name: str) -> Any:
        """Returns a custom property of an output; None if it has none of that name."""
        ...


@dataclasses.dataclass(frozen=True)
class Failure:
    """The reason why a run did not complete.

    Attributes:
        exit_code: of the process.
        sentence: one line for a person.
        verdict: STOPPED by a gate, NOT_BLESSED by the model's, else FAILED.
        expected: True if the sentence was written for people, False if it is a library's.
    """

    exit_code: int
    sentence: str
    verdict: Verdict = Verdict.FAILED
    expected: bool = True

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Puts an error into one line."""
        if isinstance(error, shutil.Error):  # (source, target, reason) of every file that could not be copied
            error = OSError(f"{error.args[0][0][1]}: {error.args[0][0][2]}")
        text = " ".join(str(error).split())
        if not isinstance(error, ProjectError):
            return cls(Verdict.FAILED.exit_code, f"{type(error).__name__}: {text[:300]}", expected=False)
        if isinstance(error, NotBlessed):
            return cls(error.exit_code, text, Verdict.NOT_BLESSED)
        return cls(error.exit_code, text, Verdict.STOPPED if isinstance(error, GateStopped) else Verdict.FAILED)


def failure_cause(failure: Exception) -> Exception:
    """Returns the first error in the causes of a failure that is meant for people, else the direct cause."""
    errors = [failure]
    error: BaseException | None = failure.__cause__
    while isinstance(error, Exception) and not any(error is earlier for earlier in errors):  # causes may form a cycle
        errors.append(error)
        error = error.__cause__ or error.__context__
    return next((error for error in errors if isinstance(error, ProjectError)), errors[:2][-1])


def judge(record: RunRecord, stages: Sequence[Stage], failure: Failure | None) -> RunRecord:
    """Returns the record of a run that has ended: the results of its stages, and the verdict.

    Args:
        record: of the run so far.
        stages: all stages of the graph, in their final states.
        failure: None if every stage is done.
    """
    record = _add_results(record, stages)
    if failure is None:
        push = next(stage for stage in stages if stage.name == "push")
        if push.property("pushed_model", "pushed"):
            return record.end(Verdict.PUSHED, "every gate passed")
        return record.end(Verdict.UNCHANGED, "this very model is already in production")
    failed = next((stage.name for stage in stages if stage.state == State.FAILED), "start")
    reason = failure.sentence if failure.expected else f"the stage {failed} failed: {failure.sentence}"
    return record.end(failure.verdict, reason, failure.exit_code)


def _add_results(record: RunRecord, stages: Sequence[Stage]) -> RunRecord:
    replace = dataclasses.replace
    published = {stage.name: stage for stage in stages if stage.outputs}
    record = replace(
        record,
        stages=tuple(map(StageRecord.of, stages)),
        artifacts={
            f"{stage.name}.{key}": stage.location(key) for stage in published.values() for key in sorted(stage.outputs)
        },
    )
    if (stage := published.get("ingest")) and record.dataset:
        splits = json.loads(stage.property("examples", "excluded") or "{}")
        excluded = {split: counts["labels"] for split, counts in splits.items()}
        record = replace(record, dataset=replace(record.dataset, excluded=excluded))
    if stage := published.get("data-check"):
        data_findings, _ = findings.read(stage.uri("checks"))
        gate = _data_gate(data_findings)
        record = replace(record, findings=tuple(data_findings), gates=(*record.gates, gate))
    if stage := published.get("tune"):
        trials = (stage.uri("tuner_results") / "trials.json").read_bytes()
        record = replace(record, tuning=_TUNING.validate_json(trials))
    if stage := published.get("train"):
        training = json.loads((stage.uri("model_run") / "training.json").read_bytes())
        record = replace(
            record,
            candidate=stage.location("model"),
            devices=tuple(training["devices"]),
            # The hyperparameters in force: as configured, or as a search chose them.
            config={**(record.config or {}), "training": training["hyperparameters"]},
            model=ModelRecord(
                type=training["hyperparameters"]["model"],
                parameters=training["parameters"],
                best_epoch=training["best_epoch"],
                stopped_early=training["stopped_early"],
            ),
        )
    for name in ("infra-check", "evaluate"):
        if stage := published.get(name):
            record = replace(record, gates=(*record.gates, *findings.read(stage.uri("checks"))[1]))
    if stage := published.get("evaluate"):
        text = (stage.uri("checks") / "metrics.json").read_bytes()
        metrics = _METRICS.validate_json(text)
        record = replace(record, metrics=metrics["candidate"])
        if "baseline" in metrics:
            version = json.loads(text)["baseline"]["version"]
            record = replace(record, baseline=Baseline(version=version, metrics=metrics["baseline"]))
    if (stage := published.get("push")) and record.model:
        version, path = (stage.property("pushed_model", name) for name in ("version", "path"))
        record = replace(record, model=replace(record.model, version=version, path=path))
    return record


def _data_gate(data_findings: Sequence[Finding]) -> GateResult:
    open_findings = [finding for finding in data_findings if not finding.allowed]
    if open_findings:
        reason = open_findings[0].sentence
    elif data_findings:
        reason = f"{len(data_findings)} findings, all allowed"
    else:
        reason = "no findings"
    return GateResult("data", len(open_findings), 0, not open_findings, reason)
