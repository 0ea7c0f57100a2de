# SPDX-License-Identifier: Apache-2.0
"""A version is tried before it takes traffic."""

from __future__ import annotations

import pytest

from serving import savedmodel
from serving.refusal import Refusal


def test_a_sound_version_warms_up(tmp_path, put):
    savedmodel.load(put(tmp_path / "mnist", 1)).warm_up()


def test_a_version_that_answers_no_probabilities_does_not(tmp_path, put):
    model = savedmodel.load(put(tmp_path / "mnist", 1, "nan"))
    with pytest.raises(Refusal, match="probabilities of 1 images must add up to 1, but add up to nan"):
        model.warm_up()
