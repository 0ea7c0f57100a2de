# SPDX-License-Identifier: Apache-2.0
"""The model card: all of the provenance, nothing guessed, and nothing in it that a viewer would take for markup."""

from __future__ import annotations

import json
from typing import Any

import pytest
from markdown_it import MarkdownIt
from scipy import stats

from components.push import model_card

PROVENANCE: dict[str, Any] = {
    "schema_version": 1,
    "version": 3,
    "pushed_at": "2026-03-01T12:00:00+00:00",
    "run_id": "20260301-115900-abcd",
    "code_digest": "c0de",
    "git_commit": "beef",
    "lock_digest": "10c4",
    "forced": None,
    "dataset_choice": "Data set mnist: the files in /data/mnist.",
    "config": {"serving_name": "mnist", "training": {"model": "cnn", "seed": 7}},
    "dataset": {
        "name": "mnist",
        "sha256": "da7a",
        "images": 70000,
        "span": 2,
        "files": {"train-images-idx3-ubyte": "f11e"},
        "splits": {"train": 55000, "val": 5000, "test": 10000},
    },
    "schema": {"sha256": "5c4e"},
    "model": {"sha256": "30de1", "parameters": 302590, "steps": 4300},
    "metrics": {
        "accuracy": 0.99, "loss": 0.03, "examples": 10000, "recall": {"0": 1.0, "1": 0.5}, "confusion": [[4, 0], [3, 3]]
    },
    "baseline": {"version": 2, "metrics": {"accuracy": 0.985}},
    "best": {"version": 1, "metrics": {"accuracy": 0.989}},
    "gates": [{"name": "accuracy-floor", "measured": 0.99, "limit": 0.98, "passed": True, "reason": "it is enough"}],
    "findings": [{"name": "label-noise", "sentence": "12 labels look wrong", "allowed": True, "examples": ["a"]}],
}  # fmt: skip


def test_it_says_all_that_the_provenance_says() -> None:
    card = model_card.build_card(PROVENANCE)
    assert card["data"]["files"] == {"train-images-idx3-ubyte": "f11e"}
    assert card["data"]["splits"] == {"train": 55000, "val": 5000, "test": 10000}
    assert card["data"]["licence"] == "CC BY-SA 3.0, Y. LeCun, C. Cortes, C. Burges"
    assert card["baseline"] == PROVENANCE["baseline"]
    assert (card["gates"], card["findings"]) == (PROVENANCE["gates"], PROVENANCE["findings"])
    text = model_card.render_markdown(card)
    for expected in (
        "# Model card: mnist, version 3",
        "2026-03-01T12:00:00+00:00",
        "commit beef, SHA-256 c0de",
        "10c4",
        "55,000 train",
        "f11e",
        "5c4e",
        "da7a",
        "30de1",
        "training.seed | 7",
        "Version 2, in production then: accuracy 98.50%",
        "Version 1, the best ever pushed then: accuracy 98.90%",
        "it is enough",
        "label-noise (allowed): 12 labels look wrong",
        "CC BY-SA 3.0",
        "10,000 test images of the data set mnist",
        "/data/mnist",
    ):
        assert expected in text, expected


def test_intervals_are_wilsons() -> None:
    card = model_card.build_card(PROVENANCE)["intervals"]
    for interval, right, count in (
        (card["accuracy"], 9900, 10000),
        (card["recall"]["1"], 3, 6),
        (card["recall"]["0"], 4, 4),
    ):
        assert interval == pytest.approx(list(stats.binomtest(right, count).proportion_ci(0.95, "wilson")), abs=1e-12)
    assert "98.79% to 99.18%" in model_card.render_markdown(model_card.build_card(PROVENANCE))


@pytest.mark.parametrize(
    ("name", "licence"),
    [("digits", "CC BY 4.0"), ("mnist", "CC BY-SA 3.0"), ("custom", "unknown"), ("my-mnist", "unknown")],
)
def test_the_licence_of_the_data_is_that_of_those_very_files(name: str, licence: str) -> None:
    card = model_card.build_card({**PROVENANCE, "dataset": {**PROVENANCE["dataset"], "name": name}})
    assert card["data"]["licence"].startswith(licence)


def test_nothing_is_guessed() -> None:
    card = model_card.build_card({"version": 1})
    assert (card["data"]["sha256"], card["metrics"], card["intervals"], card["gates"]) == (None, None, None, None)
    text = model_card.render_markdown(card)
    assert "Unknown." in text
    assert "None" not in text.replace("None.", "")


def test_a_rollback_and_a_forced_push_stand_at_the_top() -> None:
    back = {
        "of": 1, "by": "ann@host", "at": "2026-03-02T08:00:00+00:00", "reason": "sevens", "replaced": {"version": 2}
    }  # fmt: skip
    text = model_card.render_markdown(model_card.build_card({**PROVENANCE, "rollback": back, "forced": "a try"}))
    top = text.partition("## ")[0]
    assert (
        "this is version 1 again, republished by ann\\@host at 2026-03-02T08:00:00+00:00 in place of version 2" in top
    )
    assert "because: sevens" in top
    assert "by force, because: a try" in top


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "![a](http://x/y.png)",
        "**bold** _it_ ~~no~~", "`code`", "a | b | c", "two\nlines\n\n# heading", "\\` \\| \\<b>", "&lt;b&gt;",
        "http://evil.example www.evil.example HTTPS://evil.example", "a@evil.example", "$x$", "\x1b[31mred\x07",
    ],
)  # fmt: skip
def test_no_value_is_markup(hostile: str) -> None:
    card = model_card.build_card(
        {
            **PROVENANCE,
            "forced": hostile,
            "dataset_choice": hostile,
            "dataset": {**PROVENANCE["dataset"], "name": hostile, "files": {hostile: hostile}},
            "config": {"serving_name": hostile, hostile: hostile},
            "gates": [{**PROVENANCE["gates"][0], "name": hostile, "reason": hostile}],
            "findings": [{**PROVENANCE["findings"][0], "sentence": hostile}],
        }
    )
    text = model_card.render_markdown(card)
    assert not {char for char in text if not char.isprintable()} - {"\n"}
    parser = MarkdownIt("commonmark").enable("table").enable("strikethrough")
    tokens = [inner for token in parser.parse(text) for inner in (token, *(token.children or ()))]
    types = {token.type for token in tokens}
    assert not types & {
        "html_inline",
        "html_block",
        "link_open",
        "image",
        "em_open",
        "strong_open",
        "s_open",
        "code_inline",
    }
    # As a reader sees it, it is what was given, its white space aside.
    shown = " ".join("".join(char if char.isprintable() else " " for char in hostile).split())
    cells = ["".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"]
    assert cells.count(shown) == 8
    # GitHub makes links of these; a backslash keeps it from that.
    assert "http:" not in text.replace("http\\:", "")
    assert "www." not in text


def test_three_files_lie_beside_the_model() -> None:
    files = model_card.beside(PROVENANCE)
    assert set(files) == {f"assets.extra/{name}" for name in ("provenance.json", "model_card.json", "model_card.md")}
    assert json.loads(files["assets.extra/provenance.json"]) == PROVENANCE
    assert json.loads(files["assets.extra/model_card.json"]) == model_card.build_card(PROVENANCE)
