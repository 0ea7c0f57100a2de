# SPDX-License-Identifier: Apache-2.0
"""The packages that the lean import of TensorFlow hides and for how long, and the garbage collections."""

from __future__ import annotations

import gc
import importlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from components import import_speedup

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = """
import importlib, json, sys
from components import import_speedup
import_speedup.import_tensorflow() if sys.argv[1] == "lean" else importlib.import_module("tensorflow")
loaded = [name for name in ("keras", "sklearn", "pandas", "IPython") if name in sys.modules]
import pandas, sklearn.base
print(json.dumps([loaded, float(sys.modules["keras"].ops.sum(pandas.DataFrame([[1.0, 2.0]]).to_numpy()))]))
"""


@pytest.mark.parametrize(
    ("mode", "loaded"), [("lean", ["keras"]), ("plain", ["keras", "sklearn", "pandas", "IPython"])], ids=str
)
def test_keras_is_imported_without_optional_packages(mode, loaded):
    command = [sys.executable, "-c", PROGRAM, mode]
    # TensorFlow Transform sets this when it is imported, and TensorFlow then imports no Keras 3.
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [loaded, 3.0]


TFX_PROGRAM = """
import json, sys
from components import import_speedup
with import_speedup.faster_imports():
    import_speedup.import_tensorflow()
    import tensorflow_model_analysis as tfma
    from tfx import components
lacking = [name for name in dir(components) if getattr(components, name) is None]
print(json.dumps([lacking, hasattr(tfma, "EvalResult")]))  # the last of its imports
"""


def test_tfx_lacks_a_single_component_which_is_unused():
    # TFMA and TFX catch imports that fail, and continue without those parts.
    ended = subprocess.run([sys.executable, "-c", TFX_PROGRAM], check=False, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [["InfraValidator"], True]


@pytest.fixture
def collections():
    """The generations of the garbage collections."""
    generations = []

    def record(phase, info):
        if phase == "start":
            generations.append(info["generation"])

    gc.callbacks.append(record)
    yield generations
    gc.callbacks.remove(record)
    gc.unfreeze()


def make_cycles(count=20_000):
    for _ in range(count):
        cycle: list[object] = []
        cycle.append(cycle)


def test_no_garbage_is_collected_within_nor_from_its_objects(collections):
    with import_speedup.faster_imports():
        make_cycles()
        objects = [[number] for number in range(1000)]
    assert collections == []
    assert gc.get_freeze_count() > 1000
    assert not any(candidate is objects for candidate in gc.get_objects())
    make_cycles()
    assert collections


def test_garbage_is_collected_again_after_an_import_that_fails(collections):
    with pytest.raises(ImportError), import_speedup.faster_imports():
        raise ImportError
    assert gc.isenabled()


def test_unused_packages_are_hidden_within_and_found_afterwards(monkeypatch):
    monkeypatch.setattr(import_speedup, "_UNUSED", ("wave", "json"))  # not imported yet, and imported
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with import_speedup.faster_imports():
        with pytest.raises(ImportError):
            importlib.import_module("wave")
        assert importlib.import_module("json") is json
    assert importlib.import_module("wave").open
