# SPDX-License-Identifier: Apache-2.0
"""Which versions answer, while the serving folder changes and requests go on."""

from __future__ import annotations

import json
import shutil
import threading
import time

import pytest

from components.errors import BadInput
from components.push import versions
from serving.models import Models, find_model
from serving.refusal import Refusal
from tests.serving.conftest import as_b64, as_png

PREDICT = "/v1/models/mnist:predict"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "mnist"


@pytest.fixture
def fake(folder):
    """Versions that are but a file, and what loads them: cheap enough to try every order of events."""

    class Loaded:
        def __init__(self, path):
            if (path / "saved_model.pb").read_text() == "broken":
                raise ValueError("it is broken\nin many words")
            self.number = int(path.name)

    def add(number: int, text: str = "fine") -> None:
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "saved_model.pb").write_text(text)

    def models(**options) -> Models:
        return Models(folder, load=Loaded, **options)  # type: ignore[arg-type]

    return add, models


def test_the_highest_version_without_canary_is_production(fake, folder):
    add, make = fake
    for number in (1, 9, 10):
        add(number)
    (folder / "11").mkdir()  # not complete
    (folder / versions.LABELS_FILE).write_text('{"canary": 10}')
    models = make(canary_share=0.25, draw=iter([0.1, 0.3, 0.25, 0.24]).__next__)
    models.refresh()
    assert models.labels == {"canary": 10, "stable": 9}
    assert [models.resolve().number for _ in range(4)] == [10, 9, 9, 10]
    assert models.resolve(label="canary").number == 10
    assert models.resolve(version=10).number == 10
    with pytest.raises(Refusal):
        models.resolve(version=1)


