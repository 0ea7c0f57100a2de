# SPDX-License-Identifier: Apache-2.0
import hashlib
import os
import pathlib
import re
import socket

import pytest

from components.errors import BadInput
from components.ingest import digits, download, idx, source

SHAPE = (28, 28)


@pytest.fixture
def resolve(tmp_path):
    """`source.resolve` with an empty cache folder and mirrors that cannot be reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}/"

    def call(*arguments, **options):
        options = {"image_shape": SHAPE, "cache_dir": tmp_path / "cache", "mirrors": [closed], **options}
        return source.resolve(*arguments, **options)

    return call


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"a connection to {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def tiny_mnist(write_set, tmp_path, monkeypatch):
    """A tiny data set that plays MNIST, in the cache."""
    tiny, _ = source.load(write_set(tmp_path / "cache" / "mnist", suffix=".gz"), None, SHAPE)
    for name, digest in tiny.digests.items():
        monkeypatch.setitem(download.DIGESTS, name, digest)


def test_a_folder_is_read_and_described(write_set, resolve, tmp_path, monkeypatch, no_network):
    write_set(tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    dataset, sentence = resolve("auto", "data", custom_name="buttons")

    digest = [hashlib.sha256((tmp_path / "data" / name).read_bytes()).hexdigest() for name in idx.FILES]
    assert dataset == source.Source(
        name="buttons",
        data_dir=str(tmp_path / "data"),
        span=None,
        directory=str(tmp_path / "data"),
        digests=dict(zip(idx.FILES, digest, strict=True)),
        sha256=hashlib.sha256("".join(digest).encode()).hexdigest(),
        train_images=48,
        test_images=10,
    )
    assert dataset.images == 58
    assert list(dataset.digests) == list(idx.FILES)
    assert sentence == f"Data set buttons: the files in {tmp_path / 'data'}."
    assert resolve("auto", "data").source.name == "custom"


def test_a_data_set_is_known_by_its_contents(resolve, tmp_path, no_network):
    digits.write(tmp_path / "data")

    assert resolve("auto", tmp_path / "data", custom_name="buttons").source.name == "digits"
    assert resolve("digits", tmp_path / "data").source.name == "digits"
    with pytest.raises(BadInput, match=r"SHA-256 of the contents: expected ba89.* that of mnist, found 7e2c.*"):
        resolve("mnist", tmp_path / "data")


def test_one_other_byte_is_not_mnist(tiny_mnist, resolve, tmp_path):
    assert resolve("mnist").source.name == "mnist"
    labels = idx.read_labels(tmp_path / "cache" / "mnist" / f"{idx.TEST_LABELS}.gz").array.copy()
    labels[3] += 1
    idx.write(tmp_path / "cache" / "mnist" / f"{idx.TEST_LABELS}.gz", labels)

    assert resolve("auto", tmp_path / "cache" / "mnist").source.name == "custom"
    with pytest.raises(BadInput, match=idx.TEST_LABELS):
        resolve("mnist", tmp_path / "cache" / "mnist")


def test_the_newest_span_is_the_default(write_set, resolve, tmp_path):
    for span in (2, 9, 10):
        write_set(tmp_path / f"span-{span}", seed=span)

    dataset, sentence = resolve("auto", tmp_path)
    assert (dataset.span, dataset.directory, dataset.data_dir) == (10, str(tmp_path / "span-10"), str(tmp_path))
    assert sentence == f"Data set custom: the files in {tmp_path}, span 10."

    older, _ = resolve("auto", tmp_path, 9)
    assert (older.span, older.directory) == (9, str(tmp_path / "span-9"))
    assert older.sha256 != dataset.sha256


@pytest.mark.parametrize(
    ("folders", "span", "message"),
    [
        (["span-1", "span-12"], 3, "span: expected a folder span-3, found spans 1, 12. Name one"),
        ([], 3, "span: expected a folder span-3, found no folder span-N. Leave --span out"),
        (["span-3", "span-03"], 3, "span 3: expected one folder, found span-03 and span-3"),
        (["span-3", ""], None, f"expected either IDX files or spans, found {idx.TEST_IMAGES} beside span-3"),
        (["span-3x", "my-span-3"], None, f"{idx.TRAIN_IMAGES}: expected"),
    ],
)
def test_a_span_that_is_not_clear_is_refused(folders, span, message, write_set, resolve, tmp_path):
    (tmp_path / "data").mkdir()
    for folder in folders:
        write_set(tmp_path / "data" / folder)

    with pytest.raises(BadInput) as error:
        resolve("auto", tmp_path / "data", span)

    assert message in str(error.value)


def test_a_span_that_is_a_file_is_refused(resolve, tmp_path):
    (tmp_path / "span-1").write_text("")

    with pytest.raises(BadInput, match=r"span-1: folder: expected a readable folder .* found not a directory"):
        resolve("auto", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("fashion",), {}, "--dataset takes auto, mnist or digits; received 'fashion'"),
        (("auto", None, 3), {}, "received --span 3 without --data-dir"),
        (("auto",), {"image_shape": (32, 32)}, r"IMAGE_SHAPE to \(32, 32\)"),
        (("auto", None, None, "buttons"), {}, "auto uses the data set of the model in production, which is 'buttons'"),
        (("auto", "/nowhere"), {}, "/nowhere: folder: expected"),
    ],
)
def test_wrong_usage_is_refused(arguments, options, message, resolve, no_network):
    with pytest.raises(BadInput, match=message):
        resolve(*arguments, **options)


def test_auto_takes_mnist_from_the_cache(tiny_mnist, resolve, no_network, tmp_path):
    dataset, sentence = resolve("auto")

    assert (dataset.name, dataset.images) == ("mnist", 58)
    assert sentence == f"Data set mnist, from {tmp_path / 'cache' / 'mnist'}: it is cached."


def test_auto_downloads_mnist_from_a_mirror_that_responds(tiny_mnist, resolve, tmp_path, monkeypatch):
    (tmp_path / "cache").rename(tmp_path / "mirror")
    calls = []

    def fetch(folder, *, mirrors, progress):
        calls.append((mirrors, progress))
        folder.parent.mkdir()
        (tmp_path / "mirror" / "mnist").rename(folder)

    monkeypatch.setattr(download, "order_mirrors", lambda mirrors: mirrors[::-1])
    monkeypatch.setattr(download, "fetch", fetch)

    dataset, sentence = resolve("auto", mirrors=["http://a/", "http://b/"], progress=print)

    assert dataset.name == "mnist"
    assert sentence == f"Data set mnist, downloaded into {tmp_path / 'cache' / 'mnist'}."
    assert calls == [(["http://b/", "http://a/"], print)]


def test_auto_takes_the_digits_where_a_mirror_fails_in_the_end(resolve, monkeypatch):
    def fetch(folder, **options):
        raise download.MirrorsFailedError(idx.TRAIN_IMAGES, {"http://a/": "HTTP status 404"})

    monkeypatch.setattr(download, "order_mirrors", lambda mirrors: mirrors)
    monkeypatch.setattr(download, "fetch", fetch)

    dataset, sentence = resolve("auto", mirrors=["http://a/"])

    assert dataset.name == "digits"
    assert "NOT MNIST: it is not cached, and no mirror delivers it: http://a/ (HTTP status 404). For MNIST" in sentence


def test_auto_takes_the_digits_without_a_network_and_says_so(resolve, tmp_path):
    dataset, sentence = resolve("auto")

    assert dataset.name == "digits"
    assert dataset.directory == str(tmp_path / "cache" / "digits")
    assert re.fullmatch(
        r"Data set digits, the 1,797 digits that come with scikit-learn, and NOT MNIST: it is not cached, and no "
        r"mirror delivers it: http://127\.0\.0\.1:\d+/ \(.*refused.*\)\. "
        r"For MNIST, give --data-dir DIR or --dataset mnist\.",
        sentence,
    )


def test_auto_names_the_proxy_on_the_way_to_a_mirror(resolve, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://user:secret@127.0.0.1:{port}")

    _, sentence = resolve("auto", mirrors=["http://mirror.invalid/"])

    assert "http://mirror.invalid/ (" in sentence
    assert "through the proxy that HTTP_PROXY names)" in sentence
    assert "secret" not in sentence


def test_auto_keeps_to_the_digits_that_production_was_trained_on(tiny_mnist, resolve, no_network):
    dataset, sentence = resolve("auto", production_dataset="digits")

    assert dataset.name == "digits"
    assert sentence.endswith(": the model in production was trained on it.")


def test_auto_keeps_to_the_mnist_that_production_was_trained_on(resolve):
    with pytest.raises(BadInput, match=r"No mirror delivers .*: http://127"):
        resolve("auto", production_dataset="mnist")


def test_a_data_set_can_be_requested(tiny_mnist, resolve, no_network):
    assert resolve("mnist", production_dataset="digits").source.name == "mnist"
    assert resolve("digits", production_dataset="mnist").source.name == "digits"


def test_mnist_without_a_network_is_one_error(resolve):
    with pytest.raises(BadInput, match="--dataset digits, which needs no network") as error:
        resolve("mnist")

    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_digits_that_were_changed_in_the_cache_are_written_again(resolve, tmp_path, no_network):
    first, sentence = resolve("digits")
    assert sentence == "Data set digits, the 1,797 digits that come with scikit-learn: as requested."
    (tmp_path / "cache" / "digits" / idx.TEST_LABELS).write_bytes(b"")

    again, _ = resolve("digits")

    assert again == first


def test_the_cache_is_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    assert source.default_cache_dir().is_relative_to(tmp_path)
    assert source.default_cache_dir().name == "mnist-tfx"


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that are opened to read IDX."""
    names: list[str] = []
    open_file = os.open

    def record(path, *arguments, **options):
        names.extend({pathlib.Path(path).name} & set(idx.FILES))
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(os, "open", record)
    source.cache.clear()
    return names


