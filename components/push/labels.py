# SPDX-License-Identifier: Apache-2.0
"""Sets, moves and removes labels: `labels.json` beside the versions, {"canary": 3}, holds them all.

A label is on one version at a time. The version labelled `canary` is not in production, so setting, moving or removing
that label may change what is.
"""

from __future__ import annotations

import json
import re
from typing import Any

from components.errors import BadInput
from components.push import history, versions
from components.push.serving_dir import ServingDir, open_destination

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


def change(serving_dir: ServingDir, number: int, label: str, *, remove: bool = False) -> dict[str, Any]:
    """Sets a label on a version, or removes it.

    Args:
        serving_dir: the model's folder.
        number: the version.
        label: its name, such as `canary`.
        remove: removes it instead of setting it.

    Returns:
        The line in the history: `version`, `label`, `removed`, `before` (the version that had the label, or None), and
        `production` ([before, after], versions or None).

    Raises:
        BadInput: there is no such version or label, or no version would remain in production.
    """
    destination = open_destination(serving_dir)
    if not _NAME.fullmatch(label):
        raise BadInput(f"a label is a letter and then letters, digits, '-' and '_', 63 at most, not {label!r}")
    with history.lock(destination):
        labels = versions.read_labels(destination)
        before = labels.get(label)
        complete = sorted(number for number, is_complete in destination.numbers().items() if is_complete)
        if number not in complete and not (remove and before == number):
            available = ", ".join(map(str, complete)) or "none"
            raise BadInput(
                f"a label is set on a version in {destination.url}; {number} is none. Available: {available}"
            )
        if remove and before != number:
            owner = f"version {before} has it" if before is not None else "no version has it"
            raise BadInput(f"label {label!r} is removed from the version that has it; {number} has not: {owner}")
        production = versions.production_version(destination)
        after = {name: version for name, version in labels.items() if name != label}
        if not remove:
            after[label] = number
        remaining = [number for number in complete if number != after.get(versions.CANARY)]
        if complete and not remaining:
            raise BadInput(f"version {number} is the only one, and a canary is not in production: push another first")
        destination.write(versions.LABELS_FILE, json.dumps(after, indent=1, sort_keys=True).encode() + b"\n")
        return history.append(
            destination,
            "label",
            version=number,
            label=label,
            removed=remove,
            before=before,
            production=[production and production.number, max(remaining, default=None)],
        )
