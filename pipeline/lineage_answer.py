# SPDX-License-Identifier: Apache-2.0
"""Where a pushed model came from, and in what two of them differ: the answers of `python -m pipeline.lineage`.

Facts come from ML Metadata. Where those are lost, or know nothing of a version, the provenance that lies beside the
model answers in their place, and the answer says so.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from components.errors import BadInput
from components.push import card, destination, versions
from components.report import runs
from pipeline import metadata

METADATA, BESIDE = "ML Metadata", "the files beside the model"
# What is not compared: it differs always, or follows from what is.
_NOT_COMPARED = frozenset({"name", "version", "location", "production", "labels", "source", "note", "steps", "run_id",
                           "pushed_at", "intended_use", "limits", "intervals", "schema_version"})  # fmt: skip
_NOT_COMPARED_IN = {
    "config": {"output", "schema", "data_dir"},  # paths; what lies there is compared by its content
    "metrics": {"confusion", "slices", "intervals", "calibration"},
    "baseline": {"metrics"},
    "best": {"metrics"},
}


def answer(where: destination.Where, database: pathlib.Path, number: int | None) -> dict[str, Any]:
    """All that is known of one version: its model card, and the stages that led to it.

    Args:
        where: the model's folder.
        database: the metadata of the output folder.
        number: the version; None: the one in production.

    Returns:
        The fields of the model card (`components.push.card.build`), and `location` (None once it was removed),
        `production`, `labels`, `source` (where the facts are from), `note` (why not from ML Metadata, or None), and
        `steps`: for each stage `stage`, `run_id`, `state`, `began`, `seconds`, `code_sha256` and `outputs`.

    Raises:
        BadInput: there is no such version.
    """
    folder = destination.at(where)
    there = {version.number: version for version in versions.all_versions(folder)}
    production = versions.production(folder)
    note, pushes, store = None, [], None
    try:
        store = metadata.connect(database)
        with metadata.reading(database):
            pushes = metadata.pushed(store)
    except metadata.LostError as error:
        note = str(error)
    if number is None:
        if production is None:
            raise BadInput(f"without a VERSION, the one in production is meant; there is none in {folder.url}")
        number = production.number
    beside = there.get(number)
    found = metadata.matching(pushes, number, folder.location(number), beside.provenance if beside else {})
    provenance, steps = (found.provenance if found else {}), []
    try:
        if store and found:
            with metadata.reading(database):
                steps = metadata.steps(store, found.artifact_id, database.parent)
    except metadata.LostError as error:
        note = str(error)
    if found is None and beside is None:
        removed = {n for n in {push.version for push in pushes} if metadata.matching(pushes, n, folder.location(n), {})}
        known = sorted({*there, *removed})
        listed = ", ".join(map(str, known)) or "none"
        raise BadInput(f"a version of {folder.url} is one that was pushed; {number} was not. Known are: {listed}")
    if not provenance and beside is not None:
        note = note or f"The metadata in {database} know nothing of this version."
        provenance = beside.provenance
    provenance = runs.rebase(provenance, database.parent)
    return {
        **card.build({**provenance, "version": number}),
        "location": beside and beside.location,
        "production": production is not None and production.number == number,
        "labels": sorted(label for label, bearer in versions.labels(folder).items() if bearer == number),
        "source": BESIDE if note else METADATA,
        "note": note and f"{note} What lies beside the model answers instead.",
        "steps": [step._asdict() for step in steps],
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """In what two answers differ.

    Returns:
        `same`, `different`: the parts (`data`, `code`, `config`, …) in which they agree and in which they do not; and
        `differences`, rows of `name`, `one` and `other`, such as `config.training.seed`.
    """
    here, there = _flat(one), _flat(other)
    names = [name for name in dict.fromkeys([*here, *there]) if (here.get(name), there.get(name)) != (None, None)]
    rows: list[dict[str, Any]] = [
        {"name": name, "one": here.get(name), "other": there.get(name)}
        for name in names
        if here.get(name) != there.get(name)
    ]
    parts = list(dict.fromkeys(name.partition(".")[0] for name in names))
    different = {row["name"].partition(".")[0] for row in rows}
    return {
        "same": [part for part in parts if part not in different],
        "different": [part for part in parts if part in different],
        "differences": rows,
    }


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"config": {"training": {"seed": 1}}} -> {"config.training.seed": 1}; gates and findings by their names."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if not prefix and key in _NOT_COMPARED:
            continue
        part = f"{prefix}{key}"
        if prefix and key in _NOT_COMPARED_IN.get(prefix[:-1], ()):
            continue
        if part == "gates":
            flat |= {
                f"gates.{gate['name']}.{what}": gate[what]
                for gate in value or ()
                for what in ("measured", "limit", "passed")
            }
        elif part == "findings":
            for finding in value or ():
                flat[f"findings.{finding['name']}"] = flat.get(f"findings.{finding['name']}", 0) + 1
        elif isinstance(value, Mapping):
            flat |= _flat(value, f"{part}.")
        else:
            flat[part] = value
    return flat
