# SPDX-License-Identifier: Apache-2.0
"""Where a run came from, and what changed since the baseline."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from components import findings, paths
from pipeline.run_record import RunRecord

# Fields of the provenance beside a pushed model, and what a person calls them.
_PROVENANCE = {
    "git_commit": "commit",
    "code_digest": "SHA-256 of the code",
    "lock_digest": "SHA-256 of the locked dependencies",
    "pushed_at": "pushed at",
}
# They say where a run read and wrote or how it went, not what it made.
_NOT_OF_THE_MODEL = frozenset(
    {
        "output",
        "data_dir",
        "schema",
        "fresh",
        "force_push",
        "allow",
        "beam_args",
        "serving_dir",
        "serving_root",  # as former versions named it
        "serving_name",
        "tune",
        "fixed",
    }
)


def _beside(model: pathlib.Path) -> dict[str, Any]:
    """The provenance in a SavedModel's folder, empty where there is none."""
    try:
        content = json.loads((model / "assets.extra" / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _code(record: RunRecord) -> dict[str, Any]:
    """The code that a run ran, whether it pushed or not; of a former record what lies beside the model it pushed."""
    beside = _beside(pathlib.Path(record.model.path)) if record.model and record.model.path else {}
    values = {name: getattr(record.fingerprint, name, None) or beside.get(name) for name in _PROVENANCE}
    return {name: value for name, value in values.items() if value}


def facts(record: RunRecord) -> list[tuple[str, str]]:
    """Names and values that identify the run, its data, its code and what it left behind below the output folder."""
    shown = record.rebase(".")
    dataset = shown.dataset
    known: list[tuple[str, Any]] = [
        ("run", record.run_id),
        ("began at", record.created_at),
        ("data set", dataset and dataset.name),
        ("where the data came from", dataset and dataset.choice),
        ("left out, as their label is no class", dataset and findings.excluded_words(dataset.excluded or {})),
        ("SHA-256 of the data", dataset and dataset.sha256),
        ("fingerprint of the inputs", record.fingerprint and record.fingerprint.inputs),
    ]
    code = _code(record)
    known += [(shown, code.get(name)) for name, shown in _PROVENANCE.items()]
    path = shown.model and shown.model.path
    known += [("pushed to", path), ("candidate", shown.candidate), ("log", shown.log)]
    return [(name, str(value)) for name, value in known if value]


def settings(config: Mapping[str, Any] | None) -> dict[str, str]:
    """The configuration flat, such as `training.seed` -> `1`."""
    flat: dict[str, str] = {}
    for key, value in (config or {}).items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": text for name, text in settings(value).items()}
        else:
            flat[str(key)] = value if isinstance(value, str) else json.dumps(value)
    return flat


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value here, value there, for each setting in which two configurations differ."""
    here, there = settings(one), settings(other)
    names = dict.fromkeys([*here, *there])
    return [
        (name, here.get(name, "–"), there.get(name, "–"))
        for name in names
        if name.partition(".")[0] not in _NOT_OF_THE_MODEL and here.get(name) != there.get(name)
    ]


def _version(model: pathlib.Path, number: int) -> pathlib.Path:
    """The folder of a version, whose name may begin with zeros."""
    names = (path.parent.name for path in model.glob("*/saved_model.pb"))
    return model / next((name for name in names if paths.version_number(name) == number), str(number))


def since_baseline(record: RunRecord, baseline: pathlib.Path | None = None) -> list[tuple[str, str, str]] | None:
    """What differs between the baseline's run and this one; None where the baseline's provenance is not known.

    Args:
        record: of the run.
        baseline: the artifact with the baseline's copy, which the run worked with wherever production lies.
    """
    if not record.baseline:
        return None
    config = record.config or {}
    before = _beside(baseline / "Format-Serving") if baseline else {}
    if not before and "output" in config:  # the artifact was pruned
        root = pathlib.Path(config.get("serving_dir") or pathlib.Path(config["output"], "serving"))
        before = _beside(_version(root / config["serving_name"], record.baseline.version))
    if not before:
        return None
    changed = []
    sha256 = record.dataset and record.dataset.sha256
    if (former := before.get("dataset", {}).get("sha256")) != sha256:
        changed.append(("SHA-256 of the data", str(former), str(sha256)))
    now = _code(record)
    changed += [
        (_PROVENANCE[name], str(before.get(name)), str(now[name]))
        for name in ("git_commit", "code_digest", "lock_digest")
        if name in now and before.get(name) != now[name]
    ]
    return changed + differences(before.get("config", {}), config)
