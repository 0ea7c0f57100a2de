# SPDX-License-Identifier: Apache-2.0
"""Pushing to S3: the real client, and a server on loopback that can be cut off at any request."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from components.errors import BadInput, GateStopped
from components.push import destination, publish, versions
from components.push.serving_dir import open_destination
from tests import object_stores
from tests.object_stores import LOST, REFUSED, S3

URL = "s3://models/serving/mnist"
WRITES = ("PUT", "POST", "DELETE")
# A pusher as a process of its own, given the folder of its model, its name, and the state that it was judged against.
PUSHER = f"""
import pathlib, sys
from components.errors import GateStopped
from components.push import publish
folder, name, judged_against = sys.argv[1:]
try:
    version = publish.publish(pathlib.Path(folder), {URL!r}, {{}}, lambda number: {{"by": name}}, judged_against)
    print("pushed", version.number)
except GateStopped as refusal:
    print("refused:", refusal)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with object_stores.running() as running:
        yield running


@pytest.fixture
def s3(server: S3) -> Iterator[S3]:
    server.reset()
    server.bucket("models")
    yield server
    server.reset()


@pytest.fixture(scope="module")
def store(server: S3) -> destination.Destination:
    return open_destination(URL)


def model(folder: pathlib.Path, text: str) -> pathlib.Path:
    (folder / "variables").mkdir(parents=True)
    for name in ("fingerprint.pb", "saved_model.pb", "variables/variables.index"):
        (folder / name).write_text(f"{name} of {text}")
    return folder


@pytest.fixture
def push(tmp_path: pathlib.Path, store: destination.Destination) -> Callable[..., int]:
    """Pushes a model that holds the text, and returns its number."""
    numbers = itertools.count()

    def push(text: str, judged_against: str | None = None) -> int:
        folder = model(tmp_path / f"model-{next(numbers)}", text)
        return publish.publish(folder, store, {}, lambda number: {"text": text}, judged_against).number

    return push


def keys(server: S3) -> dict[str, str]:
    """The names of all objects below the model's folder, and their checksums."""
    import boto3

    objects = boto3.resource("s3").Bucket("models").objects.all()
    return {item.key.removeprefix("serving/mnist/"): item.e_tag for item in objects}


def check_complete(store: destination.Destination, number: int, folder: pathlib.Path) -> str:
    """Fetches a version and holds it against what was pushed; returns the text of its model."""
    text = str(versions.find_version(store, number).provenance["text"])
    store.fetch(number, folder)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    expected = {"fingerprint.pb", "saved_model.pb", "variables/variables.index"}
    assert {name for name in names if not name.startswith("assets.extra/")} == expected
    assert all((folder / name).read_text() == f"{name} of {text}" for name in expected)
    return text


def test_a_version_is_whole_and_its_graph_comes_last(
    s3: S3, push: Any, store: destination.Destination, tmp_path: pathlib.Path
) -> None:
    requests: list[tuple[str, str]] = []
    s3.before = lambda method, path: requests.append((method, path))
    assert versions.serving_state(store) == ""
    assert push("first", "") == 1
    copied = [path for method, path in requests if method == "PUT" and path.startswith("/models/serving/mnist/1/")]
    assert len(copied) >= 4
    assert copied[-1].endswith("/saved_model.pb")
    assert check_complete(store, 1, tmp_path / "fetched") == "first"
    assert sorted({key.partition("/")[0] for key in keys(s3)}) == [".claims", "1"]
    assert versions.find_version(store, 1).location == f"{URL}/1"


def test_a_push_that_is_cut_off_at_any_write_is_seen_whole_or_not_at_all(
    s3: S3, push: Any, store: destination.Destination, tmp_path: pathlib.Path
) -> None:
    outcomes = set()
    for allowed in itertools.count():
        s3.reset()
        s3.bucket("models")
        push("old")
        old = versions.serving_state(store)
        writes = itertools.count(1)
        dead = threading.Event()

        def cut(method: str, path: str, allowed: int = allowed, writes: Any = writes, dead: Any = dead) -> str | None:
            if dead.is_set() or (method in WRITES and next(writes) > allowed):
                dead.set()  # nothing that the pusher does after this reaches the store
                return REFUSED
            return None

        s3.before = cut
        with contextlib.suppress(BadInput):
            push("new", old)
        s3.reset()
        complete = [number for number, is_complete in store.numbers().items() if is_complete]
        for number in complete:
            check_complete(store, number, tmp_path / f"{allowed}-{number}")
        assert max(complete) == int(versions.serving_state(store).partition(":")[0])
        # Whatever was left behind, the next run pushes, at the second try where it finds a push to finish.
        try:
            number = push("next", versions.serving_state(store))
        except GateStopped:
            outcomes.add("finished by the next")
            assert complete == [1]
            number = push("next", versions.serving_state(store))
        else:
            outcomes.add("absent" if complete == [1] else "present")
        assert [check_complete(store, n, tmp_path / f"{allowed}-next-{n}") for n in range(1, number + 1)] in (
            ["old", "next"],
            ["old", "new", "next"],
        )
        if not dead.is_set():
            break
    assert outcomes == {"absent", "finished by the next", "present"}
    assert allowed > 15


