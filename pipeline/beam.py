# SPDX-License-Identifier: Apache-2.0
"""The options of Beam's pipelines, and what makes them faster."""

from __future__ import annotations

import functools
import itertools
import os
import pathlib
import weakref
from collections.abc import Sequence
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# Runners whose workers are this process or its children.
_HERE = frozenset({"FnApiRunner", "DirectRunner"})


def arguments(given: Sequence[str]) -> list[str]:
    """Names the runner unless a person did: Beam's own choice tries to download one, so it depends on the network."""
    told = list(given) if _value(given, "--runner") else ["--runner=FnApiRunner", *given]
    # With any Beam option set, TFX builds a source package of itself for remote workers, 2 to 3 seconds in each stage,
    # unless it sees that they have a container image. Workers on this machine have this very installation.
    here = _value(told, "--runner") in _HERE or _value(told, "--environment_type") == "LOOPBACK"
    if here and _value(told, "--sdk_container_image") is None:
        told.append("--sdk_container_image=none")
    return told


def let_workers_import() -> None:
    """Lets the processes that Beam starts on this machine import this project, from whatever folder it was started."""
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(_ROOT) not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, known)])


def remember_views() -> None:
    """Lets Beam make each view of a pipeline's options once; a seventh of the evaluation was spent on that.

    Beam asks for a view of the options at each step that a pipeline gets, thousands of times, and makes an argument
    parser for each. All views of the same options share their values, so that one serves as well as another.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    make = PipelineOptions.view_as
    if hasattr(make, "__wrapped__"):
        return
    views: weakref.WeakKeyDictionary[PipelineOptions, dict[type, Any]] = weakref.WeakKeyDictionary()

    @functools.wraps(make)
    def view_as(self: PipelineOptions, cls: type) -> Any:
        known = views.setdefault(self, {})
        view = known.get(cls)
        if view is None or view._all_options is not self._all_options:
            view = known[cls] = make(self, cls)
        return view

    PipelineOptions.view_as = view_as


def _value(given: Sequence[str], option: str) -> str | None:
    """The value of an option, given as `--option=value` or as two arguments."""
    for argument, following in itertools.zip_longest(given, given[1:], fillvalue=""):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else following
    return None
