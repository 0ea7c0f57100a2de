# SPDX-License-Identifier: Apache-2.0
"""The predict client, and what it makes of pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.errors import BadInput
from serving import predict, preprocess
from tests.serving.conftest import ROOT


def photograph(image: np.ndarray, seed: int) -> Image.Image:
    """A digit drawn with a dark pen on paper in uneven light, somewhere on the picture, with a camera's noise."""
    random = np.random.default_rng(seed)
    scale = int(random.integers(10, 20))
    large = Image.fromarray(image).resize((28 * scale, 28 * scale), Image.Resampling.BICUBIC)
    width, height = (int(size) for size in random.integers(28 * scale, 50 * scale, 2))
    canvas = Image.new("L", (width, height))
    canvas.paste(
        large, (int(random.integers(0, width - 28 * scale + 1)), int(random.integers(0, height - 28 * scale + 1)))
    )
    y, x = np.mgrid[0:height, 0:width]
    light = 160 + 50 * random.uniform(-1, 1) * x / width + 50 * random.uniform(-1, 1) * y / height
    ink = np.asarray(canvas).astype(float) / 255
    noisy = light * (1 - 0.75 * ink) + random.normal(0, 4, ink.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def test_photographs_come_out_as_what_was_drawn(digits):
    images, _ = digits
    for number in range(20):
        drawn = np.asarray(preprocess.prepare(Image.fromarray(np.pad(images[number], 14)), (28, 28))).astype(float)
        found = preprocess.prepare(photograph(images[number], number), (28, 28)).astype(float)
        assert found.shape == (28, 28)
        alike = np.corrcoef(found.ravel(), drawn.ravel())[0, 1]
        other = np.corrcoef(found.ravel(), images[number + 20].ravel())[0, 1]
        assert alike > 0.8 > other, number


@pytest.mark.parametrize("form", ["inverted", "colour", "alpha", "turned", "large", "jpeg", "sixteen bits"])
def test_any_form_of_a_picture_gives_the_same(digits, tmp_path, form):
    image = np.pad(digits[0][4], 10)
    plain, path = Image.fromarray(image), tmp_path / "a.png"
    wanted = preprocess.prepare(plain.copy(), (28, 28)).astype(int)
    other = {
        "inverted": Image.fromarray(255 - image),
        "colour": Image.merge("RGB", [plain] * 3),
        "alpha": Image.merge("LA", [Image.new("L", plain.size), plain]),  # black ink on nothing
        "turned": plain.transpose(Image.Transpose.ROTATE_90),
        "large": plain.resize((960, 960), Image.Resampling.NEAREST),
        "jpeg": plain,
        "sixteen bits": Image.fromarray(image.astype(np.uint16) * 257),
    }[form]
    options: dict[str, Any] = {}
    if form == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # as a phone that was held upright says it
        options["exif"] = exif
    if form == "jpeg":
        path = tmp_path / "a.jpg"
    other.save(path, **options)
    found = preprocess.read(path, (28, 28)).astype(int)
    assert np.abs(found - wanted).mean() < 12
    assert np.abs(found - wanted).mean() < np.abs(found[:, ::-1] - wanted).mean() / 2


def test_the_digit_is_in_its_box_and_centred_by_mass(digits):
    for number in range(30):
        image = np.zeros((150, 200), np.uint8)
        image[10:38, 60:88] = digits[0][number]
        found = preprocess.prepare(Image.fromarray(image), (28, 28)).astype(float)
        rows, columns = np.flatnonzero((found > 60).any(axis=1)), np.flatnonzero((found > 60).any(axis=0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20, 21)
        y, x = np.indices(found.shape) + 0.5
        assert abs((found * y).sum() / found.sum() - 14) <= 1
        assert abs((found * x).sum() / found.sum() - 14) <= 1


def test_images_of_the_right_size_stay_as_they_are(digits):
    for image in digits[0][:50]:
        assert np.array_equal(preprocess.prepare(Image.fromarray(image), (28, 28)), image)
        assert np.array_equal(preprocess.prepare(Image.fromarray(255 - image), (28, 28)), image)


def test_what_is_no_picture_is_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"no picture")
    with pytest.raises(BadInput, match="PNG and JPEG"):
        preprocess.read(path, (28, 28))
    Image.new("L", (100, 100), 200).save(path)
    with pytest.raises(BadInput, match="shows nothing"):
        preprocess.read(path, (28, 28))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match=r"a\.png"):
        preprocess.read(path, (28, 28))
    Image.new("1", (12_000, 12_000)).save(path)
    with pytest.raises(BadInput, match="pixels"):
        preprocess.read(path, (28, 28))