def make_old(folder, seconds=60):
    """Sets the files' modification times back."""
    for path in folder.iterdir():
        past = path.stat().st_mtime_ns - seconds * 10**9
        os.utime(path, ns=(past, past))


def test_ingest_reads_no_file_that_was_read_to_choose_the_data(write_set, resolve, run_executor, opened, tmp_path):
    make_old(write_set(tmp_path / "data"))

    dataset, _ = resolve("auto", tmp_path / "data")
    run_executor(data_dir=dataset.data_dir, dataset_name=dataset.name, data_sha256=dataset.sha256)

    assert sorted(opened) == sorted(idx.FILES)


@pytest.mark.parametrize("change", ["contents", "time", "replaced", "shape"])
def test_files_that_have_changed_are_read_again(change, write_set, opened, tmp_path):
    folder = write_set(tmp_path / "data")
    make_old(folder)
    first, _ = source.load(folder, None, SHAPE)
    labels = folder / idx.TEST_LABELS
    status = labels.stat()
    if change == "contents":
        labels.write_bytes(labels.read_bytes()[:-1] + b"\7")
    elif change == "time":
        make_old(folder, 1)
    elif change == "replaced":  # by a file of the same size and time
        other = tmp_path / "other"
        other.write_bytes(labels.read_bytes()[:-1] + b"\7")
        other.rename(labels)
        os.utime(labels, ns=(status.st_atime_ns, status.st_mtime_ns))
    opened.clear()

    if change == "shape":
        with pytest.raises(BadInput, match="image shape"):
            source.load(folder, None, (32, 32))
    else:
        again, _ = source.load(folder, None, SHAPE)
        assert (again.sha256 == first.sha256) == (change == "time")
        assert sorted(opened) == sorted(idx.FILES)


def test_new_files_are_read_again(write_set, opened, tmp_path):
    folder = write_set(tmp_path / "data")

    source.load(folder, None, SHAPE)
    source.load(folder, None, SHAPE)

    assert len(opened) == 8


def test_a_large_data_set_does_not_stay_in_memory(write_set, resolve, monkeypatch, tmp_path):
    folder = write_set(tmp_path / "data")
    monkeypatch.setattr(source, "_CACHED_BYTES", 58 * (28 * 28 + 1))
    assert source.cache.find(resolve("auto", folder).source.sha256)

    monkeypatch.setattr(source, "_CACHED_BYTES", 58 * (28 * 28 + 1) - 1)
    assert source.cache.find(resolve("auto", folder).source.sha256) is None
