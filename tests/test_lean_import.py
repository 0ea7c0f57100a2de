# SPDX-License-Identifier: Apache-2.0
"""What the lean import of TensorFlow leaves out, and that everybody else still finds it."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOOK = """
import importlib, json, sys
from components import lean_import
lean_import.import_tensorflow() if sys.argv[1] == "lean" else importlib.import_module("tensorflow")
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
