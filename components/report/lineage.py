# SPDX-License-Identifier: Apache-2.0
"""Where a run came from, and what changed since the baseline."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

# Fields of the provenance beside a pushed model, and what a person calls them.
_PROVENANCE = {
    "git_commit": "commit",
    "code_digest": "SHA-256 of the code",
    "lock_digest": "SHA-256 of the locked dependencies",
    "pushed_at": "pushed at",
}
# They say where a run wrote or how it went, not what it made.
_NOT_OF_THE_MODEL = frozenset({"output", "fresh", "force_push", "allow", "beam_args", "serving_name"})


def provenance(record: Mapping[str, Any], version: int | None) -> dict[str, Any]:
    """What lies beside a version of this run's serving folder, empty where there is nothing."""
    config = record["config"]
    if version is None or not config or "output" not in config:
        return {}
    folder = pathlib.Path(config["output"]) / "serving" / config["serving_name"] / str(version)
    try:
        content = json.loads((folder / "assets.extra" / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values that identify the run, its data, its code and what it left behind."""
    dataset, model = record["dataset"] or {}, record["model"] or {}
    known = [
        ("run", record["run_id"]),
        ("data set", dataset.get("name")),
        ("where the data came from", dataset.get("choice")),
        ("SHA-256 of the data", dataset.get("sha256")),
        ("fingerprint of the inputs", (record["fingerprint"] or {}).get("inputs")),
    ]
    beside = provenance(record, model.get("version"))
    known += [(shown, beside.get(name)) for name, shown in _PROVENANCE.items()]
    known += [("pushed to", model.get("path")), ("candidate", record["candidate"]), ("log", record["log"])]
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


def since_baseline(record: Mapping[str, Any]) -> list[tuple[str, str, str]] | None:
    """What differs between the baseline's run and this one; None where the baseline's provenance is not known."""
    before = provenance(record, (record["baseline"] or {}).get("version"))
    if not before:
        return None
    changed = []
    sha256 = (record["dataset"] or {}).get("sha256")
    if (former := before.get("dataset", {}).get("sha256")) != sha256:
        changed.append(("SHA-256 of the data", str(former), str(sha256)))
    now = provenance(record, (record["model"] or {}).get("version"))
    changed += [
        (_PROVENANCE[name], str(before.get(name)), str(now[name]))
        for name in ("git_commit", "code_digest", "lock_digest")
        if now and before.get(name) != now.get(name)
    ]
    return changed + differences(before.get("config", {}), record["config"])
