# SPDX-License-Identifier: Apache-2.0
"""The serving folder as users name it, a path or a URL, and the destination that it stands for."""

from __future__ import annotations

import os
import pathlib
from typing import TypeAlias

from components import storage
from components.push.destination import Destination
from components.push.local_folder import LocalFolder
from components.push.object_store import ObjectStore

ServingDir: TypeAlias = str | os.PathLike[str] | Destination


def open_destination(serving_dir: ServingDir) -> Destination:
    """Opens the destination at a path or URL; one that is open is returned as it is.

    Args:
        serving_dir: the model's folder, which holds its numbered versions.

    Raises:
        BadInput: a URL that is neither s3:// nor gs://.
    """
    if not isinstance(serving_dir, str | os.PathLike):
        return serving_dir
    if storage.is_url(serving_dir):
        return ObjectStore(os.fspath(serving_dir))
    return LocalFolder(pathlib.Path(serving_dir))
