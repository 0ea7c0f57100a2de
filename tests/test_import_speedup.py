# SPDX-License-Identifier: Apache-2.0
"""What the lean import of TensorFlow leaves out, that everybody else still finds it, and when garbage is looked for."""

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
LOOK = """
import importlib, json, sys
from components import import_speedup
import_speedup.import_tensorflow() if sys.argv[1] == "lean" else importlib.import_module("tensorflow")
loaded = [name for name in ("keras", "sklearn", "pandas", "IPython") if name in sys.modules]
import pandas, sklearn.base
print(json.dumps([loaded, float(sys.modules["keras"].ops.sum(pandas.DataFrame([[1.0, 2.0]]).to_numpy()))]))
"""


@pytest.mark.parametrize(
    ("how", "loaded"), [("lean", ["keras"]), ("plain", ["keras", "sklearn", "pandas", "IPython"])], ids=str
)
def test_keras_is_imported_without_what_it_is_not_used_with(how, loaded):
    command = [sys.executable, "-c", LOOK, how]
    # Whoever has imported TensorFlow Transform has set this, by which TensorFlow imports no Keras 3.
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [loaded, 3.0]


WHOLE = """
import json, sys
from components import import_speedup
with import_speedup.faster_imports():
    import_speedup.import_tensorflow()
    import tensorflow_model_analysis as tfma
    from tfx import components
lacking = [name for name in dir(components) if getattr(components, name) is None]
print(json.dumps([lacking, hasattr(tfma, "EvalResult")]))  # which is the last that it imports
"""


def test_of_tfx_and_what_it_stands_on_one_component_is_lacking_that_is_not_used():
    # TFMA and TFX catch an import that fails, and go on with half of themselves.
    ended = subprocess.run([sys.executable, "-c", WHOLE], check=False, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [["InfraValidator"], True]


@pytest.fixture
def collections():
    """Garbage collections that have begun: their generations."""
    begun = []

    def called(phase, told):
        if phase == "start":
            begun.append(told["generation"])

    gc.callbacks.append(called)
    yield begun
    gc.callbacks.remove(called)
    gc.unfreeze()


def make_cycles(count=20_000):
    for _ in range(count):
        cycle: list[object] = []
        cycle.append(cycle)


def test_no_garbage_is_looked_for_within_nor_in_what_it_leaves_behind(collections):
    with import_speedup.faster_imports():
        make_cycles()
        left = [[number] for number in range(1000)]
    assert collections == []
    assert gc.get_freeze_count() > 1000
    assert not any(held is left for held in gc.get_objects())
    make_cycles()
    assert collections


def test_garbage_is_looked_for_again_after_an_import_that_fails(collections):
    with pytest.raises(ImportError), import_speedup.faster_imports():
        raise ImportError
    assert gc.isenabled()


def test_what_nothing_here_uses_is_not_found_within_and_is_afterwards(monkeypatch):
    monkeypatch.setattr(import_speedup, "_UNUSED", ("wave", "json"))  # one that is not imported yet, and one that is
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with import_speedup.faster_imports():
        with pytest.raises(ImportError):
            importlib.import_module("wave")
        assert importlib.import_module("json") is json
    assert importlib.import_module("wave").open
