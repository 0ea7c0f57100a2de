# SPDX-License-Identifier: Apache-2.0
"""Every kind of bad input file: one line that names file, field, rule and value; no Examples; bounded memory."""

import contextlib
import gzip
import os
import pathlib
import re
import struct
import tempfile
import tracemalloc

import numpy as np
import pytest

import runner_local
from components import features
from components.errors import BadInput
from components.ingest import idx, source

IMAGES, LABELS = idx.TRAIN_IMAGES, idx.TRAIN_LABELS
HTML = b"<!DOCTYPE html><html><body>Access denied</body></html>"


def replace(name, data):
    """Replaces one file of the set."""
    return lambda folder: (folder / name).write_bytes(data)


def edit(name, change):
    """Replaces one file of the set by `change` of its bytes."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def zipped(name, change, contents=lambda data: data):
    """Replaces one file of the set by its gzip, of changed contents, itself changed."""

    def apply(folder):
        data = gzip.compress(contents((folder / name).read_bytes()), mtime=0)
        (folder / name).unlink()
        (folder / f"{name}.gz").write_bytes(change(data))

    return apply


def put(offset, new):
    """A change that overwrites some bytes."""
    return lambda data: data[:offset] + new + data[offset + len(new) :]


def make_fifo(folder):
    (folder / IMAGES).unlink()
    os.mkfifo(folder / IMAGES)


def make_folder(folder):
    (folder / IMAGES).unlink()
    (folder / IMAGES).mkdir()


def dangling(folder):
    (folder / IMAGES).unlink()
    (folder / IMAGES).symlink_to(folder / "nowhere")


def device(folder):
    (folder / IMAGES).unlink()
    (folder / IMAGES).symlink_to("/dev/zero")


def huge_sparse(folder):
    """2^32-1 labels, and a file that really is as long: 4 GiB that take no space on the disk."""
    with (folder / LABELS).open("wb") as file:
        file.write(struct.pack(">BBBBI", 0, 0, 8, 1, 2**32 - 1))
        file.truncate(8 + 2**32 - 1)


def bomb(folder):
    """A gzip of 32 MiB of zeros behind a correct header for 48 images."""
    zipped(IMAGES, lambda data: data, lambda data: data[:16] + bytes(2**25))(folder)


def qmnist_labels(path):
    """QMNIST's: eight int32 for each image."""
    path.write_bytes(struct.pack(">BBBBII", 0, 0, 12, 2, 48, 8) + np.zeros((48, 8), ">i4").tobytes())


MAX = struct.pack(">I", 2**32 - 1)
SIZE = 16 + 48 * 784

