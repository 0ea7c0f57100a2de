# SPDX-License-Identifier: Apache-2.0
"""The options of Beam's pipelines."""

from __future__ import annotations

from collections.abc import Sequence


def arguments(given: Sequence[str]) -> list[str]:
    """Names the runner unless a person did: Beam's own choice tries to download one, so it depends on the network."""
    if any(arg.partition("=")[0] == "--runner" for arg in given):
        return list(given)
    # With any Beam option set, TFX builds a source package of itself for remote workers, 2 to 3 seconds in each stage,
    # unless it sees that they have a container image. This runner has no remote workers.
    return ["--runner=FnApiRunner", "--sdk_container_image=none", *given]
