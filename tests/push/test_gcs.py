# SPDX-License-Identifier: Apache-2.0
"""Pushing to Google Cloud Storage: the same protocol by another client, against the part of its API that is needed."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Iterator

import pytest

from components.errors import BadInput, GateStopped
from components.push import publish, versions
from components.push.serving_dir import open_destination
from tests import gcs

URL = "gs://models/serving/mnist"


@pytest.fixture
def server() -> Iterator[gcs.Gcs]:
    with gcs.running("models") as running:
        yield running


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_text("graph")
    (folder / "variables" / "variables.index").write_text("weights")
    return folder


def test_a_version_is_whole_its_graph_comes_last_and_it_is_seen_to_change(
    server: gcs.Gcs, model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    requests: list[str] = []
    server.before = lambda method, path: requests.append(f"{method} {path.partition('?')[0]}")
    store = open_destination(URL)
    assert versions.serving_state(store) == ""
    assert publish.publish(model, store, {}, lambda number: {"version": number}, "").location == f"{URL}/1"
    copied = [request for request in requests if "/rewriteTo/b/models/o/serving/mnist/1/" in request]
    assert len(copied) >= 3
    assert copied[-1].endswith("/serving/mnist/1/saved_model.pb")
    store.fetch(1, tmp_path / "fetched")
    for name in ("saved_model.pb", "variables/variables.index"):
        assert (tmp_path / "fetched" / name).read_bytes() == (model / name).read_bytes()
    before = versions.serving_state(store)
    store.write("1/variables/variables.index", b"Weights")
    assert before != versions.serving_state(store)
    assert {name.removeprefix("serving/mnist/").partition("/")[0] for _, name in server.objects} == {".claims", "1"}
    store.remove(1)
    assert store.numbers() == {1: False}


def test_of_two_that_push_at_once_one_does(server: gcs.Gcs, model: pathlib.Path) -> None:
    both = threading.Barrier(2)
    ended: list[str] = []

    def meet(method: str, path: str) -> None:
        if "ifGenerationMatch" in path and method == "POST":
            meetings.append(path)
            if len(meetings) > 4:  # after the two by which each tries the store: the claims
                both.wait(60)

    def push(name: str) -> None:
        try:
            ended.append(f"{name} {publish.publish(model, URL, {}, lambda number: {'by': name}, '').number}")
        except GateStopped:
            ended.append("refused")

    meetings: list[str] = []
    server.before = meet
    threads = [threading.Thread(target=push, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(meetings) == 6
    assert sorted(ended) in (["a 1", "refused"], ["b 1", "refused"])
    assert [version.provenance["by"] for version in versions.all_versions(URL)] == [ended[ended[0] == "refused"][0]]


def test_a_bucket_that_is_not_there_is_refused(server: gcs.Gcs) -> None:
    with pytest.raises(BadInput, match=r"gs://nobody/mnist: .* no such bucket"):
        open_destination("gs://nobody/mnist").numbers()
