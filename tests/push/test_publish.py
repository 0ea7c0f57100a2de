# SPDX-License-Identifier: Apache-2.0
import os
import pathlib
import threading
import time
from collections.abc import Iterator

import pytest

from components.errors import GateStopped
from components.push import local_folder, model_card, publish, versions
from components.push.serving_dir import ServingDir, open_destination
from tests import object_stores


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"weights")
    return folder


def files(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_version_holds_the_model_and_what_lies_beside_it(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    stats = tmp_path / "stats"
    stats.write_bytes(b"statistics")
    serving = tmp_path / "serving" / "mnist"
    version = publish.publish(model, serving, {"train_stats.pb": stats}, lambda number: {"version": number})
    assert version.number == 1
    assert files(version.path) == {
        **files(model),
        "assets.extra/train_stats.pb": b"statistics",
        **model_card.beside({"version": 1}),
    }
    assert version.provenance == {"version": 1}
    assert [path.name for path in serving.iterdir()] == ["1"]


def test_numbers_only_grow(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    serving = tmp_path / "serving"
    (serving / "7").mkdir(parents=True)  # a push of another tool that was killed half-way
    assert publish.publish(model, serving, {}, lambda _: {}).number == 8
    assert publish.publish(model, serving, {}, lambda _: {}).number == 9


def test_a_push_that_fails_leaves_the_folder_as_it_was(
    model: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = tmp_path / "serving"
    publish.publish(model, serving, {}, lambda _: {})
    before = files(serving)

    def full(path: pathlib.Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local_folder, "_sync", full)
    with pytest.raises(OSError, match="No space left"):
        publish.publish(model, serving, {}, lambda _: {})
    assert files(serving) == before
    assert [path.name for path in serving.iterdir()] == ["1"]


def test_pushes_at_once_get_numbers_of_their_own(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    serving = tmp_path / "serving"
    start = threading.Barrier(6)

    def push() -> None:
        start.wait()
        publish.publish(model, serving, {}, lambda number: {"version": number})

    threads = [threading.Thread(target=push) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    all_versions = versions.all_versions(serving)
    assert [version.number for version in all_versions] == [1, 2, 3, 4, 5, 6]
    assert [version.provenance["version"] for version in all_versions] == [1, 2, 3, 4, 5, 6]


def test_a_number_that_an_empty_folder_has_is_taken(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "serving" / "1").mkdir(parents=True)
    with open_destination(tmp_path / "serving").stage({"saved_model.pb": model / "saved_model.pb"}) as staged:
        assert not staged.commit(1, {})
        assert staged.commit(2, {})
    assert list((tmp_path / "serving" / "1").iterdir()) == []


def test_what_a_killed_push_staged_is_removed_after_a_day(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    serving = tmp_path / "serving"
    for name, age in (("dead", 90_000), ("before-the-clock-was-set-back", -90_000), ("live", 80_000)):
        (serving / f".staging-{name}").mkdir(parents=True)
        os.utime(serving / f".staging-{name}", times=(time.time() - age,) * 2)
    publish.publish(model, serving, {}, lambda _: {})
    assert sorted(path.name for path in serving.iterdir()) == [".staging-live", "1"]


@pytest.fixture(params=["folder", "s3"])
def serving_dir(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "serving")
        return
    with object_stores.running() as server:
        server.bucket("models")
        yield "s3://models/serving"


def test_who_looked_at_production_before_another_push_does_not_push_after_it(
    model: pathlib.Path, serving_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, pushed = threading.Barrier(2), threading.Event()
    look = publish.check_baseline

    def look_and_wait(serving_dir: ServingDir, judged_against: str) -> None:
        look(serving_dir, judged_against)
        looked.wait(60)  # both have found it unchanged
        if threading.current_thread().name == "slow":
            pushed.wait(60)

    def push() -> None:
        try:
            ended.append(publish.publish(model, serving_dir, {}, lambda number: {"version": number}, ""))
        except GateStopped as refusal:
            ended.append(refusal)
        pushed.set()

    ended: list[object] = []
    monkeypatch.setattr(publish, "check_baseline", look_and_wait)
    threads = [threading.Thread(target=push, name=name) for name in ("quick", "slow")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(ended[0], versions.Version)
    assert isinstance(ended[1], GateStopped)
    assert [version.number for version in versions.all_versions(serving_dir)] == [1]
