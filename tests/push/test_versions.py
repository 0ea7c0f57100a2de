# SPDX-License-Identifier: Apache-2.0
import json
import pathlib

import pytest

from components.errors import BadInput
from components.push import versions


def add(
    folder: pathlib.Path, number: int, accuracy: float = 0.9, dataset: str = "mnist", complete: bool = True
) -> None:
    extra = folder / str(number) / "assets.extra"
    extra.mkdir(parents=True)
    provenance = {"dataset": {"name": dataset}, "metrics": {"accuracy": accuracy}}
    (extra / "provenance.json").write_text(json.dumps(provenance))
    if complete:
        (folder / str(number) / "saved_model.pb").write_bytes(b"graph")


def test_production_is_the_highest_number_not_the_highest_text(tmp_path: pathlib.Path) -> None:
    for number in (2, 10, 9):
        add(tmp_path, number)
    production = versions.production_version(tmp_path)
    assert production is not None
    assert production.number == 10


def test_a_folder_without_a_graph_is_no_version_but_its_number_is_taken(tmp_path: pathlib.Path) -> None:
    add(tmp_path, 1)
    add(tmp_path, 2, complete=False)
    assert [version.number for version in versions.all_versions(tmp_path)] == [1]
    assert versions.next_number(tmp_path) == 3


def test_a_canary_is_not_production(tmp_path: pathlib.Path) -> None:
    add(tmp_path, 1)
    add(tmp_path, 2)
    (tmp_path / "labels.json").write_text('{"canary": 2, "stable": 1}')
    production = versions.production_version(tmp_path)
    assert production is not None
    assert production.number == 1


def test_best_goes_by_accuracy_among_versions_of_the_same_data(tmp_path: pathlib.Path) -> None:
    add(tmp_path, 1, accuracy=0.98)
    add(tmp_path, 2, accuracy=0.97)
    add(tmp_path, 3, accuracy=0.99, dataset="digits")
    best = versions.best_version(tmp_path, "mnist")
    assert best is not None
    assert best.number == 1


def test_nothing_is_in_production_where_there_is_no_folder(tmp_path: pathlib.Path) -> None:
    assert versions.production_version(tmp_path / "none") is None
    assert versions.serving_state(tmp_path / "none") == ""
    assert versions.next_number(tmp_path / "none") == 1


def test_state_tells_a_changed_byte(tmp_path: pathlib.Path) -> None:
    add(tmp_path, 1)
    before = versions.serving_state(tmp_path)
    assert before.startswith("1:")
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"grapH")
    assert versions.serving_state(tmp_path) != before


@pytest.mark.parametrize("content", ["", '{"canary": ', "[]", '{"canary": "2"}', '{"canary": null}'])
def test_damaged_labels_are_one_sentence_and_put_no_canary_in_production(tmp_path: pathlib.Path, content: str) -> None:
    add(tmp_path, 1)
    add(tmp_path, 2)
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(BadInput, match=r"labels\.json must hold a JSON object"):
        versions.production_version(tmp_path)


@pytest.mark.parametrize("content", ["", '{"dataset": ', "[]"])
def test_a_damaged_provenance_is_one_sentence(tmp_path: pathlib.Path, content: str) -> None:
    add(tmp_path, 1)
    (tmp_path / "1" / "assets.extra" / "provenance.json").write_text(content)
    with pytest.raises(BadInput, match=r"1/assets\.extra/provenance\.json must hold a JSON object"):
        versions.production_version(tmp_path)
