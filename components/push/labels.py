# SPDX-License-Identifier: Apache-2.0
"""Sets, moves and removes labels: `labels.json` beside the versions, {"canary": 3}, is the one place for them.

A label is on one version at a time. The version labelled `canary` is not in production, so setting, moving or removing
that label may change what is.
"""

from __future__ import annotations

import json
import re
from typing import Any

from components.errors import BadInput
from components.push import destination, history, versions

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


def change(where: destination.DestinationLike, number: int, label: str, *, remove: bool = False) -> dict[str, Any]:
    """Puts a label on a version, or takes it off.

    Args:
        where: the model's folder.
        number: the version.
        label: its name, such as `canary`.
        remove: whether to take it off.

    Returns:
        The line in the history: `version`, `label`, `removed`, `before` (the version that had the label, or None), and
        `production` ([before, after], versions or None).

    Raises:
        BadInput: no such version or label, or nothing would be left in production.
    """
    folder = destination.open_destination(where)
    if not _NAME.fullmatch(label):
        raise BadInput(f"a label is a letter and then letters, digits, '-' and '_', 63 at most, not {label!r}")
    with history.one_at_a_time(folder):
        labels = versions.read_labels(folder)
        before = labels.get(label)
        complete = sorted(number for number, whole in folder.numbers().items() if whole)
        if number not in complete and not (remove and before == number):
            known = ", ".join(map(str, complete)) or "none"
            raise BadInput(f"a label goes on a version in {folder.url}; {number} is none. There are: {known}")
        if remove and before != number:
            where_is_it = f"it is on version {before}" if before is not None else "no version has it"
            raise BadInput(f"label {label!r} is taken off the version that has it; {number} has not: {where_is_it}")
        production = versions.production_version(folder)
        after = {name: bearer for name, bearer in labels.items() if name != label}
        if not remove:
            after[label] = number
        left = [number for number in complete if number != after.get(versions.CANARY)]
        if complete and not left:
            raise BadInput(f"version {number} is the only one, and a canary is not in production: push another first")
        folder.write(versions.LABELS_FILE, json.dumps(after, indent=1, sort_keys=True).encode() + b"\n")
        return history.append(
            folder,
            "label",
            version=number,
            label=label,
            removed=remove,
            before=before,
            production=[production and production.number, max(left, default=None)],
        )
