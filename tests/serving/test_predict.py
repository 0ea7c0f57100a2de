# SPDX-License-Identifier: Apache-2.0
"""The predict command, with a server and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from serving import predict
from tests.serving.servers import ROOT


def test_pictures_and_test_images_through_a_server(server, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.fromarray(255 - np.pad(digits[0][3], 20)).save(tmp_path / "three.png")
    assert predict.main([str(tmp_path / "three.png"), "--index", "5", "--index", "87", "--url", server.url]) == 0
    output = capsys.readouterr().out
    assert f"{tmp_path}/three.png: 3, " in output
    assert "test image 87: " in output
    assert "(true class: " in output
    assert "version 1" in output
    assert output.count(" %") == 3 * 11
    assert "█" in output
    assert "@@" in output  # the picture


def test_json_and_a_model_without_a_server(server, push, digits, tmp_path, capsys):
    Image.fromarray(digits[0][3]).save(tmp_path / "three.png")
    push(tmp_path / "mnist", 6)
    with_server, without = tmp_path / "a.json", tmp_path / "b.json"
    assert predict.main([str(tmp_path / "three.png"), "--url", server.url, "--json", str(with_server)]) == 0
    assert predict.main([str(tmp_path / "three.png"), "--model-dir", str(tmp_path), "--json", str(without)]) == 0
    capsys.readouterr()
    assert (
        predict.main([str(tmp_path / "three.png"), "--url", f"{server.url}/v1/models/mnist/versions/1", "--json"]) == 0
    )
    remote, local, by_version = (
        json.loads(text)[0] for text in (with_server.read_text(), without.read_text(), capsys.readouterr().out)
    )
    assert remote == by_version
    assert (remote["class"], remote["version"], local["version"]) == ("3", "1", "6")
    assert remote["pixels"] == digits[0][3].tolist()
    assert list(remote["probabilities"].values()) == pytest.approx(list(local["probabilities"].values()), abs=1e-6)


@pytest.mark.parametrize("value", ["http://user:secret@host:x", "socks5://user:secret@host", "http://[::1"])
def test_an_unusable_proxy_is_named_in_one_line(value):
    command = [sys.executable, "-m", "serving.predict", "--url", "http://server.invalid", "--index", "1"]
    variables = {name: text for name, text in os.environ.items() if name.lower() not in ("no_proxy", "http_proxy")}
    process = subprocess.run(
        command, cwd=ROOT, env=variables | {"HTTP_PROXY": value}, capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout, len(process.stderr.splitlines())) == (2, "", 1)
    assert "does not respond (HTTP_PROXY in the environment can't be used (" in process.stderr
    assert "secret" not in process.stderr


def test_an_invalid_address_is_refused(capsys):
    assert predict.main(["--url", "http://[::1", "--index", "1"]) == 2
    assert (
        capsys.readouterr().err
        == "predict: --url takes an address such as http://127.0.0.1:8501; received 'http://[::1'\n"
    )
