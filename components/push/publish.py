# SPDX-License-Identifier: Apache-2.0
"""Publishes a model as the next version: in one step, and by only one of two concurrent pushers."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from components.errors import GateStopped
from components.push import model_card, versions
from components.push.serving_dir import ServingDir, open_destination


def publish(
    saved_model: pathlib.Path,
    serving_dir: ServingDir,
    extra: Mapping[str, pathlib.Path],
    provenance: Callable[[int], Mapping[str, Any]],
    judged_against: str | None = None,
) -> versions.Version:
    """Copies a SavedModel to a destination as the next version.

    Args:
        saved_model: folder of the SavedModel.
        serving_dir: the model's folder; made where it is missing.
        extra: name in `assets.extra` -> file to put there.
        provenance: returns the content of the provenance file for a version number; the model card is made from it.
        judged_against: `versions.serving_state` that must still hold; None: any.

    Raises:
        GateStopped: another model is in production by now.
        BadInput: the object store cannot be used.
        OSError: the disk is full or the folder is not writable; the serving folder is as it was.
    """
    destination = open_destination(serving_dir)
    files = {
        path.relative_to(saved_model).as_posix(): path for path in sorted(saved_model.rglob("*")) if path.is_file()
    }
    files |= {f"{versions.EXTRA}/{name}": path for name, path in extra.items()}
    with destination.stage(files) as staged:
        while True:
            # In this order: a push before the check of production is seen by it, and one after it uses this number.
            number = versions.next_number(destination)
            destination.recover()
            if judged_against is not None:
                check_baseline(destination, judged_against)
            if staged.commit(number, model_card.beside(provenance(number))):
                return versions.find_version(destination, number)


def check_baseline(serving_dir: ServingDir, judged_against: str) -> None:
    """Raises `GateStopped` if production is not what a candidate was judged against (a `versions.serving_state`)."""
    state = versions.serving_state(serving_dir)
    if state != judged_against:
        raise GateStopped(
            f"A candidate is pushed only while the baseline it was judged against is in production: that was version "
            f"{judged_against.partition(':')[0] or 'none'}, now it is {state.partition(':')[0] or 'none'}. Run again."
        )
