# SPDX-License-Identifier: Apache-2.0
"""Versions, runs and artifacts that prune removes and leaves, with a folder and an object store as destinations."""

from __future__ import annotations

import functools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from components.errors import BadInput
from components.push import history, labels, publish, versions
from components.push.serving_dir import open_destination
from pipeline.local import housekeeping
from pipeline.settings import ModelLocation
from tests import object_stores

# Accuracy of the versions 1 to 5: the second is the best.
ACCURACIES = (0.90, 0.99, 0.95, 0.96, 0.97)


@pytest.fixture(scope="module")
def server() -> Iterator[object_stores.S3]:
    with object_stores.running() as running:
        yield running


@pytest.fixture(params=["folder", "store"])
def location(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> ModelLocation:
    """Five runs of a day each, each of which pushed a version and left an artifact; the metadata are lost."""
    output = tmp_path / "output"
    if request.param == "store":
        request.getfixturevalue("server").bucket("models")
        model = open_destination("s3://models/serving/mnist")
    else:
        model = open_destination(output / "serving" / "mnist")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "saved_model.pb").write_bytes(b"graph" * 1000)
    for number, accuracy in enumerate(ACCURACIES, start=1):
        run_id = f"2026010{number}-120000-000{number}"
        artifact = output / "pipeline_root" / "train" / "model" / str(number)
        artifact.mkdir(parents=True)
        (artifact / "weights").write_bytes(bytes(1000))
        (output / "runs" / run_id).mkdir(parents=True)
        record = {"schema_version": 1, "run_id": run_id, "artifacts": {"train.model": str(artifact)}}
        (output / "runs" / run_id / "record.json").write_text(json.dumps(record))
        values = {"run_id": run_id, "dataset": {"name": "mnist"}, "metrics": {"accuracy": accuracy}}
        publish.publish(tmp_path / "source", model, {}, functools.partial(_provenance, values))
    return ModelLocation(output, model)


def _provenance(values: dict[str, Any], number: int) -> dict[str, Any]:
    return {**values, "version": number}


def numbers(location: ModelLocation) -> list[int]:
    return [version.number for version in versions.all_versions(location.model)]


def test_what_must_stay_stays(location: ModelLocation) -> None:
    labels.change(location.model, 1, "blue")
    (location.output / "runs" / "compare-20260103-120000-0003-20260105-120000-0005.html").write_text("page")
    result = housekeeping.prune(location, 1)
    assert result["kept"]["versions"] == {1: "blue", 2: "the best ever pushed", 5: "in production"}
    assert numbers(location) == [1, 2, 5]
    runs = [f"2026010{number}-120000-000{number}" for number in (1, 2, 5)]
    assert result["kept"]["runs"] == runs == sorted(path.name for path in (location.output / "runs").iterdir())
    remaining = location.output / "pipeline_root" / "train" / "model"
    assert sorted(path.name for path in remaining.iterdir()) == ["1", "2", "5"]
    assert result["removed"] == {
        "versions": [3, 4], "runs": ["20260103-120000-0003", "20260104-120000-0004"], "artifacts": 2, "checkpoints": 0
    }  # fmt: skip
    assert result["freed"]["artifacts"] == 2000
    assert result["freed"]["total"] == sum(size for name, size in result["freed"].items() if name != "total")
    assert (result["freed"]["versions"] > 10000) == location.model.url.startswith("/")
    assert "There are no metadata" in result["note"]
    assert [(line["action"], line.get("versions")) for line in history.read(location.model)][-1] == ("prune", [3, 4])
    assert versions.next_number(location.model) == 6


def test_a_second_time_nothing_is_left_to_do(location: ModelLocation) -> None:
    housekeeping.prune(location, 2)
    before = history.read(location.model)
    again = housekeeping.prune(location, 2)
    assert again["removed"] == {"versions": [], "runs": [], "artifacts": 0, "checkpoints": 0}
    assert again["freed"]["total"] == 0
    assert history.read(location.model) == before


def test_a_canary_and_what_is_in_production_stay(location: ModelLocation) -> None:
    labels.change(location.model, 5, "canary")
    assert housekeeping.prune(location, 1)["kept"]["versions"] == {
        2: "the best ever pushed",
        4: "in production",
        5: "canary",
    }
    assert numbers(location) == [2, 4, 5]


def test_a_high_number_removes_nothing(location: ModelLocation) -> None:
    assert housekeeping.prune(location, 9)["removed"]["versions"] == []
    assert numbers(location) == [1, 2, 3, 4, 5]


def test_only_checkpoints_that_no_kept_run_goes_on_from_go(location: ModelLocation) -> None:
    folder = location.output / "checkpoints"
    for name in ("left", "gone-on-from", "newer"):
        (folder / name).mkdir(parents=True)
    # The oldest run that stays is that of the second day, which made the best version: it found two of them.
    path = location.output / "runs" / "20260102-120000-0002" / "record.json"
    present = housekeeping.checkpoint_times(location.output)
    del present["newer"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": {"checkpoints": present}}))
    os.utime(folder / "gone-on-from", (0, 0))  # by a clock that was set back
    os.utime(folder / "newer", (0, 0))
    assert housekeeping.prune(location, 1)["removed"]["checkpoints"] == 1
    assert sorted(path.name for path in folder.iterdir()) == ["gone-on-from", "newer"]


def test_the_newest_runs_stay_whatever_their_clocks_said(location: ModelLocation) -> None:
    """The last run was in New York, the one before in Tokyo; a former record has no sequence."""
    for name, sequence in (("20260105-120000-0005", 1), ("20260104-120000-0004", 2), ("20260101-120000-0001", 3)):
        path = location.output / "runs" / name / "record.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sequence": sequence}))
    runs = housekeeping.prune(location, 2)["kept"]["runs"]
    # The second made the best version, and the fifth the one in production.
    assert runs == [f"2026010{number}-120000-000{number}" for number in (2, 5, 4, 1)]


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one_must_remain(location: ModelLocation, count: int) -> None:
    with pytest.raises(BadInput, match="1 or more"):
        housekeeping.prune(location, count)
    assert len(numbers(location)) == 5
