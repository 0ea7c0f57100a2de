# SPDX-License-Identifier: Apache-2.0
"""Retries of transient failures: a store or a network that does not respond."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import tenacity

from components import progress
from components.errors import Unavailable

# Seconds before another try: 5, 10, 20 and so on, with jitter, so that tasks do not retry all at once.
WAIT = tenacity.wait_exponential_jitter(initial=5, max=60)


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, Unavailable)


def retrying(retries: int, is_transient: Callable[[Any], bool] = _is_unavailable) -> tenacity.Retrying:
    """Returns a loop that repeats work after transient errors; any other error ends it at once.

    Args:
        retries: number of tries after the first one, from 0.
        is_transient: returns True for a transient error; by default for `Unavailable` alone.

    Raises:
        Exception: the last one that the work raised.
    """
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_transient),
        stop=tenacity.stop_after_attempt(retries + 1),
        wait=WAIT,
        before_sleep=_announce,
        reraise=True,
    )


def _announce(state: tenacity.RetryCallState) -> None:
    if state.outcome is not None and state.next_action is not None:
        text = f"tried again in {state.next_action.sleep:.0f} s: {state.outcome.exception()}"
        progress.report(progress.Message(text), logging.WARNING)
