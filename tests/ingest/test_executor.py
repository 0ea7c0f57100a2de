# SPDX-License-Identifier: Apache-2.0
"""The executor, run as TFX runs it."""

import json
import os
import pathlib

import numpy as np
import pytest

from components import features
from components.errors import BadInput, GateStopped
from components.ingest import encode, executor, idx, source


def read(artifact, split):
    """The examples of a split in the order of their files: a list of feature maps."""
    import tensorflow as tf

    paths = sorted(pathlib.Path(artifact.uri, f"Split-{split}").iterdir())
    dataset = tf.data.TFRecordDataset([str(path) for path in paths])
    return [tf.train.Example.FromString(record.numpy()).features.feature for record in dataset]


def ids(examples):
    return [example[features.ID].bytes_list.value[0].decode() for example in examples]


def file_contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def data(write_set, tmp_path):
    return write_set(tmp_path / "data", suffix=".gz")


def test_the_splits_hold_the_images_they_should(data, run_executor):
    artifact = run_executor(data_dir=str(data), dataset_name="buttons")

    dataset, contents = source.load(data, None, features.IMAGE_SHAPE)
    examples = {split: read(artifact, split) for split in features.SPLITS}
    assert {split: len(rows) for split, rows in examples.items()} == {"train": 44, "val": 4, "test": 10}
    for rows in examples.values():
        for row, name in zip(rows, ids(rows), strict=True):
            file, index = name.split("#")
            labels = idx.TRAIN_LABELS if file == idx.TRAIN_IMAGES else idx.TEST_LABELS
            image = contents[file].array[int(index)]
            assert row[features.IMAGE].bytes_list.value == [image.tobytes()]
            assert row[features.LABEL].int64_list.value == [contents[labels].array[int(index)]]
            assert row[features.MEAN_INTENSITY].float_list.value[0] == pytest.approx(image.mean() / 255)
    # In the order of the files, each image once.
    positions = {split: [int(name.split("#")[1]) for name in ids(rows)] for split, rows in examples.items()}
    assert all(values == sorted(values) for values in positions.values())
    assert sorted(positions["train"] + positions["val"]) == list(range(48))
    assert ids(examples["test"]) == [f"{idx.TEST_IMAGES}#{index}" for index in range(10)]

    assert list(artifact.splits) == ["train", "val", "test"]
    assert artifact.span == 0
    assert artifact.get_string_custom_property("payload_format") == "FORMAT_TF_EXAMPLE"
    assert artifact.get_string_custom_property("dataset") == "buttons"
    assert artifact.get_string_custom_property("dataset_sha256") == dataset.sha256
    assert artifact.get_int_custom_property("images") == 58
    assert artifact.get_int_custom_property("span") == 0
    assert sorted(file_contents(artifact.uri)) == [
        *(f"Split-{split}/data_tfrecord-00000-of-00001" for split in ("test", "train", "val")),
        "source.json",
    ]
    assert json.loads((pathlib.Path(artifact.uri) / "source.json").read_text()) == {
        "files": dict(dataset.digests),
        "splits": {split: len(rows) for split, rows in examples.items()},
    }
    assert sorted(path.name for path in pathlib.Path(artifact.uri).iterdir()) == [
        "Split-test",
        "Split-train",
        "Split-val",
        "source.json",
    ]


def test_the_same_data_gives_the_same_bytes(data, run_executor):
    first = run_executor(data_dir=str(data), dataset_name="custom")
    second = run_executor("again", data_dir=str(data), dataset_name="custom")

    assert file_contents(first.uri) == file_contents(second.uri)


def test_shards_hold_the_same_examples_in_the_same_order(data, run_executor, monkeypatch):
    single = run_executor(data_dir=str(data), dataset_name="custom")
    monkeypatch.setattr(executor, "SHARD_IMAGES", 20)
    sharded = run_executor("sharded", data_dir=str(data), dataset_name="custom")

    names = sorted(path.name for path in pathlib.Path(sharded.uri, "Split-train").iterdir())
    assert names == [f"data_tfrecord-0000{number}-of-00003" for number in range(3)]
    for split in features.SPLITS:
        assert ids(read(sharded, split)) == ids(read(single, split))


def test_large_images_make_small_shards(data, run_executor, monkeypatch):
    monkeypatch.setattr(executor, "SHARD_BYTES", 5 * 784 + 1)
    artifact = run_executor(data_dir=str(data), dataset_name="custom")

    assert len(list(pathlib.Path(artifact.uri, "Split-test").iterdir())) == 2


