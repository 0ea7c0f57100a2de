# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from benchmarks import runs
from benchmarks.measurement import ROOT
from components.errors import ProjectError


def test_a_copy_of_the_code_gets_another_network(tmp_path):
    checkout = runs.copy_checkout(tmp_path / "checkout")
    runs.edit_network(checkout)
    path = "components/train/models.py"
    before, after = ((root / path).read_text(encoding="utf-8").splitlines() for root in (ROOT, checkout))
    assert [line.strip() for line in after if line not in before] == ['layers.Dense(301, activation="relu"),']
    with pytest.raises(ProjectError, match="name another layer"):
        runs.edit_network(checkout)