# The change that spoils the set, the file that is named, and words of the message in order.
CASES = [
    pytest.param(replace(IMAGES, b""), IMAGES, ["size: expected", "found an empty file"], id="1-empty"),
    pytest.param(replace(IMAGES, b"\0\0\x08"), IMAGES, ["magic number: expected 00 00 08 03", "3 bytes"], id="2-three"),
    pytest.param(edit(IMAGES, put(0, b"\x01")), IMAGES, ["magic", "expected 00 00 08 03", "01 00 08 03"], id="3-magic"),
    pytest.param(edit(IMAGES, put(0, b"\x1f\x8b")), IMAGES, ["magic", "a gzip file", "Name it"], id="3-gzip-unnamed"),
    pytest.param(edit(IMAGES, put(2, b"\x0d")), IMAGES, ["magic", "unsigned bytes", "0d 03", "float32"], id="4-type"),
    pytest.param(
        lambda folder: replace(LABELS, (folder / IMAGES).read_bytes())(folder),
        LABELS,
        ["magic", "1 dimension)", "3 dimensions, an images file"],
        id="5-images-as-labels",
    ),
    pytest.param(
        lambda folder: replace(IMAGES, (folder / LABELS).read_bytes())(folder),
        IMAGES,
        ["magic", "3 dimensions)", "1 dimension, a labels file"],
        id="5-labels-as-images",
    ),
    pytest.param(
        lambda folder: qmnist_labels(folder / LABELS),
        LABELS,
        [
            "magic",
            "1 dimension)",
            "0c 02, element type int32, 2 dimensions",
            "Write the labels alone, the first number",
        ],
        id="4-qmnist-labels",
    ),
    pytest.param(
        edit(LABELS, put(2, b"\x0d")), LABELS, ["float32", "Write the labels as unsigned bytes"], id="4-label-type"
    ),
    pytest.param(
        edit(IMAGES, put(2, b"\x0d\x01")),
        IMAGES,
        ["float32, 1 dimension", "which file has which"],
        id="4-type-file",
    ),
    pytest.param(edit(IMAGES, put(3, b"\x04")), IMAGES, ["magic", "3 dimensions)", "4 dimensions"], id="6-dimensions"),
    pytest.param(edit(IMAGES, lambda d: d[:10]), IMAGES, ["header: expected 16 bytes", "10 bytes"], id="7-header"),
    pytest.param(
        edit(IMAGES, lambda d: d[:-1]), IMAGES, ["size", f"{SIZE} bytes", f"{SIZE - 1} bytes, cut off"], id="8-cut"
    ),
    pytest.param(
        zipped(IMAGES, lambda d: d, lambda d: d[:-1]),
        f"{IMAGES}.gz",
        ["size", f"{SIZE} bytes", f"{SIZE - 1} bytes, cut off"],
        id="8-cut-gz",
    ),
    pytest.param(
        edit(LABELS, lambda d: d + b"\0"), LABELS, ["size", "56 bytes", "57 bytes, with trailing"], id="9-trailing"
    ),
    pytest.param(
        zipped(IMAGES, lambda d: d, lambda d: d + b"\0"), f"{IMAGES}.gz", ["size", "more bytes"], id="9-trailing-gz"
    ),
    pytest.param(replace(IMAGES, idx.header((0, 28, 28))), IMAGES, ["count: expected at least 1", "0"], id="10-none"),
    pytest.param(edit(IMAGES, put(4, MAX)), IMAGES, ["count: expected", "at most", "4294967295"], id="11-huge"),
    pytest.param(edit(LABELS, put(4, MAX)), LABELS, ["count: expected", "at most", "4294967295"], id="11-huge-labels"),
    pytest.param(huge_sparse, LABELS, ["count: expected", "at most", "4294967295"], id="11-huge-sparse"),
    pytest.param(
        zipped(IMAGES, lambda d: d, put(4, MAX)), f"{IMAGES}.gz", ["count", "at most", "4294967295"], id="11-huge-gz"
    ),
    pytest.param(
        zipped(IMAGES, lambda d: d, put(4, struct.pack(">I", 2**20))),
        f"{IMAGES}.gz",
        ["count", "1048576 promised in a .gz of"],
        id="11-large-gz",
    ),
    pytest.param(edit(IMAGES, put(8, bytes(4))), IMAGES, ["image shape", "28 rows", "0 rows x 28"], id="12-no-rows"),
    pytest.param(
        edit(IMAGES, put(12, bytes(4))), IMAGES, ["image shape", "28 rows", "28 rows x 0"], id="12-no-columns"
    ),
    pytest.param(
        replace(IMAGES, idx.header((2, 32, 32)) + bytes(2048)),
        IMAGES,
        ["image shape: expected 28 rows x 28 columns", "found 32 rows x 32 columns", "IMAGE_SHAPE"],
        id="13-shape",
    ),
    pytest.param(
        edit(IMAGES, put(0, struct.pack("<IIII", 0x803, 48, 28, 28))), IMAGES, ["little-endian"], id="14-little-endian"
    ),
    pytest.param(
        edit(IMAGES, put(4, struct.pack("<III", 48, 28, 28))), IMAGES, ["image shape", "little-endian"], id="14-shape"
    ),
    pytest.param(
        edit(LABELS, put(4, struct.pack("<I", 48))), LABELS, ["size", "little-endian", "would say 48"], id="14-count"
    ),
    pytest.param(
        replace(LABELS, idx.header((47,)) + bytes(47)),
        LABELS,
        ["count: expected 48 labels", "found 47 labels", IMAGES],
        id="15-counts-differ",
    ),
    pytest.param(zipped(IMAGES, lambda d: d[:-9]), f"{IMAGES}.gz", ["gzip", "complete", "cut off"], id="17-truncated"),
    pytest.param(zipped(IMAGES, lambda d: d[:-8]), f"{IMAGES}.gz", ["gzip", "complete", "cut off"], id="17-no-trailer"),
    pytest.param(
        zipped(IMAGES, lambda d: put(len(d) - 8, b"abcd")(d)), f"{IMAGES}.gz", ["gzip CRC: expected"], id="18-crc"
    ),
    pytest.param(
        zipped(IMAGES, lambda d: put(len(d) - 4, b"abcd")(d)), f"{IMAGES}.gz", ["gzip length: expected"], id="18-length"
    ),
    pytest.param(
        zipped(IMAGES, put(10, b"\x07")), f"{IMAGES}.gz", ["gzip: expected a valid deflate", "damaged"], id="18-damaged"
    ),
    pytest.param(bomb, f"{IMAGES}.gz", ["size", f"{SIZE} bytes", "more bytes"], id="19-bomb"),
    pytest.param(
        zipped(IMAGES, lambda d: d + b"garbage"), f"{IMAGES}.gz", ["gzip: expected nothing after"], id="20-garbage"
    ),
    pytest.param(
        lambda folder: (folder / IMAGES).rename(folder / f"{IMAGES}.gz"),
        f"{IMAGES}.gz",
        ["gzip magic: expected bytes 1f 8b", "found 00 00 08 03", f"name it {IMAGES};"],
        id="21-plain-named-gz",
    ),
    pytest.param(lambda folder: (folder / LABELS).unlink(), LABELS, ["expected", "or", ".gz, found"], id="23-missing"),
    pytest.param(
        lambda folder: (folder / f"{LABELS}.gz").write_bytes(gzip.compress(idx.header((48,)) + bytes(48))),
        LABELS,
        [f"contents: expected those of {LABELS}.gz", "different contents. Remove the one that is wrong"],
        id="24-both",
    ),
    pytest.param(make_folder, IMAGES, ["expected", f"found only {IMAGES}. Remove the folder"], id="25-folder"),
    pytest.param(make_fifo, IMAGES, ["file: expected a regular file, found a FIFO"], id="25-fifo"),
    pytest.param(device, IMAGES, ["file: expected a regular file, found a device"], id="25-device"),
    pytest.param(dangling, IMAGES, ["file: expected a readable", "no such file"], id="26-dangling"),
    pytest.param(replace(IMAGES, HTML), IMAGES, ["magic", "<!DO", "a web page"], id="27-html"),
    pytest.param(
        lambda folder: ((folder / IMAGES).unlink(), (folder / f"{IMAGES}.gz").write_bytes(HTML)),
        f"{IMAGES}.gz",
        ["gzip magic", "<!DOCTYPE", "a web page"],
        id="27-html-gz",
    ),
]


