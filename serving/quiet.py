# SPDX-License-Identifier: Apache-2.0
"""Keeps what TensorFlow's native code says at its start, of processors and missing GPUs, off the terminal."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def native_stderr() -> Iterator[None]:
    """Sends what is written to file descriptor 2 to nowhere; Python's exceptions still tell what fails."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