def test_a_split_without_images_has_a_file_all_the_same(data, run_executor):
    for name in (idx.TRAIN_IMAGES, idx.TRAIN_LABELS):
        (data / f"{name}.gz").unlink()
    idx.write(data / idx.TRAIN_IMAGES, np.zeros((11, 28, 28), np.uint8))
    idx.write(data / idx.TRAIN_LABELS, np.zeros(11, np.uint8))

    artifact = run_executor(data_dir=str(data), dataset_name="custom")

    assert (len(read(artifact, "train")), len(read(artifact, "val"))) == (11, 0)
    assert file_contents(artifact.uri)["Split-val/data_tfrecord-00000-of-00001"] == b""


@pytest.mark.parametrize(("span", "expected"), [(None, 10), (-1, 10), (9, 9)])
def test_the_worker_finds_the_span(span, expected, write_set, run_executor, tmp_path):
    for number in (9, 10):
        write_set(tmp_path / "spans" / f"span-{number}", seed=number)
    dataset, _ = source.load(tmp_path / "spans" / f"span-{expected}", None, features.IMAGE_SHAPE)

    artifact = run_executor(data_dir=str(tmp_path / "spans"), span=span, dataset_name="custom")

    assert artifact.span == artifact.get_int_custom_property("span") == expected
    assert artifact.get_string_custom_property("dataset_sha256") == dataset.sha256


def test_other_contents_than_expected_are_refused(data, run_executor, tmp_path):
    dataset, _ = source.load(data, None, features.IMAGE_SHAPE)
    run_executor(data_dir=str(data), dataset_name="custom", data_sha256=dataset.sha256)

    with pytest.raises(BadInput, match=f"SHA-256 of the data set: expected {'0' * 64}, found {dataset.sha256}"):
        run_executor("refused", data_dir=str(data), dataset_name="custom", data_sha256="0" * 64)

    assert list((tmp_path / "refused").iterdir()) == []


def test_contents_that_contradict_the_name_are_refused(data, run_executor, tmp_path):
    with pytest.raises(BadInput, match="that of mnist"):
        run_executor(data_dir=str(data), dataset_name="mnist")

    assert list((tmp_path / "examples").iterdir()) == []


