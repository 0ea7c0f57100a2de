# SPDX-License-Identifier: Apache-2.0
"""The version for a request, while the folder changes and requests go on."""

from __future__ import annotations

import json
import shutil
import threading

import pytest

from components.errors import BadInput
from components.push import versions
from serving.limits import RequestError
from serving.models import ModelVersions, find_model
from tests.serving.conftest import as_b64, as_png

PREDICT = "/v1/models/mnist:predict"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "mnist"


@pytest.fixture
def fake(folder):
    """Versions of one file each, and a `ModelVersions` that loads them: cheap enough for any order of events."""

    class FakeModel:
        def __init__(self, path):
            if (path / "saved_model.pb").read_text() == "broken":
                raise ValueError("it is broken\nin many words")
            self.number = int(path.name)

        def warm_up(self) -> None:
            pass

    def add(number: int, text: str = "fine") -> None:
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "saved_model.pb").write_text(text)

    def models(**options) -> ModelVersions:
        return ModelVersions(folder, load=FakeModel, **options)  # type: ignore[arg-type]

    return add, models


def test_the_highest_version_without_canary_is_production(fake, folder):
    add, make = fake
    for number in (1, 9, 10):
        add(number)
    (folder / "11").mkdir()  # not complete
    (folder / versions.LABELS_FILE).write_text('{"canary": 10}')
    models = make(canary_share=0.25, random=iter([0.1, 0.3, 0.25, 0.24]).__next__)
    models.refresh()
    assert models.labels == {"canary": 10, "stable": 9}
    assert [models.resolve().number for _ in range(4)] == [10, 9, 9, 10]
    assert models.resolve(label="canary").number == 10
    assert models.resolve(version=10).number == 10
    with pytest.raises(RequestError):
        models.resolve(version=1)


def test_a_version_that_is_copied_file_by_file_is_absent_until_its_graph_is_there(fake, folder):
    add, make = fake
    add(1)
    for name in ("2/variables/variables.index", ".staging/ab/model/saved_model.pb", ".claims/2"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("fine")
    models = make()
    models.refresh()
    assert models.numbers == [1]
    assert models.statuses() == {1: ("AVAILABLE", "OK", "")}  # it was not tried
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
    (folder / "2" / "saved_model.pb").write_text("repaired")
    models.refresh()
    assert models.resolve().number == 2
    assert models.statuses() == {2: ("AVAILABLE", "OK", "")}


def test_the_current_version_stays_until_another_loads(fake, folder):
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


def test_names_of_versions(fake, folder):
    add, make = fake
    for name in ("00000001", "²", "٣", "1.0", "-2", str(2**63)):
        add(name)
    (folder / "4").write_text("a file")
    (folder / "5").symlink_to("nothing")
    models = make()
    models.refresh()
    assert find_model(folder.parent) == folder
    assert (models.numbers, models.resolve(version=1).number) == ([1], 1)
    add("2")
    models.refresh()
    assert models.resolve().number == 2


def test_two_folders_of_one_number_change_nothing_and_are_logged_once(fake, folder, caplog):
    add, make = fake
    add("1")
    models = make()
    models.refresh()
    add("2")
    add("0002")
    for _ in range(3):
        models.refresh()
    assert models.numbers == [1]
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert "0002 and 2 in" in line
    with pytest.raises(BadInput, match="are both version 2"):
        find_model(folder)
    shutil.rmtree(folder / "0002")
    models.refresh()
    assert models.numbers == [2]


@pytest.mark.parametrize("name", ["b*", "b?", "b[1]", "b\\1"])
def test_a_model_folder_with_pattern_characters_is_refused(tmp_path, name):
    (tmp_path / name / "1").mkdir(parents=True)
    (tmp_path / name / "1" / "saved_model.pb").touch()
    with pytest.raises(BadInput, match="--model-dir takes a path without"):
        find_model(tmp_path / name)


@pytest.mark.slow
def test_push_broken_push_rollback_and_canary_under_load(folder, push, start, digits):
    push(folder, 1)
    server = start(folder, "--canary-share", "0.5")
    body = {"instances": [as_b64(as_png(digits[0][0]))]}
    label = int(digits[1][0])
    failures: list[object] = []
    version_log: list[str] = []
    stopping = threading.Event()

    def send_requests() -> None:
        while not stopping.is_set():
            response = server.call(PREDICT, body)
            if response.status != 200:
                failures.append((response.status, response.body))
                continue
            version = response.headers["x-model-version"]
            version_log.append(version)
            if response.json["predictions"][0]["classes"] != (label if version in "134" else (label + 1) % 10):
                failures.append((version, response.body))

    def wait_for_version(version: str) -> None:
        server.wait_for(lambda: server.call(PREDICT, body).headers.get("x-model-version") == version)

    threads = [threading.Thread(target=send_requests) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        push(folder, 2, "shifted")
        wait_for_version("2")
        broken = folder / ".broken"
        shutil.copytree(folder / "2", broken)
        for path in (broken / "variables").iterdir():
            path.write_bytes(b"x")
        broken.rename(folder / "3")
        server.wait_for(lambda: "version 3 of mnist is skipped" in server.log.read_text())
        assert server.call(PREDICT, body).headers["x-model-version"] == "2"
        shutil.rmtree(folder / "3")
        push(folder, 4)  # a rollback: the old model under the next number
        wait_for_version("4")
        push(folder, 5, "shifted")
        (folder / versions.LABELS_FILE).write_text(json.dumps({"canary": 5}))
        server.wait_for(lambda: server.call("/readyz").json["labels"] == {"canary": 5, "stable": 4})
        del version_log[:]
        server.wait_for(lambda: len(version_log) > 100)
        assert {"4", "5"} <= set(version_log)
        assert server.call("/v1/models/mnist/labels/canary:predict", body).headers["x-model-version"] == "5"
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert server.stop() == 0
