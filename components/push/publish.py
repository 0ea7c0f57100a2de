# SPDX-License-Identifier: Apache-2.0
"""Puts a model where servers look for it, so that nobody ever sees half of it and only one of two pushers does it."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from components.errors import GateStopped
from components.push import destination, model_card, versions


def publish(
    saved_model: pathlib.Path,
    where: destination.DestinationLike,
    extra: Mapping[str, pathlib.Path],
    provenance: Callable[[int], Mapping[str, Any]],
    judged_against: str | None = None,
) -> versions.Version:
    """Copies a SavedModel to a destination as the next version.

    Args:
        saved_model: folder of the SavedModel.
        where: the model's folder; made where it is missing.
        extra: name in `assets.extra` -> file to put there.
        provenance: gives the content of the provenance file for the version's number; the model card says the same.
        judged_against: `versions.state` that must still hold; None: whatever is in production.

    Raises:
        GateStopped: something else is in production by now.
        BadInput: the object store cannot be used.
        OSError: the disk is full or the folder is not writable; the serving folder is as it was.
    """
    folder = destination.open_destination(where)
    files = {
        path.relative_to(saved_model).as_posix(): path for path in sorted(saved_model.rglob("*")) if path.is_file()
    }
    files |= {f"{versions.EXTRA}/{name}": path for name, path in extra.items()}
    with folder.staged(files) as staged:
        while True:
            # In this order: who pushes after the look at production has taken this number, and who did so before is
            # seen by the look.
            number = versions.next_number(folder)
            folder.settle()
            if judged_against is not None:
                check_baseline(folder, judged_against)
            if staged.become(number, model_card.beside(provenance(number))):
                return versions.find_version(folder, number)


def check_baseline(where: destination.DestinationLike, judged_against: str) -> None:
    """Raises `GateStopped` where production is not what a candidate was judged against (a `versions.state`)."""
    now = versions.serving_state(where)
    if now != judged_against:
        raise GateStopped(
            f"A candidate is pushed only while the baseline it was judged against is in production: that was version "
            f"{judged_against.partition(':')[0] or 'none'}, now it is {now.partition(':')[0] or 'none'}. Run again."
        )
