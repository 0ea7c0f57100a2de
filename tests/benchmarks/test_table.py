# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pathlib
import shutil

import pytest

from benchmarks import bench, models, table
from benchmarks.measurement import Measurement
from components.errors import BadInput


def test_a_table_replaces_the_one_before(tmp_path):
    page = pathlib.Path(shutil.copy(bench.PAGE, tmp_path / "page.md"))
    before, _, rest = page.read_text(encoding="utf-8").partition(table.BEGIN)
    rows = [
        Measurement("a / b", "s", [2.1], [1.0], at_most=2.0),
        Measurement("c", "s", [0.5], at_most=2.0),
        Measurement("d / e", "modules", [4000.0], [2000.0]),
    ]
    for _ in range(2):
        table.write_table(page, table.render_measurements(rows, ["on this machine"]))
    assert table.read_rows(page) == [
        ["a / b", "2.10 s", "1.00 s", "2.10", "≤ 2", "**no**"],
        ["c", "0.50 s", "", "", "≤ 2 s", "yes"],
        ["d / e", "4,000 modules", "2,000 modules", "2.00", "", ""],
    ]
    text = page.read_text(encoding="utf-8")
    assert "\n- on this machine\n" in text
    assert text.startswith(before)
    assert text.endswith(rest.partition(table.END)[2])


def test_a_page_without_the_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    with pytest.raises(BadInput, match="--page must name a file"):
        table.check_page(page)
    page.write_text(f"{table.END} {table.BEGIN}")
    with pytest.raises(BadInput, match="must have a line"):
        table.check_page(page)
    page.write_text(f"{table.BEGIN}\n{table.END}")
    with pytest.raises(BadInput, match="make models"):
        table.check_page(page, models.BEGIN)
