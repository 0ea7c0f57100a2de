# SPDX-License-Identifier: Apache-2.0
"""Which of several errors a person is told."""

from __future__ import annotations

import pytest

from components.errors import BadInput, GateStopped, ProjectError
from pipeline import run_record


def raised(raise_it):
    try:
        raise_it()
    except Exception as error:
        return error
    raise AssertionError


def from_another():
    try:
        raise OSError("the disk")
    except OSError as error:
        raise BadInput("a sentence") from error


def wrapped():
    try:
        from_another()
    except BadInput as error:
        raise RuntimeError("the stage failed") from error


def in_a_circle():
    """As where an error is wrapped by a library, and then the cause of that is raised again."""
    try:
        try:
            raise OSError("the disk")
        except OSError as error:
            raise RuntimeError("fatal") from error
    except RuntimeError as error:
        raise error.__cause__ or error from None


def meanwhile():
    try:
        raise GateStopped("a gate")
    except GateStopped:
        raise ZeroDivisionError("while tidying up")  # noqa: B904 - as a fault would be


def by_ctrl_c():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        raise RuntimeError("stopped") from error


@pytest.mark.parametrize(
    ("fails", "kind", "text"),
    [
        (from_another, BadInput, "a sentence"),
        (wrapped, BadInput, "a sentence"),
        (in_a_circle, OSError, "the disk"),
        (meanwhile, ZeroDivisionError, "while tidying up"),
        (by_ctrl_c, RuntimeError, "stopped"),
    ],
    ids=lambda value: getattr(value, "__name__", "" if isinstance(value, str) else None),
)
@pytest.mark.timeout(30)
def test_the_error_that_is_meant_for_a_person_comes_first(fails, kind, text):
    told = run_record.failure_cause(raised(fails))
    assert (type(told), str(told)) == (kind, text)


def test_of_a_failed_stage_its_own_error_is_told():
    failure = ProjectError("a stage")
    failure.__cause__ = raised(in_a_circle)
    assert run_record.failure_cause(failure) is failure