@pytest.mark.parametrize("moment", ["/.claims/2", "/2/"])
def test_a_process_that_is_killed_leaves_what_servers_and_the_next_push_take_for_absent(
    s3: S3, push: Any, store: destination.Destination, tmp_path: pathlib.Path, moment: str
) -> None:
    push("old")
    old = versions.serving_state(store)
    started = threading.Event()
    process: list[subprocess.Popen[str]] = []

    def kill(method: str, path: str) -> str | None:
        if method == "PUT" and moment in path:
            started.wait()
            process[0].kill()
            process[0].wait()
            return REFUSED
        return None

    s3.before = kill
    process.append(pusher(model(tmp_path / "new", "new"), "new", old))
    started.set()
    assert process[0].communicate()[0] == ""
    s3.reset()
    assert process[0].returncode == -9
    assert versions.serving_state(store) == old
    claimed = moment == "/2/"
    assert store.numbers() == ({1: True, 2: False} if claimed else {1: True})
    assert any(key.startswith(".staging/") for key in keys(s3))
    if claimed:
        with pytest.raises(GateStopped, match="that was version 1, now it is 2"):
            push("next", old)
        assert versions.find_version(store, 2).provenance == {"by": "new"}
    assert push("next", versions.serving_state(store)) == (3 if claimed else 2)


def pusher(folder: pathlib.Path, name: str, judged_against: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PUSHER, str(folder), name, judged_against]
    return subprocess.Popen(command, cwd=pathlib.Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)


