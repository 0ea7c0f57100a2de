# SPDX-License-Identifier: Apache-2.0
"""Progress events: a readable line in a log, and their fields for a handler."""

from __future__ import annotations

import logging

import pytest

from components import progress
from components.progress import EpochEnd, Message, TrialEnd


def test_an_event_is_one_line_of_a_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "progress"):
        progress.report(EpochEnd(3, 4, 70, 96, 0.51234, 0.9, 0.875, 12.4))
        progress.report(TrialEnd(2, 3, "seed 1", "diverged", None, 2.0, ""))
        progress.report(Message("100 % read"), logging.WARNING)
    assert caplog.messages == [
        "epoch 3/4, step 70/96: loss 0.5123, accuracy 90.00 %, on val 87.50 %, 12 s",
        "trial 2/3: seed 1: diverged, 2 s",
        "100 % read",
    ]
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING"]
    event = caplog.records[0].msg
    assert isinstance(event, EpochEnd)
    assert (event.epoch, event.val_accuracy) == (3, 0.875)


def test_a_scope_precedes_the_events_within_it_alone() -> None:
    with progress.scope("trial 1/3, "):
        event = Message("exporting")
    assert [str(event), str(Message("exporting"))] == ["trial 1/3, exporting", "exporting"]