def test_a_failure_while_writing_leaves_nothing(data, run_executor, tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "SHARD_IMAGES", 20)
    calls = []

    def fail_later(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise MemoryError("no more")
        return examples(*arguments)

    examples = encode.examples
    monkeypatch.setattr(encode, "examples", fail_later)

    with pytest.raises(MemoryError):
        run_executor(data_dir=str(data), dataset_name="custom")

    assert len(calls) == 3
    assert list((tmp_path / "examples").iterdir()) == []


def test_a_worker_of_its_own_reads_the_files_itself_and_checks_them(data, tmp_path):
    source.cache.clear()
    dataset, contents = source.load(data, None, features.IMAGE_SHAPE)
    (tmp_path / "partial").mkdir()
    (tmp_path / "Split-test").mkdir()
    shard = executor.Shard(str(data), dataset.sha256, "test", 3, 5, 1, 4, str(tmp_path), False)

    assert executor.write_shard(shard) == 2
    (written,) = file_contents(tmp_path / "Split-test").values()
    assert contents[idx.TEST_IMAGES].array[4].tobytes() in written
    assert (tmp_path / "Split-test" / "data_tfrecord-00001-of-00004").is_file()

    source.cache.clear()
    (data / f"{idx.TEST_LABELS}.gz").unlink()
    idx.write(data / idx.TEST_LABELS, np.zeros(10, np.uint8))
    with pytest.raises(BadInput, match="SHA-256 of the data set"):
        executor.write_shard(shard)


def test_val_is_one_twelfth_of_the_training_files():
    indices = executor.split_indices(60_000, 10_000)

    assert {split: len(chosen) for split, chosen in indices.items()} == {"train": 55_000, "val": 5_000, "test": 10_000}
    assert len(np.union1d(indices["train"], indices["val"])) == 60_000
    assert executor.split_indices(1498, 299)["val"].size == 124


@pytest.mark.skipif("MNIST_DATA_DIR" not in os.environ, reason="MNIST_DATA_DIR names no folder with MNIST")
def test_mnist(run_executor):
    folder = os.environ["MNIST_DATA_DIR"]
    artifact = run_executor(data_dir=folder, dataset_name="mnist")

    assert artifact.get_string_custom_property("dataset") == "mnist"
    assert artifact.get_int_custom_property("images") == 70_000
    _, contents = source.load(folder, None, features.IMAGE_SHAPE, "mnist")
    examples = {split: read(artifact, split) for split in features.SPLITS}
    assert {split: len(rows) for split, rows in examples.items()} == {"train": 55_000, "val": 5_000, "test": 10_000}
    # No digit is rare in val, and each example is the image that its id says.
    labels = np.bincount([row[features.LABEL].int64_list.value[0] for row in examples["val"]])
    assert labels.min() > 400
    for split, rows in examples.items():
        for row, name in list(zip(rows, ids(rows), strict=True))[::997]:
            file, index = name.split("#")
            assert file == (idx.TEST_IMAGES if split == "test" else idx.TRAIN_IMAGES)
            assert row[features.IMAGE].bytes_list.value[0] == contents[file].array[int(index)].tobytes()
    # The first test images of MNIST.
    assert [row[features.LABEL].int64_list.value[0] for row in examples["test"][:6]] == [7, 2, 1, 0, 4, 1]
    # Most people write a one that leans to the right.
    ones = [row for row in examples["test"] if row[features.LABEL].int64_list.value == [1]]
    assert 0.1 < np.median([row[features.SLANT].float_list.value[0] for row in ones]) < 0.3


LABELLED = {idx.TRAIN_LABELS: {3: 12, 7: 12, 11: 200}, idx.TEST_LABELS: {5: 10}}


@pytest.fixture
def with_other_labels(write_set, tmp_path):
    """A set in which some labels are no class, by file and position."""
    folder = write_set(tmp_path / "data")
    for name, changes in LABELLED.items():
        labels = idx.read_labels(folder / name).array.copy()
        labels[list(changes)] = list(changes.values())
        idx.write(folder / name, labels)
    return folder


def source_of(artifact):
    return json.loads((pathlib.Path(artifact.uri) / features.SOURCE_FILE).read_text(encoding="utf-8"))


def test_images_whose_label_is_no_class_stay_unless_that_is_allowed(with_other_labels, run_executor):
    artifact = run_executor(data_dir=str(with_other_labels), dataset_name="buttons", allow="blank-image")

    assert source_of(artifact)["splits"] == {"train": 44, "val": 4, "test": 10}
    assert artifact.get_string_custom_property("excluded") == "{}"
    labels = [row[features.LABEL].int64_list.value[0] for split in features.SPLITS for row in read(artifact, split)]
    assert sorted(label for label in labels if label > 9) == [10, 12, 12, 200]


@pytest.mark.parametrize("allow", ["label-out-of-range", "skew, label-out-of-range ,drift"])
def test_where_that_is_allowed_they_are_left_out_and_the_others_are_what_they_were(
    with_other_labels, run_executor, allow, monkeypatch
):
    monkeypatch.setattr(executor, "SHARD_IMAGES", 7)
    complete = run_executor("all", data_dir=str(with_other_labels), dataset_name="buttons")
    artifact = run_executor("rest", data_dir=str(with_other_labels), dataset_name="buttons", allow=allow)

    excluded = json.loads(artifact.get_string_custom_property("excluded"))
    counts = source_of(artifact)["splits"]
    assert artifact.get_int_custom_property("images") == 58
    assert sum(counts.values()) + sum(sum(row["labels"].values()) for row in excluded.values()) == 58
    total = dict.fromkeys(("10", "12", "200"), 0)
    for split in features.SPLITS:
        before, after = read(complete, split), read(artifact, split)
        outside = [row for row in before if row[features.LABEL].int64_list.value[0] > 9]
        assert len(after) == counts[split]
        assert ids(outside) == excluded.get(split, {"examples": []})["examples"]
        # The same examples, with the same ids, in the same order.
        assert [str(row) for row in after] == [str(row) for row in before if row not in outside]
        for label, count in excluded.get(split, {"labels": {}})["labels"].items():
            total[label] += count
    assert total == {"10": 1, "12": 2, "200": 1}


def test_a_split_of_which_nothing_is_left_stops_with_one_sentence(data, run_executor, tmp_path):
    labels = idx.TEST_LABELS
    idx.write(data / f"{labels}.gz", np.full(10, 77, np.uint8))
    with pytest.raises(GateStopped, match=rf"^Every image of test has a label outside 0 to 9, .* labels in {labels}"):
        run_executor(data_dir=str(data), dataset_name="buttons", allow="label-out-of-range")
    assert list((tmp_path / "examples").iterdir()) == []
