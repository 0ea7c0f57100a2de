# SPDX-License-Identifier: Apache-2.0
"""A version is tried before it gets requests."""

from __future__ import annotations

import pytest

from serving import savedmodel


def test_a_valid_version_warms_up(tmp_path, push):
    savedmodel.load(push(tmp_path / "mnist", 1)).warm_up()


def test_a_version_without_probabilities_does_not_warm_up(tmp_path, push):
    model = savedmodel.load(push(tmp_path / "mnist", 1, "nan"))
    with pytest.raises(ValueError, match="probabilities of 1 images must add up to 1; they add up to nan"):
        model.warm_up()
