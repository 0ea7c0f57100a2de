# SPDX-License-Identifier: Apache-2.0
"""A run with a search: the best trial is trained, judged, pushed and reported; changes run what depends on them."""

import json
import pathlib
import re
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata as hparams_metadata

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.slow

SEARCH = ("--dataset", "digits", "--model", "linear", "--config")
CONFIG = "tune = 3\n[training]\nseed = 4\n"


def test_a_search_from_the_first_trial_to_the_pushed_model(
    run: Any, checkout: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config, output = tmp_path / "config.toml", tmp_path / "output"
    config.write_text(CONFIG)
    before = sorted(checkout.iterdir())
    first = run(*SEARCH, config, "--output", output, root=checkout)
    assert first.code == 0, first.stdout + first.stderr
    record = first.record
    assert {stage["name"]: stage["state"] for stage in record["stages"]}["tune"] == "done"
    assert sorted(checkout.iterdir()) == before
    assert list((output / "checkpoints").iterdir()) == []

    trials = record["tuning"]["trials"]
    assert [row["number"] for row in trials] == [1, 2, 3]
    assert trials[0]["values"] == {"learning_rate": 0.01, "batch_size": 128}
    assert trials[0]["steps"] == 150  # a quarter of the profile's 600
    winner = trials[record["tuning"]["winner"] - 1]
    assert winner["val_accuracy"] == max(row["val_accuracy"] for row in trials)
    trained = record["config"]["training"]
    assert {name: trained[name] for name in winner["values"]} == winner["values"]
    assert (trained["seed"], trained["train_steps"]) == (4, round(600 * 128 / winner["values"]["batch_size"]))
    assert (record["config"]["tune"], record["config"]["fixed"]) == (3, ["seed"])
    extra = pathlib.Path(record["model"]["path"], "assets.extra")
    for name in ("provenance.json", "model_card.json"):
        assert json.loads((extra / name).read_text())["config"]["training"] == trained
    assert re.search(r"✓ tune +done .* trial 3/3: learning_rate .* \(best so far \d", first.stdout)
    assert 'id="trials"' in pathlib.Path(record["report"]).read_text()

    shown = re.search(r"tensorboard --logdir output/(\S+)", (ROOT / "Makefile").read_text())
    assert shown
    board = EventMultiplexer().AddRunsFromDirectory(str(output / shown[1])).Reload()
    runs = {name.split("/")[0] for name in board.PluginRunToTagToContent(hparams_metadata.PLUGIN_NAME)}
    assert runs == {"tune", "train"}

    def explained(*arguments: Any) -> dict[str, Any]:
        result = run(*arguments, "--output", output, "--explain", root=checkout)
        assert result.code == 0, result.stderr
        return {row["stage"]: row for row in result.record["stages"]}

    same = explained(*SEARCH, config)
    assert "tune" in same
    assert not any(row["runs"] for row in same.values())
    more = explained(*SEARCH, config, "--tune", "4")
    assert more["tune"]["reason"] == "trials changed from 3 to 4"
    assert more["train"]["reason"].startswith("tune runs")
    assert not more["transform"]["runs"]
    assert "tune" not in explained(*SEARCH, config, "--tune", "0")

    elsewhere = run(*SEARCH, config, "--output", output, "--serving-name", "other", root=checkout)
    states = {stage["name"]: stage["state"] for stage in elsewhere.record["stages"]}
    assert (states["tune"], states["train"], states["push"]) == ("cached", "cached", "done")
    assert elsewhere.record["tuning"] == record["tuning"]
    assert elsewhere.record["config"]["training"] == trained
