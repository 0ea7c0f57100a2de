# SPDX-License-Identifier: Apache-2.0
"""Imports TensorFlow and TFX without optional packages that nothing here uses."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from collections.abc import Iterator, Sequence

# Keras, TFX and NLTK import these, if installed, for extra features: wrappers for scikit-learn, model servers in a
# cluster. Nothing here uses them.
_UNUSED = ("kubernetes", "sklearn")
# Keras imports these likewise; TFMA and TFDV need them.
_UNUSED_BY_KERAS = ("IPython", "pandas")


def import_tensorflow() -> None:
    """Imports TensorFlow while these packages are hidden, which saves 2 of 6 s; they can be imported afterwards."""
    with _hidden((*_UNUSED, *_UNUSED_BY_KERAS)):
        importlib.import_module("tensorflow")


@contextlib.contextmanager
def faster_imports() -> Iterator[None]:
    """Hides the packages that nothing here uses, and disables garbage collection, which saves 3 s of imports.

    Objects from within are frozen, out of reach of later collections: TFX and its imports are 600,000 objects that live
    to the end, and each of some 20 full collections in a run would take 0.4 s for them.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        with _hidden(_UNUSED):
            yield
    finally:
        gc.freeze()
        if before:
            gc.enable()


@contextlib.contextmanager
def _hidden(names: Sequence[str]) -> Iterator[None]:
    """Makes the import of packages fail that are not imported yet."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's marker for a module that cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
