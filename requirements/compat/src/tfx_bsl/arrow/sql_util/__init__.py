# SPDX-License-Identifier: Apache-2.0
"""Stands in for a module of tfx-bsl that TFDV 1.16 imports at start-up and tfx-bsl 1.21 no longer ships.

TFDV needs it for slices written in SQL alone, which this project does not use.
"""

from collections.abc import Callable
from typing import Any


def RecordBatchSQLSliceQuery(*_: Any, **__: Any) -> Callable[..., Any]:  # noqa: N802, the name that TFDV imports
    """Refuses what the module of that name in older releases of tfx-bsl did.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "Slices must be given as features or functions: this release of tfx-bsl has no SQL slices. "
        "Received a slice in SQL. Use Python 3.12 or newer with glibc 2.39 for the official lane."
    )
