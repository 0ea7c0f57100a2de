# SPDX-License-Identifier: Apache-2.0
import json
import pathlib
import threading

import pytest

from components.push import publish, versions


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
        "assets.extra/provenance.json": json.dumps({"version": 1}, indent=1).encode(),
    }
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

    monkeypatch.setattr(publish, "_sync", full)
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
    found = versions.all_versions(serving)
    assert [version.number for version in found] == [1, 2, 3, 4, 5, 6]
    assert [version.provenance["version"] for version in found] == [1, 2, 3, 4, 5, 6]
