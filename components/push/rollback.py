# SPDX-License-Identifier: Apache-2.0
"""Puts an older model back in production: its files again, as the next version.

The numbers of versions only grow, and TensorFlow Serving loads the highest, so going back is a push of its own. The
provenance is that of the older version with `rollback` added: its author, time and reason, the older version, and the
replaced one. The replaced model counts as withdrawn: a later run that trains the same model does not push it again.
"""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

from components.errors import BadInput, GateStopped
from components.push import history, publish, versions
from components.push.serving_dir import ServingDir, open_destination
from components.push.versions import Version


def choose(serving_dir: ServingDir, number: int | None) -> Version:
    """Returns the version to go back to: the requested one, or the last one in production before the current one.

    Raises:
        BadInput: there is no such version, or it is in production, or it is the canary.
    """
    destination = open_destination(serving_dir)
    production = versions.production_version(destination)
    if production is None:
        raise BadInput(f"a rollback replaces the version in production; there is none in {destination.url}")
    by_number = {version.number: version for version in versions.all_versions(destination)}
    canary = versions.read_labels(destination).get(versions.CANARY)
    if number is None:
        # After a rollback, the next one goes behind the version whose model is in production again.
        below = _origin(production)
        older = [version for version in by_number.values() if version.number < below and version.number != canary]
        if not older:
            raise BadInput(
                f"a rollback needs a version before {below}; {destination.url} holds none. Name one of those there."
            )
        return older[-1]
    if number not in by_number:
        available = ", ".join(map(str, by_number)) or "none"
        raise BadInput(f"a rollback takes a version in {destination.url}; {number} is none. Available: {available}")
    if number == canary:
        raise BadInput(
            f"version {number} is the canary, no older version: to put it in production, remove its label: "
            f"label {number} canary --remove"
        )
    if number == production.number or _same_model(by_number[number], production):
        raise BadInput(f"version {number} or the same model is in production already, as version {production.number}")
    return by_number[number]


def roll_back(serving_dir: ServingDir, version: Version, reason: str | None) -> Version:
    """Publishes an older version under the next number.

    Args:
        serving_dir: the model's folder.
        version: from `choose`.
        reason: for the provenance; None without one.

    Raises:
        GateStopped: a model was pushed in the meantime.
        OSError: the disk is full or the folder is not writable; the serving folder is as it was.
    """
    destination = open_destination(serving_dir)
    with history.lock(destination), tempfile.TemporaryDirectory(prefix="rollback-") as temporary:
        state, replaced = versions.serving_state(destination), versions.production_version(destination)
        model = pathlib.Path(temporary) / "model"
        destination.fetch(version.number, model)
        details: dict[str, Any] = {
            **history.signature(),
            "reason": reason,
            "of": version.number,
            "origin": _origin(version),
            "pushed_at": version.provenance.get("pushed_at"),
            "replaced": replaced and {"version": replaced.number, "sha256": _model_digest(replaced)},
        }
        new = publish.publish(
            model,
            destination,
            {},
            lambda number: {
                **version.provenance, "version": number, "pushed_at": details["at"], "rollback": details
            },
            judged_against=state,
        )  # fmt: skip
        history.append(destination, "rollback", version=new.number, **details)
    return new


def withdrawn_models(serving_dir: ServingDir) -> dict[str, Version]:
    """Maps the SHA-256 of each model that a rollback replaced to the version that replaced it.

    A model that was pushed or rolled back to afterwards is no longer withdrawn.
    """
    replacements: dict[str, Version] = {}
    for version in versions.all_versions(serving_dir):
        replaced = (version.provenance.get("rollback") or {}).get("replaced") or {}
        if digest := replaced.get("sha256"):
            replacements[digest] = version
        replacements.pop(_model_digest(version) or "", None)
    return replacements


def refuse_withdrawn(serving_dir: ServingDir, digest: str) -> None:
    """Raises `GateStopped` for a model that a rollback took out of production."""
    if (replacement := withdrawn_models(serving_dir).get(digest)) is not None:
        details = replacement.provenance["rollback"]
        raise GateStopped(
            f"This very model was version {details['replaced']['version']}, which a rollback by {details['by']} "
            f"took out of production at {details['at']}. Change the data or the training, or push it with --force-push "
            "REASON."
        )


def _origin(version: Version) -> int:
    """Returns the version that this one's model was first pushed as."""
    return int((version.provenance.get("rollback") or {}).get("origin", version.number))


def _model_digest(version: Version) -> str | None:
    digest = (version.provenance.get("model") or {}).get("sha256")
    return str(digest) if digest else None


def _same_model(first: Version, second: Version) -> bool:
    return _model_digest(first) is not None and _model_digest(first) == _model_digest(second)