def test_a_version_that_is_copied_file_by_file_is_absent_until_its_graph_is_there(fake, folder):
    add, make = fake
    add(1)
    for name in ("2/variables/variables.index", ".staging/ab/model/saved_model.pb", ".claims/2"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("fine")
    models = make()
    models.refresh()
    assert models.served == [1]
    assert models.statuses() == {1: ("AVAILABLE", "OK", "")}  # not tried and found broken
    assert find_model(folder) == folder
    (folder / "2" / "saved_model.pb").write_text("fine")
    models.refresh()
    assert models.resolve().number == 2


def test_a_broken_version_is_skipped_with_one_line_and_tried_again_when_its_files_change(fake, folder, caplog):
    add, make = fake
    add(1)
    models = make()
    models.refresh()
    add(2, "broken")
    for _ in range(3):
        models.refresh()
    assert models.resolve().number == 1
    lines = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert lines == ["version 2 of mnist is skipped: it is broken"]
    assert models.statuses() == {2: ("END", "UNKNOWN", "it is broken"), 1: ("AVAILABLE", "OK", "")}
    (folder / "2" / "saved_model.pb").write_text("mended")
    models.refresh()
    assert models.resolve().number == 2
    assert models.statuses() == {2: ("AVAILABLE", "OK", "")}


def test_what_answers_stays_until_something_better_does(fake, folder):
    add, make = fake
    add(1)
    add(2)
    models = make()
    models.refresh()
    shutil.rmtree(folder / "2")
    models.refresh()
    assert models.resolve().number == 1
    shutil.rmtree(folder)
    models.refresh()
    assert models.resolve().number == 1
    add(3, "broken")
    models.refresh()
    assert models.resolve().number == 1


def test_labels_that_cannot_be_read_change_nothing(fake, folder, caplog):
    add, make = fake
    add(1)
    add(2)
    (folder / versions.LABELS_FILE).write_text('{"canary": 2}')
    models = make()
    models.refresh()
    for text in ('{"canary": ', "[]", '{"canary": "2"}'):
        (folder / versions.LABELS_FILE).write_text(text)
        models.refresh()
        assert models.labels == {"canary": 2, "stable": 1}
    (folder / versions.LABELS_FILE).write_text("{}")
    models.refresh()
    assert models.labels == {"stable": 2}


def test_find_model(tmp_path, fake, folder):
    add, _ = fake
    with pytest.raises(BadInput, match="runner_local"):
        find_model(tmp_path)
    add(1)
    assert find_model(tmp_path) == find_model(folder) == folder
    (tmp_path / "other" / "1").mkdir(parents=True)
    (tmp_path / "other" / "1" / "saved_model.pb").write_text("")
    with pytest.raises(BadInput, match="mnist, other"):
        find_model(tmp_path)


def test_a_number_with_zeros_is_a_version_and_what_is_no_number_is_none(fake, folder):
    add, make = fake
    for name in ("00000001", "²", "٣", "1.0", "-2", str(2**63)):
        add(name)
    (folder / "4").write_text("a file")
    (folder / "5").symlink_to("nothing")
    models = make()
    models.refresh()
    assert find_model(folder.parent) == folder
    assert (models.served, models.resolve(version=1).number) == ([1], 1)
    add("2")
    models.refresh()
    assert models.resolve().number == 2


def test_two_folders_of_one_number_change_nothing_and_are_said_once(fake, folder, caplog):
    add, make = fake
    add("1")
    models = make()
    models.refresh()
    add("2")
    add("0002")
    for _ in range(3):
        models.refresh()
    assert models.served == [1]
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert "0002 and 2 in" in line
    with pytest.raises(BadInput, match="are both version 2"):
        find_model(folder)
    shutil.rmtree(folder / "0002")
    models.refresh()
    assert models.served == [2]


@pytest.mark.parametrize("name", ["b*", "b?", "b[1]", "b\\1"])
def test_a_model_folder_that_tensorflow_takes_for_a_pattern_is_refused(tmp_path, name):
    (tmp_path / name / "1").mkdir(parents=True)
    (tmp_path / name / "1" / "saved_model.pb").touch()
    with pytest.raises(BadInput, match="--model-dir takes a path without"):
        find_model(tmp_path / name)


@pytest.mark.slow
def test_push_broken_push_rollback_and_canary_under_load(folder, put, start, digits):
    put(folder, 1)
    server = start(folder, "--canary-share", "0.5")
    body = {"instances": [as_b64(as_png(digits[0][0]))]}
    truth = int(digits[1][0])
    wrong: list[object] = []
    seen: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = server.call(PREDICT, body)
            if answer.status != 200:
                wrong.append((answer.status, answer.body))
                continue
            version = answer.headers["x-model-version"]
            seen.append(version)
            if answer.json["predictions"][0]["classes"] != (truth if version in "134" else (truth + 1) % 10):
                wrong.append((version, answer.body))

    def version_after(change, wanted: str) -> float:
        change()
        begin = time.monotonic()
        server.wait_for(lambda: server.call(PREDICT, body).headers.get("x-model-version") == wanted)
        return time.monotonic() - begin

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    try:
        version_after(lambda: put(folder, 2, "turned"), "2")
        broken = folder / ".broken"
        shutil.copytree(folder / "2", broken)
        for path in (broken / "variables").iterdir():
            path.write_bytes(b"x")
        broken.rename(folder / "3")
        server.wait_for(lambda: "version 3 of mnist is skipped" in server.log.read_text())
        assert server.call(PREDICT, body).headers["x-model-version"] == "2"
        shutil.rmtree(folder / "3")
        version_after(lambda: put(folder, 4), "4")  # a rollback: the old model under the next number
        put(folder, 5, "turned")
        (folder / versions.LABELS_FILE).write_text(json.dumps({"canary": 5}))
        server.wait_for(lambda: server.call("/readyz").json["labels"] == {"canary": 5, "stable": 4})
        del seen[:]
        server.wait_for(lambda: len(seen) > 100)
        assert {"4", "5"} <= set(seen)
        assert server.call("/v1/models/mnist/labels/canary:predict", body).headers["x-model-version"] == "5"
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert not wrong
    assert server.stop() == 0
