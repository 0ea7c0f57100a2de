# SPDX-License-Identifier: Apache-2.0
"""Puts a model into the serving folder so that nobody ever sees half of it.

The model is staged beside the versions under a name that no server looks at, written through to the disk, and becomes a
version by one rename. A rename onto a folder that is there fails, so two pushes cannot claim one number.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from components.push import versions

STAGING_PREFIX = ".staging-"


def publish(
    saved_model: pathlib.Path,
    serving_dir: pathlib.Path,
    extra: Mapping[str, pathlib.Path],
    provenance: Callable[[int], Mapping[str, Any]],
) -> versions.Version:
    """Copies a SavedModel into the serving folder as the next version.

    Args:
        saved_model: folder of the SavedModel.
        serving_dir: the model's folder in the serving folder; made where it is missing.
        extra: name in `assets.extra` -> file to put there.
        provenance: gives the content of the provenance file for the version's number.

    Raises:
        OSError: the disk is full or the folder is not writable; the serving folder is as it was.
    """
    serving_dir.mkdir(parents=True, exist_ok=True)
    staging = pathlib.Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=serving_dir))
    try:
        model = staging / "model"
        shutil.copytree(saved_model, model)
        (model / versions.EXTRA).mkdir(exist_ok=True)
        for name, path in extra.items():
            shutil.copyfile(path, model / versions.EXTRA / name)
        while True:
            number = versions.next_number(serving_dir)
            text = json.dumps(provenance(number), indent=1)
            (model / versions.EXTRA / versions.PROVENANCE_FILE).write_text(text, encoding="utf-8")
            _write_through(model)
            with contextlib.suppress(FileExistsError, NotADirectoryError):
                _rename(model, serving_dir / str(number))
                break
        _sync(serving_dir)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return next(version for version in versions.all_versions(serving_dir) if version.number == number)


def _rename(source: pathlib.Path, target: pathlib.Path) -> None:
    if target.exists():  # the kernel would let a folder replace an empty one
        raise FileExistsError(target)
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(target) from error
        raise


def _write_through(folder: pathlib.Path) -> None:
    """Makes sure that a folder and all below it survive a power cut."""
    for path in [*folder.rglob("*"), folder, folder.parent]:
        _sync(path)


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
