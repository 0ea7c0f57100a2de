# SPDX-License-Identifier: Apache-2.0
"""Every kind of finding of the data gate: the words that `--allow` takes."""

from components.errors import BadInput
from components.validate import image_check, label_noise

DATASET_CHANGED = "dataset-changed"
ANOMALY, SKEW, DRIFT = "anomaly", "skew", "drift"
ALL = (DATASET_CHANGED, *image_check.NAMES, label_noise.NAME, ANOMALY, SKEW, DRIFT)


def parse(names: str) -> tuple[str, ...]:
    """Reads names with commas between them.

    Raises:
        BadInput: there is no finding of a name.
    """
    found = tuple(sorted({name.strip() for name in names.split(",")} - {""}))
    for name in found:
        if name not in ALL:
            raise BadInput(f"allow takes names of findings with commas between them, of {', '.join(ALL)}; not {name!r}")
    return found
