# SPDX-License-Identifier: Apache-2.0
"""One's own images: 32x32 pixels, four classes, by editing components/features.py alone and giving a profile."""

import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

from components import features
from components.ingest import idx, source

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_a_set_of_32x32_images_of_four_classes_is_pushed(
    run: Any, checkout: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    contract = checkout / "components" / "features.py"
    text = contract.read_text()
    edited = text.replace("IMAGE_SHAPE = (28, 28)", "IMAGE_SHAPE = (32, 32)").replace(
        'CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")', 'CLASSES = ("zero", "one", "two", "three")'
    )
    assert "(32, 32)" in edited
    assert "zero" in edited
    contract.write_text(edited)

    mine = tmp_path / "mine"
    mine.mkdir()
    schema = (ROOT / "pipeline" / "profiles" / "digits.pbtxt").read_text()
    schema = schema.replace("min: 28 max: 28", "min: 32 max: 32").replace("min: 0 max: 9", "min: 0 max: 3")
    (mine / "shapes.pbtxt").write_text(schema)
    (mine / "shapes.toml").write_text(
        'name = "shapes"\nschema = "shapes.pbtxt"\n'
        "[model-gate]\ntest-examples = 100\nchange = 0.05\nbest = 0.04\n[model-gate.accuracy]\ncnn = 0.9\n"
    )
    _write_four_classes(mine)

    ended = run(
        "--data-dir", mine, "--profile", mine / "shapes.toml", "--train-steps", "60", "--output", tmp_path / "output",
        root=checkout,
    )  # fmt: skip
    assert ended.code == 0, ended.stdout + ended.stderr
    assert ended.record["dataset"]["name"] == "shapes"
    assert set(ended.record["metrics"]["recall"]) == {"zero", "one", "two", "three"}
    assert ended.record["metrics"]["accuracy"] > 0.9


def test_images_that_are_too_small_for_a_model_are_refused_before_they_are_read(
    run: Any, checkout: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    contract = checkout / "components" / "features.py"
    contract.write_text(contract.read_text().replace("IMAGE_SHAPE = (28, 28)", "IMAGE_SHAPE = (8, 40)"))
    ended = run("--data-dir", tmp_path, "--model", "fast", "--output", tmp_path / "output", root=checkout)
    assert (ended.code, ended.stdout, len(ended.stderr.splitlines())) == (2, "", 1)
    assert "the model 'fast' takes images of 20x20 pixels or more, but IMAGE_SHAPE" in ended.stderr
    assert not (tmp_path / "output").exists()


def _write_four_classes(folder: pathlib.Path) -> None:
    dataset = source.resolve("digits", image_shape=features.IMAGE_SHAPE, cache_dir=folder / "cache").source
    _, contents = source.load(dataset.directory, None, features.IMAGE_SHAPE, "digits")
    for images, labels in ((idx.TRAIN_IMAGES, idx.TRAIN_LABELS), (idx.TEST_IMAGES, idx.TEST_LABELS)):
        rows = contents[labels].array < 4
        idx.write(folder / images, np.pad(contents[images].array[rows], ((0, 0), (2, 2), (2, 2))))
        idx.write(folder / labels, contents[labels].array[rows])
    shutil.rmtree(folder / "cache")