def check(error, folder, name, words):
    message = str(error.value)
    assert error.value.exit_code == 2
    assert message.isprintable()
    assert message.startswith(str(folder))
    assert name in message
    position = 0
    for word in words:
        position = message.find(word, position)
        assert position >= 0, f"{word!r} is missing, or not in this order: {message}"
    assert "expected" in message
    assert "found" in message


@pytest.mark.parametrize(("spoil", "name", "words"), CASES)
def test_is_refused_in_one_line(spoil, name, words, write_set, tmp_path):
    folder = write_set(tmp_path / "data")
    source.load(folder, None, features.IMAGE_SHAPE)
    spoil(folder)

    with pytest.raises(BadInput) as error:
        source.load(folder, None, features.IMAGE_SHAPE)

    check(error, folder, name, words)


@pytest.mark.parametrize(("spoil", "name", "words"), CASES)
def test_the_runner_ends_with_2_before_any_work(spoil, name, words, write_set, tmp_path, capfd):
    folder = write_set(tmp_path / "data")
    spoil(folder)
    assert runner_local.main(["--data-dir", str(folder), "--output", str(tmp_path / "output")]) == 2
    shown = capfd.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(("spoil", "name", "words"), CASES)
def test_leaves_no_examples(spoil, name, words, write_set, run_executor, tmp_path):
    folder = write_set(tmp_path / "data")
    spoil(folder)

    with pytest.raises(BadInput) as error:
        run_executor(data_dir=str(folder), dataset_name="custom")

    check(error, folder, name, words)
    assert list((tmp_path / "examples").iterdir()) == []


