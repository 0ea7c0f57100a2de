# SPDX-License-Identifier: Apache-2.0
"""The environment of a process in which Keras runs on JAX."""

from __future__ import annotations

import os
import pathlib

# Where `make test` puts JAX: in .venv each import of TensorFlow would import it too, three quarters of a second each.
FOLDER = pathlib.Path(__file__).resolve().parents[1] / ".venv-jax"


def environment() -> dict[str, str]:
    """That of this process, with Keras on JAX, on the CPU; JAX that is installed anywhere else will do."""
    folders = [str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