def test_pictures_and_test_images_through_a_server(server, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.fromarray(255 - np.pad(digits[0][3], 20)).save(tmp_path / "three.png")
    assert predict.main([str(tmp_path / "three.png"), "--index", "5", "--index", "87", "--url", server.url]) == 0
    shown = capsys.readouterr().out
    assert f"{tmp_path}/three.png: 3, " in shown
    assert "test image 87: " in shown
    assert "(it is " in shown
    assert "version 1" in shown
    assert shown.count(" %") == 3 * 11
    assert "█" in shown
    assert "@@" in shown  # the picture


def test_json_and_a_model_without_a_server(server, put, digits, tmp_path, capsys):
    Image.fromarray(digits[0][3]).save(tmp_path / "three.png")
    put(tmp_path / "mnist", 6)
    with_server, without = tmp_path / "a.json", tmp_path / "b.json"
    assert predict.main([str(tmp_path / "three.png"), "--url", server.url, "--json", str(with_server)]) == 0
    assert predict.main([str(tmp_path / "three.png"), "--model-dir", str(tmp_path), "--json", str(without)]) == 0
    capsys.readouterr()
    assert (
        predict.main([str(tmp_path / "three.png"), "--url", f"{server.url}/v1/models/mnist/versions/1", "--json"]) == 0
    )
    one, other, third = (
        json.loads(text) for text in (with_server.read_text(), without.read_text(), capsys.readouterr().out)
    )
    assert one == third
    assert (one[0]["class"], one[0]["version"], other[0]["version"]) == ("3", "1", "6")
    assert one[0]["pixels"] == digits[0][3].tolist()
    assert list(one[0]["probabilities"].values()) == pytest.approx(list(other[0]["probabilities"].values()), abs=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        ["serving"],
        ["serving.predict"],
        ["serving.predict", "nothing.png"],
        ["serving.predict", "--index", "1", "--url", "http://127.0.0.1:9"],
        ["serving.predict", "--index", "1", "--url", "ftp://a"],
        ["serving.batch", "nothing", "--output", "x"],
        ["serving.drift", "nothing"],
        ["serving", "--port", "x"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_bad_usage_is_one_line_and_2(arguments, tmp_path):
    model = ["--model-dir", str(tmp_path)] if arguments == ["serving"] else []
    done = subprocess.run(
        [sys.executable, "-m", *arguments, *model], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) > 20
    if arguments != ["serving", "--port", "x"]:  # argparse shows the usage too
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["serving", "serving.predict", "serving.batch", "serving.drift"])
def test_help_imports_nothing_heavy(command):
    code = (
        "import runpy, sys\nsys.argv = ['x', '--help']\n"
        f"try: runpy.run_module({command!r}, run_name='__main__')\nexcept SystemExit: pass\n"
        "heavy = {'tensorflow', 'apache_beam', 'numpy', 'fastapi', 'pandas'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


@pytest.mark.parametrize("value", ["http://user:secret@host:x", "socks5://user:secret@host", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_named_in_one_line(value):
    command = [sys.executable, "-m", "serving.predict", "--url", "http://server.invalid", "--index", "1"]
    variables = {name: text for name, text in os.environ.items() if name.lower() not in ("no_proxy", "http_proxy")}
    done = subprocess.run(
        command, cwd=ROOT, env=variables | {"HTTP_PROXY": value}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "does not answer (HTTP_PROXY in the environment can't be used (" in done.stderr
    assert "secret" not in done.stderr


def test_an_address_that_is_none_is_refused(capsys):
    assert predict.main(["--url", "http://[::1", "--index", "1"]) == 2
    assert (
        capsys.readouterr().err
        == "predict: --url takes an address such as http://127.0.0.1:8501; received 'http://[::1'\n"
    )