@pytest.mark.parametrize(
    "spoil", [pytest.param(case.values[0], id=case.id) for case in CASES if str(case.id).startswith(("11", "19"))]
)
def test_costs_no_memory(spoil, write_set, tmp_path):
    folder = write_set(tmp_path / "data")
    spoil(folder)

    tracemalloc.start()
    try:
        with pytest.raises(BadInput):
            source.load(folder, None, features.IMAGE_SHAPE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2**21


def test_a_gz_header_allocates_only_what_arrives(write_set, tmp_path):
    """A promise that the compressed size does not rule out: 800 KiB of zeros, and a header for 700 MiB."""
    folder = write_set(tmp_path / "data")
    noise = np.random.default_rng(0).bytes(2**20)
    zipped(IMAGES, lambda d: d, lambda d: idx.header((900_000, 28, 28)) + noise)(folder)

    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match=r"size: expected 705600016 bytes .* cut off"):
            source.load(folder, None, features.IMAGE_SHAPE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2**23


@pytest.mark.parametrize("spoil", [lambda d: put(len(d) - 8, b"abcd")(d), lambda d: d + b"x"], ids=["crc", "garbage"])
def test_the_end_is_checked_also_where_it_ends_a_chunk(spoil, write_set, tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "_CHUNK_BYTES", 16)
    folder = write_set(tmp_path / "data")
    zipped(LABELS, spoil)(folder)

    with pytest.raises(BadInput, match="gzip"):
        source.load(folder, None, features.IMAGE_SHAPE)


@contextlib.contextmanager
def unprivileged():
    """Root may read everything, so become nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_unreadable_file_is_refused(write_set):
    with tempfile.TemporaryDirectory() as open_folder:
        pathlib.Path(open_folder).chmod(0o755)
        folder = write_set(pathlib.Path(open_folder, "data"))
        (folder / IMAGES).chmod(0)
        with unprivileged(), pytest.raises(BadInput) as error:
            source.load(folder, None, features.IMAGE_SHAPE)
        check(error, folder, IMAGES, ["file: expected a readable regular file, found permission denied"])

        folder.chmod(0)
        with unprivileged(), pytest.raises(BadInput, match=r"folder: expected .* found permission denied"):
            source.load(folder, None, features.IMAGE_SHAPE)
        folder.chmod(0o755)


def test_a_name_with_a_line_break_stays_one_line(write_set, tmp_path):
    folder = write_set(tmp_path / "two\nlines")
    (folder / IMAGES).write_bytes(b"")

    with pytest.raises(BadInput) as error:
        source.load(folder, None, features.IMAGE_SHAPE)

    assert "two\\nlines" in str(error.value)
    assert str(error.value).isprintable()


def renamed(change):
    """Gives each file of the set another name."""

    def apply(folder):
        for name in idx.FILES:
            (folder / name).rename(folder / change(name))

    return apply


def foldered(folder):
    for name in idx.FILES:
        (folder / name).rename(folder / "file")
        (folder / name).mkdir()
        (folder / "file").rename(folder / name / name)


def both_of_kaggle(folder):
    for name in idx.FILES:
        data = (folder / name).read_bytes()
        (folder / name.replace("-idx", ".idx")).write_bytes(data)
    foldered(folder)


def below(path):
    def apply(folder):
        (folder / path).mkdir(parents=True)
        for name in idx.FILES:
            (folder / name).rename(folder / path / name)

    return apply


def instead(*names):
    def apply(folder):
        for name in idx.FILES:
            (folder / name).unlink()
        for name in names:
            (folder / name).write_bytes(b"x")

    return apply


def with_forks(folder):
    for name in idx.FILES:
        (folder / f"._{name}").write_bytes(b"\0\5\x16\7")
    (folder / LABELS).unlink()


# The change of the files' names, and words of the message in order. The first file that is read is train's labels.
NAMES = [
    pytest.param(
        renamed(lambda name: name.replace("-idx", ".idx")),
        [
            "found only train-images.idx3-ubyte, train-labels.idx1-ubyte",
            f"Rename train-images.idx3-ubyte to {IMAGES},",
            "rename t10k-labels.idx1-ubyte to t10k-labels-idx1-ubyte.",
        ],
        id="kaggle",
    ),
    pytest.param(
        foldered,
        [f"Put the file {IMAGES}/{IMAGES} in place of the folder {IMAGES},"],
        id="kaggle-folders",
    ),
    pytest.param(
        both_of_kaggle,
        [f"Put the file {IMAGES}/{IMAGES} in place of the folder {IMAGES},"],
        id="kaggle-both",
    ),
    pytest.param(
        renamed(lambda name: f"emnist-letters-{name.replace('t10k', 'test')}.gz"),
        [
            f"Rename emnist-letters-{IMAGES}.gz to {IMAGES}.gz,",
            "rename emnist-letters-test-labels-idx1-ubyte.gz to t10k-labels-idx1-ubyte.gz. EMNIST's images are",
            "1 to 26",
        ],
        id="emnist",
    ),
    pytest.param(
        instead(f"emnist-digits-{LABELS}", f"emnist-letters-{LABELS}"),
        [f"Rename one of emnist-digits-{LABELS}, emnist-letters-{LABELS} to train-labels-"],
        id="emnist-all",
    ),
    pytest.param(
        renamed(lambda name: f"qmnist-{name.replace('t10k', 'test').replace('labels-idx1-ubyte', 'labels-idx2-int')}"),
        [
            f"rename qmnist-train-labels-idx2-int to {LABELS},",
            "rename qmnist-test-images-idx3-ubyte to t10k-images-idx3-ubyte,",
            "The labels are int32 and eight to an image: write the first",
        ],
        id="qmnist",
    ),
    pytest.param(
        renamed(lambda name: f"{name.upper()}.GZ"),
        [f"Rename TRAIN-IMAGES-IDX3-UBYTE.GZ to {IMAGES}.gz,"],
        id="upper-case",
    ),
    pytest.param(renamed(lambda name: f"{name}.gzip"), [f"Rename {IMAGES}.gzip to {IMAGES}.gz,"], id="gzip"),
    pytest.param(renamed(lambda name: f"{name}.zip"), [f"Unpack {IMAGES}.zip and name its file {IMAGES},"], id="zip"),
    pytest.param(renamed(lambda name: f"{name}.Z"), [f"Unpack {IMAGES}.Z and name"], id="compress"),
    pytest.param(renamed(lambda name: f"{name} (1).gz"), [f"Rename {IMAGES} (1).gz to {IMAGES}.gz,"], id="copy"),
    pytest.param(renamed(lambda name: f"{name}.gz (1)"), [f"Rename {IMAGES}.gz (1) to {IMAGES}.gz,"], id="copy-end"),
    pytest.param(
        renamed(lambda name: f"{name}.gz.part"),
        [f"Fetch {IMAGES} again, for {IMAGES}.gz.part is an unfinished"],
        id="part",
    ),
    pytest.param(renamed(lambda name: name.partition("-idx")[0]), [f"Rename train-images to {IMAGES},"], id="short"),
    pytest.param(with_forks, ["found only", "Put the missing file there"], id="resource-forks"),
    pytest.param(
        instead("mnist.npz"), ["found only mnist.npz. mnist.npz is no IDX file: write its arrays as IDX"], id="npz"
    ),
    pytest.param(
        instead("train.csv", "test.csv"), ["found only test.csv, train.csv. test.csv is no IDX file"], id="csv"
    ),
    pytest.param(instead("archive.zip"), ["found only archive.zip. Unpack archive.zip there."], id="archive"),
    pytest.param(instead("train-images-notes.txt"), ["found neither. Put the missing"], id="notes"),
    pytest.param(below("raw"), ["found the folder raw. Name that folder: --data-dir ", "/data/raw."], id="parent"),
    pytest.param(
        below("MNIST/raw"),
        ["found the folder MNIST/raw. Name that folder: --data-dir ", "/data/MNIST/raw."],
        id="grandparent",
    ),
]


@pytest.mark.parametrize(("spoil", "words"), NAMES)
def test_another_name_gets_the_way_out(spoil, words, write_set, tmp_path):
    folder = write_set(tmp_path / "data")
    spoil(folder)

    with pytest.raises(BadInput) as error:
        source.load(folder, None, features.IMAGE_SHAPE)

    check(error, folder, "-ubyte: expected ", words)


@pytest.mark.parametrize(
    "change",
    [pytest.param(case.values[0], id=case.id) for case in NAMES if case.id in ("kaggle", "upper-case", "copy")],
)
def test_following_the_advice_leads_out(change, write_set, tmp_path):
    folder = write_set(tmp_path / "data", suffix="")
    original, _ = source.load(folder, None, features.IMAGE_SHAPE)
    change(folder)
    for path in list(folder.iterdir()):  # as the names promise
        if path.name.lower().endswith(".gz"):
            path.write_bytes(gzip.compress(path.read_bytes()))

    with pytest.raises(BadInput) as error:
        source.load(folder, None, features.IMAGE_SHAPE)
    for old, new in re.findall(r"[Rr]ename (.+?) to ([^,]+?)[,.](?= |$)", str(error.value)):
        (folder / old).rename(folder / new)

    assert source.load(folder, None, features.IMAGE_SHAPE)[0].sha256 == original.sha256


def test_the_same_file_plain_and_gzipped_is_read(write_set, tmp_path):
    """As torchvision leaves its raw/ folder."""
    folder = write_set(tmp_path / "raw")
    original, _ = source.load(folder, None, features.IMAGE_SHAPE)
    for name in idx.FILES:
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))

    both, contents = source.load(folder, None, features.IMAGE_SHAPE)

    assert both.sha256 == original.sha256
    assert contents[IMAGES].path == folder / IMAGES


# Accepted by ingest: 16 and 28 are findings of the data gate, 22 and 26 are no faults.


def test_16_a_label_above_9_is_passed_on(write_set, tmp_path):
    folder = write_set(tmp_path / "data")
    edit(LABELS, put(8, b"\xc8"))(folder)

    _, contents = source.load(folder, None, features.IMAGE_SHAPE)

    assert contents[LABELS].array[:3].tolist() == [200, 1, 2]


def test_22_several_gzip_members_are_one_stream(write_set, tmp_path):
    folder = write_set(tmp_path / "data")
    data = (folder / IMAGES).read_bytes()
    (folder / IMAGES).unlink()
    members = [data[:7], b"", data[7:3000], data[3000:]]
    (folder / f"{IMAGES}.gz").write_bytes(b"".join(map(gzip.compress, members)))

    _, contents = source.load(folder, None, features.IMAGE_SHAPE)

    assert contents[IMAGES].array.tobytes() == data[16:]

    with (folder / f"{IMAGES}.gz").open("ab") as file:
        file.write(gzip.compress(b"one more"))
    with pytest.raises(BadInput, match="more bytes after them"):
        source.load(folder, None, features.IMAGE_SHAPE)


def test_26_a_symlink_to_a_regular_file_is_fine(write_set, tmp_path):
    folder = write_set(tmp_path / "data")
    (folder / IMAGES).rename(tmp_path / "elsewhere")
    (folder / IMAGES).symlink_to(tmp_path / "elsewhere")

    dataset, _ = source.load(folder, None, features.IMAGE_SHAPE)

    assert dataset.train_images == 48


def test_28_training_images_among_the_test_images_are_passed_on(write_set, tmp_path):
    folder = write_set(tmp_path / "data")
    train = idx.read_images(folder / IMAGES, (28, 28)).array
    idx.write(folder / idx.TEST_IMAGES, train[:10])

    _, contents = source.load(folder, None, features.IMAGE_SHAPE)

    np.testing.assert_array_equal(contents[idx.TEST_IMAGES].array, train[:10])
