# SPDX-License-Identifier: Apache-2.0
"""The provenance of a run, and its differences from that of the baseline."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from components import findings, paths
from pipeline.run_record import RunRecord

# Fields of the provenance file of a pushed model, and their names on the page.
_PROVENANCE = {
    "git_commit": "commit",
    "code_digest": "SHA-256 of the code",
    "lock_digest": "SHA-256 of the locked dependencies",
    "pushed_at": "pushed at",
}
# Settings that do not change the model: paths, and the way a run works.
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
        "serving_root",  # in records of older versions
        "serving_name",
        "tune",
        "fixed",
    }
)


def _read_provenance(model: pathlib.Path) -> dict[str, Any]:
    """Reads the provenance in a SavedModel's folder; empty if there is none."""
    try:
        content = json.loads((model / "assets.extra" / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _code(record: RunRecord) -> dict[str, Any]:
    """Returns the digests of a run's code, from its record or else from the model that it pushed."""
    pushed = _read_provenance(pathlib.Path(record.model.path)) if record.model and record.model.path else {}
    values = {name: getattr(record.fingerprint, name, None) or pushed.get(name) for name in _PROVENANCE}
    return {name: value for name, value in values.items() if value}


def facts(record: RunRecord) -> list[tuple[str, str]]:
    """Returns names and values that identify a run, its data, its code and its results."""
    relative = record.rebase(".")
    dataset, code = relative.dataset, _code(record)
    rows: list[tuple[str, Any]] = [
        ("run", record.run_id),
        ("started at", record.created_at),
        ("data set", dataset and dataset.name),
        ("data source", dataset and dataset.choice),
        ("excluded, as their label is not a class", dataset and findings.excluded_words(dataset.excluded or {})),
        ("SHA-256 of the data", dataset and dataset.sha256),
        ("fingerprint of the inputs", record.fingerprint and record.fingerprint.inputs),
        *((title, code.get(name)) for name, title in _PROVENANCE.items()),
        ("pushed to", relative.model and relative.model.path),
        ("candidate", relative.candidate),
        ("log", relative.log),
    ]
    return [(name, str(value)) for name, value in rows if value]


def settings(config: Mapping[str, Any] | None) -> dict[str, str]:
    """Flattens a configuration: `training.seed` -> `1`."""
    flat: dict[str, str] = {}
    for key, value in (config or {}).items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": text for name, text in settings(value).items()}
        else:
            flat[str(key)] = value if isinstance(value, str) else json.dumps(value)
    return flat


def differences(config_a: Mapping[str, Any], config_b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns name, value in A and value in B of each setting in which two configurations differ."""
    a, b = settings(config_a), settings(config_b)
    return [
        (name, a.get(name, "–"), b.get(name, "–"))
        for name in dict.fromkeys([*a, *b])
        if name.partition(".")[0] not in _NOT_OF_THE_MODEL and a.get(name) != b.get(name)
    ]


def _version(model: pathlib.Path, number: int) -> pathlib.Path:
    """Returns the folder of a version, whose name may begin with zeros."""
    names = (path.parent.name for path in model.glob("*/saved_model.pb"))
    return model / next((name for name in names if paths.version_number(name) == number), str(number))


def since_baseline(record: RunRecord, baseline: pathlib.Path | None = None) -> list[tuple[str, str, str]] | None:
    """Returns the differences between the baseline's run and this one; None if the baseline's provenance is lost.

    Args:
        record: of the run.
        baseline: the artifact with a copy of the baseline, which has its provenance wherever models are served from.
    """
    if not record.baseline:
        return None
    config = record.config or {}
    old = _read_provenance(baseline / "Format-Serving") if baseline else {}
    if not old and "output" in config:  # the artifact was pruned
        root = pathlib.Path(config.get("serving_dir") or pathlib.Path(config["output"], "serving"))
        old = _read_provenance(_version(root / config["serving_name"], record.baseline.version))
    if not old:
        return None
    rows = []
    old_data, new_data = old.get("dataset", {}).get("sha256"), record.dataset and record.dataset.sha256
    if old_data != new_data:
        rows.append(("SHA-256 of the data", str(old_data), str(new_data)))
    rows += [
        (_PROVENANCE[name], str(old.get(name)), str(value))
        for name, value in _code(record).items()
        if name != "pushed_at" and old.get(name) != value
    ]
    return rows + differences(old.get("config", {}), config)
