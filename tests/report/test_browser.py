# SPDX-License-Identifier: Apache-2.0
"""The pages in a real browser, headless Chromium, with the network cut off."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable

import pytest

from pipeline.report import page
from tests import browser
from tests.browser import words
from tests.report.conftest import parse

pytestmark = pytest.mark.slow

HOSTILE = "<script>document.title='taken over';console.error('taken over')</script><img src=x onerror=alert(1)>\"'&"


Show = Callable[[pathlib.Path], browser.Shown]


@pytest.fixture
def show(tmp_path: pathlib.Path) -> Show:
    """Opens a page in the browser."""
    return lambda path: browser.show(path, tmp_path / "profile")


def test_a_report_is_complete_silent_and_agrees_with_the_record(make_run, tmp_path: pathlib.Path, show: Show) -> None:
    record = make_run(forced="the deadline")
    path = page.write(record, tmp_path)
    assert path.stat().st_size < 3_000_000
    shown = show(path)
    assert shown.console == []
    charts = {"data": 1, "training": 3, "classes": 1, "calibration": 1}
    for name, count in charts.items():
        assert shown.section(name).count("<svg") == count, name
    assert shown.section("training").count('aria-roledescription="point"') == 2 * 4 + 2
    assert "could not be drawn" not in words(shown.dom)
    verdict = words(shown.section("verdict"))
    assert record.sentence in verdict
    assert "Forced past the model gate. Reason: the deadline" in verdict
    assert "accuracy 95.00% 85.00 to 100.00% 90.00% – 93.00% ✓ pass" in verdict
    evaluation = words(shown.section("evaluation"))
    assert f"{record.metrics.loss:.4f}" in evaluation
    assert f"{record.baseline.metrics.loss:.4f}" in evaluation
    rows = re.findall(r'<tr data-class="(\d)">(.*?)</tr>', shown.section("classes"), re.DOTALL)
    assert {name: words(row).split()[2] for name, row in rows} == {
        name: f"{recall:.2%}" for name, recall in record.metrics.recall.items()
    }
    assert shown.section("gallery").count("<img") == 2
    assert record.dataset.sha256 in shown.section("lineage")
    assert "1 min 15 s" in shown.section("stages")


def test_text_stays_text(make_run, tmp_path: pathlib.Path, show: Show) -> None:
    values = make_run(forced=HOSTILE, reason=HOSTILE, sentence=HOSTILE, log=HOSTILE).to_json()
    values["run_id"] = HOSTILE
    values["dataset"]["name"] = HOSTILE
    values["gates"][0] |= {"name": HOSTILE, "reason": HOSTILE, "passed": False}
    values["findings"] = [
        {"name": HOSTILE, "sentence": HOSTILE, "count": 1, "examples": [HOSTILE], "allowed": True, "measured": 1}
    ]
    shown = show(page.write(parse(values), tmp_path))
    assert shown.console == []
    assert "<title>taken over" not in shown.dom
    assert not re.search(r"<img[^>]*onerror", shown.dom)
    for name in ("verdict", "data", "lineage"):
        assert " ".join(HOSTILE.split()) in words(shown.section(name)), name


def test_a_long_word_does_not_widen_the_page(make_run, tmp_path: pathlib.Path, show: Show) -> None:
    long = "a" * 1000
    values = make_run(forced=long, reason=long, sentence=long, log=f"/{long}").to_json()
    values["dataset"]["name"] = long
    values["gates"][0] |= {"name": long, "reason": long, "passed": False}
    values["stages"][0] |= {"name": long}
    values["findings"] = [
        {"name": long, "sentence": long, "count": 1, "examples": [long], "allowed": True, "measured": 1}
    ]
    path = page.write(parse(values), tmp_path)
    head, end, tail = path.read_text(encoding="utf-8").rpartition("</body>")
    script = "document.title = document.documentElement.scrollWidth - document.documentElement.clientWidth"
    path.write_text(f"{head}<script>{script}</script>{end}{tail}", encoding="utf-8")
    assert "<title>0</title>" in show(path).dom


def test_a_comparison_is_complete_and_silent(make_run, tmp_path: pathlib.Path, show: Show) -> None:
    run_a, run_b = make_run("20260101-000000-aaaa"), make_run("20260102-000000-bbbb", forced=HOSTILE)
    shown = show(page.write_comparison(run_a, run_b, tmp_path / "compare.html"))
    assert shown.console == []
    assert shown.section("metrics").count("<svg") == 1
    assert "95.00% 95.00% +0.00 points" in words(shown.section("metrics"))
    for name in ("verdicts", "settings", "gates", "galleries", "stages"):
        assert words(shown.section(name)), name


@pytest.mark.parametrize(
    "script",
    [
        "console.error('a fault')",
        "fetch('http://example.com/').catch(() => {})",
        "new Image().src = 'http://example.com/x.png'",
        "throw new Error('a fault')",
    ],
)
def test_the_browser_reports_errors_and_requests(make_run, tmp_path: pathlib.Path, show: Show, script: str) -> None:
    """Checks the premise of the tests above: a silent page would log its faults."""
    path = page.write(make_run(), tmp_path)
    head, end, tail = path.read_text(encoding="utf-8").rpartition("</body>")
    path.write_text(f"{head}<script>{script}</script>{end}{tail}", encoding="utf-8")
    assert show(path).console


def test_a_page_has_no_links_to_other_files(make_run, tmp_path: pathlib.Path) -> None:
    text = page.write(make_run(), tmp_path).read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert {value[:5] for value in re.findall(r'(?:src|href|action)="([^"]*)"', own) if value[0] != "#"} == {"data:"}
    assert "url(" not in own
    assert "@import" not in own