def test_of_two_processes_that_push_at_once_one_does(
    s3: S3, push: Any, store: destination.Destination, tmp_path: pathlib.Path
) -> None:
    push("old")
    old = versions.serving_state(store)
    both = threading.Barrier(2)

    def meet(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("/.claims/2"):
            both.wait(60)  # both have looked at production and found it unchanged

    s3.before = meet
    processes = {name: pusher(model(tmp_path / name, name), name, old) for name in ("a", "b")}
    messages = {name: process.communicate()[0].strip() for name, process in processes.items()}
    [winner] = [name for name in messages if messages[name] == "pushed 2"]
    [loser] = set(messages) - {winner}
    assert messages[loser].startswith("refused: A candidate is pushed only while the baseline")
    assert messages[loser].endswith("that was version 1, now it is 2. Run again.")
    assert versions.find_version(store, 2).provenance == {"by": winner}
    assert store.read("2/variables/variables.index") == f"variables/variables.index of {winner}".encode()
    assert {key.partition("/")[0] for key in keys(s3)} == {".claims", "1", "2"}


def test_a_pusher_that_is_slow_is_overtaken_only_by_its_own_model(
    s3: S3, push: Any, store: destination.Destination, tmp_path: pathlib.Path
) -> None:
    push("old")
    old = versions.serving_state(store)
    reached, go_on = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> None:
        if method == "PUT" and path.startswith("/models/serving/mnist/2/") and not reached.is_set():
            reached.set()
            go_on.wait(60)

    s3.before = hold
    slow: list[int] = []
    thread = threading.Thread(target=lambda: slow.append(push("slow", old)))
    thread.start()
    assert reached.wait(60)
    assert versions.serving_state(store) == old
    with pytest.raises(GateStopped, match="that was version 1, now it is 2"):
        push("quick", old)
    go_on.set()
    thread.join()
    assert slow == [2]
    assert check_complete(store, 2, tmp_path / "fetched") == "slow"
    assert {key.partition("/")[0] for key in keys(s3)} == {".claims", "1", "2"}


def test_a_claimed_push_whose_copying_failed_is_finished_by_the_next(
    s3: S3, push: Any, store: destination.Destination, tmp_path: pathlib.Path
) -> None:
    push("old")
    old = versions.serving_state(store)
    s3.before = lambda method, path: REFUSED if method == "PUT" and "/mnist/2/" in path else None
    with pytest.raises(BadInput, match="access to it is refused"):
        push("new", old)
    s3.reset()
    assert versions.serving_state(store) == old
    with pytest.raises(GateStopped, match="that was version 1, now it is 2"):
        push("next", old)
    assert check_complete(store, 2, tmp_path / "fetched") == "new"


def test_a_candidate_that_is_judged_against_an_older_model_leaves_no_trace(
    s3: S3, push: Any, store: destination.Destination
) -> None:
    push("old")
    old = versions.serving_state(store)
    push("new", old)
    before = keys(s3)
    with pytest.raises(GateStopped, match="that was version 1, now it is 2"):
        push("another", old)
    assert keys(s3) == before


def test_a_claim_whose_answer_got_lost_is_the_pushers_own(
    s3: S3, push: Any, store: destination.Destination, tmp_path: pathlib.Path
) -> None:
    lost: list[str] = []

    def lose(method: str, path: str) -> str | None:
        if method == "PUT" and "/.claims/" in path and not lost:
            lost.append(path)
            return LOST
        return None

    s3.before = lose
    assert push("first", "") == 1
    assert lost
    assert check_complete(store, 1, tmp_path / "fetched") == "first"


def test_a_store_that_creates_an_object_twice_is_refused(s3: S3, push: Any) -> None:
    s3.conditions = False
    with pytest.raises(BadInput, match=r"refuses to create an object twice \(If-None-Match\)"):
        push("first")
    assert keys(s3) == {}


def test_labels_decide_what_is_in_production_and_a_changed_byte_is_seen(
    s3: S3, push: Any, store: destination.Destination
) -> None:
    push("old")
    push("new")
    store.write(versions.LABELS_FILE, b'{"canary": 2}')
    assert versions.read_labels(store) == {"canary": 2}
    before = versions.serving_state(store)
    assert before.startswith("1:")
    weights = store.read("1/variables/variables.index")
    assert weights is not None
    store.write("1/variables/variables.index", weights.replace(b"old", b"odd"))
    assert versions.serving_state(store).startswith("1:")
    assert versions.serving_state(store) != before
    # Who was judged against 1 may push while 2 is but a canary.
    assert push("next", versions.serving_state(store)) == 3


def test_what_a_killed_push_staged_is_removed_after_a_day(s3: S3, push: Any, store: destination.Destination) -> None:
    now = time.time()
    for name in ("dead", "live"):
        store.write(
            f".staging/{int(now) - (90_000 if name == 'dead' else 80_000)}-{name}/model/saved_model.pb", b"graph"
        )
    push("first")
    assert [key.rpartition("-")[2] for key in keys(s3) if key.startswith(".staging/")] == ["live/model/saved_model.pb"]


def test_what_is_there_beside_versions_is_no_version(
    s3: S3, push: Any, store: destination.Destination, tmp_path: pathlib.Path
) -> None:
    bucket = s3.bucket("models")
    # A store's own page makes such objects for folders.
    for key in ("serving/", "serving/mnist/", "serving/mnist/1/", "serving/mnist/1/variables/", "serving/mnist/9/"):
        bucket.put_object(Key=key, Body=b"")
    for key in ("saved_model.pb", "mnist2/7/saved_model.pb", "mnist/.claims/a", "mnist/.staging/a/b", "mnist/notes/a"):
        bucket.put_object(Key=f"serving/{key}", Body=b"x")
    assert versions.serving_state(store) == ""
    number = push("first", "")
    assert [version.number for version in versions.all_versions(store)] == [number]
    assert check_complete(store, number, tmp_path / "fetched") == "first"


def test_a_number_never_comes_again(s3: S3, push: Any, store: destination.Destination) -> None:
    for text in ("a", "b", "c"):
        push(text)
    for number in (3, 2):
        store.remove(number)
        assert versions.serving_state(store).startswith(f"{number - 1}:")
    store.write("7/variables/variables.index", b"half of a copy that somebody made by hand")
    assert store.numbers() == {1: True, 2: False, 3: False, 7: False}
    assert push("d", versions.serving_state(store)) == 8
    assert [version.number for version in versions.all_versions(store)] == [1, 8]


def test_a_name_that_leads_out_of_the_folder_is_refused(
    s3: S3, push: Any, store: destination.Destination, tmp_path: pathlib.Path
) -> None:
    push("old")
    store.write("1//evil", b"evil")
    with pytest.raises(BadInput, match="leads out of it: '/evil'"):
        store.fetch(1, tmp_path / "fetched")
