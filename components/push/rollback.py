# SPDX-License-Identifier: Apache-2.0
"""Puts an older model back in production: its files again, as the next version.

The numbers of versions only grow, and TensorFlow Serving loads the highest, so going back is a push of its own. The
provenance is that of the older version, with `rollback` added: who did it, when, why, of which version, and in place of
which one. The replaced model counts as withdrawn: a later run that comes to the very same model does not push it again.
"""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

from components.errors import BadInput, GateStopped
from components.push import destination, history, publish, versions
from components.push.versions import Version


def choose(where: destination.DestinationLike, number: int | None) -> Version:
    """The version to go back to: the given one, or the last that was in production before the one that is now.

    Raises:
        BadInput: there is none, or it is in production, or it is the canary.
    """
    folder = destination.open_destination(where)
    production = versions.production_version(folder)
    if production is None:
        raise BadInput(f"a rollback replaces the version in production; there is none in {folder.url}")
    found = {version.number: version for version in versions.all_versions(folder)}
    canary = versions.read_labels(folder).get(versions.CANARY)
    if number is None:
        # After a rollback, further back means older than the version whose model is here again.
        below = _origin(production)
        older = [version for version in found.values() if version.number < below and version.number != canary]
        if not older:
            raise BadInput(
                f"a rollback needs a version before {below}; {folder.url} holds none. Name one of those there."
            )
        return older[-1]
    if number not in found:
        known = ", ".join(map(str, found)) or "none"
        raise BadInput(f"a rollback takes a version that is in {folder.url}; {number} is not. There are: {known}")
    if number == canary:
        raise BadInput(
            f"version {number} is the canary, no older version: to put it in production, take its label off: "
            f"label {number} canary --remove"
        )
    if number == production.number or _same_model(found[number], production):
        raise BadInput(f"version {number} or the same model is in production already, as version {production.number}")
    return found[number]


def roll_back(where: destination.DestinationLike, version: Version, reason: str | None) -> Version:
    """Publishes an older version under the next number.

    Args:
        where: the model's folder.
        version: what `choose` gave.
        reason: why; None: not told.

    Raises:
        GateStopped: something was pushed in the meantime.
        OSError: the disk is full or the folder is not writable; the serving folder is as it was.
    """
    folder = destination.open_destination(where)
    with history.one_at_a_time(folder), tempfile.TemporaryDirectory(prefix="rollback-") as temporary:
        state, replaced = versions.serving_state(folder), versions.production_version(folder)
        model = pathlib.Path(temporary) / "model"
        folder.fetch(version.number, model)
        told: dict[str, Any] = {
            **history.signature(),
            "reason": reason,
            "of": version.number,
            "origin": _origin(version),
            "pushed_at": version.provenance.get("pushed_at"),
            "replaced": replaced and {"version": replaced.number, "sha256": _model_digest(replaced)},
        }
        new = publish.publish(
            model,
            folder,
            {},
            lambda number: {
                **version.provenance, "version": number, "pushed_at": told["at"], "rollback": told
            },
            judged_against=state,
        )  # fmt: skip
        history.append(folder, "rollback", version=new.number, **told)
    return new


def withdrawn(where: destination.DestinationLike) -> dict[str, Version]:
    """SHA-256 of each model that a rollback took out of production -> the version that came instead.

    A model that was pushed or rolled back to afterwards is not withdrawn any longer.
    """
    found: dict[str, Version] = {}
    for version in versions.all_versions(where):
        replaced = (version.provenance.get("rollback") or {}).get("replaced") or {}
        if digest := replaced.get("sha256"):
            found[digest] = version
        found.pop(_model_digest(version) or "", None)
    return found


def refuse_withdrawn(where: destination.DestinationLike, digest: str) -> None:
    """Raises `GateStopped` for a model that a rollback took out of production."""
    if (instead := withdrawn(where).get(digest)) is not None:
        told = instead.provenance["rollback"]
        raise GateStopped(
            f"This very model was version {told['replaced']['version']}, which a rollback by {told['by']} took out of "
            f"production at {told['at']}. Change the data or the training, or push it with --force-push REASON."
        )


def _origin(version: Version) -> int:
    """The version that this one's model was first pushed as."""
    return int((version.provenance.get("rollback") or {}).get("origin", version.number))


def _model_digest(version: Version) -> str | None:
    digest = (version.provenance.get("model") or {}).get("sha256")
    return str(digest) if digest else None


def _same_model(one: Version, other: Version) -> bool:
    return _model_digest(one) is not None and _model_digest(one) == _model_digest(other)
