# SPDX-License-Identifier: Apache-2.0
"""The results of checks, in words and figures. A check publishes them in a folder; the gate node after it decides.

A `Finding` is a fault of the data. A `GateResult` is one figure compared with one limit, passed or not.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping

from components.errors import BadInput

FINDINGS_FILE, GATES_FILE = "findings.json", "gates.json"
# Where this one is allowed, ingest leaves the images out that have it: they belong to no class.
LABEL_OUT_OF_RANGE = "label-out-of-range"
CLASS_MISSING, CLASS_BALANCE = "class-missing", "class-balance"
INVERTED_PIXELS, BLANK_IMAGE = "inverted-pixels", "blank-image"
DUPLICATE_IMAGES, TEST_LEAK, NEAR_TEST_LEAK = "duplicate-images", "test-leak", "near-test-leak"
LABEL_NOISE = "label-noise"
DATASET_CHANGED = "dataset-changed"
ANOMALY, SKEW, DRIFT = "anomaly", "skew", "drift"
# The names of all findings: the words that `--allow` takes.
NAMES = (
    DATASET_CHANGED, LABEL_OUT_OF_RANGE, CLASS_MISSING, CLASS_BALANCE, INVERTED_PIXELS, BLANK_IMAGE, DUPLICATE_IMAGES,
    TEST_LEAK, NEAR_TEST_LEAK, LABEL_NOISE, ANOMALY, SKEW, DRIFT,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault of the data.

    Attributes:
        name: kebab-case kind, the word that `--allow` takes, such as "label-out-of-range".
        sentence: one sentence for a person: the fault, the limit, by how much it is exceeded, and the way out.
        measured: the figure, or None where there is no single one.
        limit: the limit, in the unit of `measured`.
        count: number of examples concerned, 0 where the finding is not about single examples.
        examples: ids of the examples concerned, the first few dozen at most.
        allowed: whether the user has allowed this kind of finding for this run.
    """

    name: str
    sentence: str
    measured: float | None = None
    limit: float | None = None
    count: int = 0
    examples: tuple[str, ...] = ()
    allowed: bool = False


@dataclasses.dataclass(frozen=True)
class GateResult:
    """One figure compared with one limit.

    Attributes:
        name: kebab-case, such as "accuracy-floor".
        measured: the figure; None where there was nothing to measure.
        limit: the limit, in the unit of `measured`.
        passed: whether it is within the limit.
        reason: one sentence with the figures; if it did not pass, also by how much it failed and the way out.
        candidate: the candidate's figure, where `measured` is how far it is from another model's; else None.
        baseline: the same figure of the model that it is compared with, None where there is none.
        interval: the ends of the 95 % interval of `measured`, None where it has none.
    """

    name: str
    measured: float | None
    limit: float | None
    passed: bool
    reason: str
    candidate: float | None = None
    baseline: float | None = None
    interval: tuple[float, float] | None = None


def parse_names(names: str) -> tuple[str, ...]:
    """Reads comma-separated names of findings.

    Raises:
        BadInput: no finding has one of the names.
    """
    parsed = tuple(sorted({name.strip() for name in names.split(",")} - {""}))
    for name in parsed:
        if name not in NAMES:
            raise BadInput(f"allow takes comma-separated names of findings, of {', '.join(NAMES)}; received {name!r}")
    return parsed


def excluded_words(excluded: Mapping[str, Mapping[str, int]]) -> str:
    """Puts the numbers of excluded images into words: split -> label, which is no class -> number of images."""
    return ", ".join(
        f"{sum(by_label.values()):,} of {split} ("
        + ", ".join(f"label {label}: {count:,}" for label, count in by_label.items())
        + ")"
        for split, by_label in excluded.items()
    )


def write(folder: str | pathlib.Path, findings: Iterable[Finding] = (), gates: Iterable[GateResult] = ()) -> None:
    """Writes findings and gate results as `findings.json` and `gates.json` into a folder, made where it is missing."""
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    for file, rows in ((FINDINGS_FILE, findings), (GATES_FILE, gates)):
        text = json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
        (path / file).write_text(text, encoding="utf-8")


def read(folder: str | pathlib.Path) -> tuple[list[Finding], list[GateResult]]:
    """Reads what `write` wrote."""
    findings, gates = (
        json.loads((pathlib.Path(folder) / file).read_text(encoding="utf-8")) for file in (FINDINGS_FILE, GATES_FILE)
    )
    return (
        [Finding(**{**row, "examples": tuple(row["examples"])}) for row in findings],
        [GateResult(**{**row, "interval": tuple(row["interval"]) if row.get("interval") else None}) for row in gates],
    )
