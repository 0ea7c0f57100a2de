# SPDX-License-Identifier: Apache-2.0
"""Keeps to itself what libraries say of themselves while they are imported and used."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from components.errors import ProjectError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Sends file descriptor 2 to a file; what that holds is shown only where something unexpected is raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except ProjectError:
            raise
        except Exception:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
