# SPDX-License-Identifier: Apache-2.0
"""A task that does nothing, so that what remains is the entrypoint."""

from __future__ import annotations

from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor


class Executor(base_executor.BaseExecutor):
    """Leaves its output as it is."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Does nothing."""
