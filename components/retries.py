# SPDX-License-Identifier: Apache-2.0
"""Another try for what may pass: a store or a network that does not answer, or not now."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import tenacity

from components import progress
from components.errors import Unavailable

# Seconds before another try: 5, 10, 20 and so on, and a random part, so that tasks do not come back all at once.
WAIT = tenacity.wait_exponential_jitter(initial=5, max=60)


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, Unavailable)


def retrying(retries: int, passes: Callable[[Any], bool] = _is_unavailable) -> tenacity.Retrying:
    """Repeats work whose error may pass, at most so often after the first try; any other error ends it at once.

    Args:
        retries: from 0.
        passes: says of an error whether it may; default: of `Unavailable` alone.

    Raises:
        Exception: the last one that the work raised.
    """
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(passes),
        stop=tenacity.stop_after_attempt(retries + 1),
        wait=WAIT,
        before_sleep=_announce,
        reraise=True,
    )


def _announce(state: tenacity.RetryCallState) -> None:
    if state.outcome is not None and state.next_action is not None:
        text = f"tried again in {state.next_action.sleep:.0f} s: {state.outcome.exception()}"
        progress.report(progress.Message(text), logging.WARNING)
