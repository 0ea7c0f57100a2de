# SPDX-License-Identifier: Apache-2.0
"""A rollback, and its note in ML Metadata, so that lineage leads from the new version to the run that trained it."""

from __future__ import annotations

from components.push import rollback
from components.push.versions import Version
from pipeline import metadata
from pipeline.place import Place


def roll_back(place: Place, number: int | None, reason: str | None) -> tuple[Version, list[str]]:
    """Puts an older version back in production.

    Args:
        place: output folder and model.
        number: the version; None: the one that was in production before.
        reason: why; None: not told.

    Returns:
        The new version, and sentences about what could not be noted.

    Raises:
        BadInput: there is no such version.
        GateStopped: something was pushed in the meantime.
    """
    chosen = rollback.choose(place.model, number)
    new = rollback.roll_back(place.model, chosen, reason)
    try:
        store = metadata.connect(place.database, write=True)
        origin = metadata.matching(metadata.pushed(store), chosen.number, chosen.location, chosen.provenance)
        metadata.record_rollback(store, origin, new.number, new.location, new.provenance)
    except metadata.LostError as error:
        return new, [f"{error} The provenance beside the model has all of it."]
    return new, []
