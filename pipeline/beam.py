# SPDX-License-Identifier: Apache-2.0
"""The options of Beam's pipelines, and what makes them faster."""

from __future__ import annotations

import functools
import itertools
import os
import pathlib
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# Runners whose workers are this process or its children.
_HERE = frozenset({"FnApiRunner", "DirectRunner"})
_SAMPLING_MS = 10


def arguments(given: Sequence[str]) -> list[str]:
    """Names the runner unless a person did: Beam's own choice tries to download one, so it depends on the network."""
    told = list(given) if _value(given, "--runner") else ["--runner=FnApiRunner", *given]
    # With any Beam option set, TFX builds a source package of itself for remote workers, 2 to 3 seconds in each stage,
    # unless it sees that they have a container image. Workers on this machine have this very installation.
    here = has_no_job_server(told) or _value(told, "--environment_type") == "LOOPBACK"
    if here and _value(told, "--sdk_container_image") is None:
        told.append("--sdk_container_image=none")
    return told


def has_no_job_server(given: Sequence[str]) -> bool:
    """Whether this process runs Beam's pipelines itself; for others the main thread alone can start a job server."""
    return (_value(given, "--runner") or "FnApiRunner") in _HERE


def let_workers_import() -> None:
    """Lets the processes that Beam starts on this machine import this project, from whatever folder it was started."""
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(_ROOT) not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, known)])


def hurry() -> None:
    """Takes from Beam four things that cost a fifth of an evaluation, and changes nothing that it computes.

    Thousands of times while it builds a pipeline it makes a view of the options, with an argument parser for each; all
    views of the same options share their values, so that one serves as well as another. As often it takes the
    arguments of a method from its signature. Both are done once now. And at the end of each bundle it waits for a
    thread that samples what the bundle does, in steps that grow to 200 ms: here to 10. Workers here keep no cache of
    what they ask this process for, as they weigh what they put into it, past all modules that there are.
    """
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import worker_handlers
    from apache_beam.runners.worker.statesampler import StateSampler
    from apache_beam.transforms import core

    if hasattr(PipelineOptions.view_as, "__wrapped__"):
        return
    PipelineOptions.view_as = _one_view(PipelineOptions.view_as)
    core.get_function_args_defaults = _one_look(core.get_function_args_defaults)
    worker_handlers.STATE_CACHE_SIZE_MB = 0
    StateSampler.__init__ = functools.partialmethod(StateSampler.__init__, sampling_period_ms=_SAMPLING_MS)


def _one_view(make: Callable[[Any, type], Any]) -> Callable[[Any, type], Any]:
    views: weakref.WeakKeyDictionary[Any, dict[type, Any]] = weakref.WeakKeyDictionary()

    @functools.wraps(make)
    def view_as(self: Any, cls: type) -> Any:
        known = views.setdefault(self, {})
        view = known.get(cls)
        if view is None or view._all_options is not self._all_options:
            view = known[cls] = make(self, cls)
        return view

    return view_as


def _one_look(look: Callable[[Any], tuple[list[str], list[Any]]]) -> Callable[[Any], tuple[list[str], list[Any]]]:
    seen: weakref.WeakKeyDictionary[Any, tuple[list[str], list[Any]]] = weakref.WeakKeyDictionary()

    @functools.wraps(look)
    def get_function_args_defaults(f: Any) -> tuple[list[str], list[Any]]:
        # A method is made anew each time it is asked for, the function that is behind it stays.
        behind = f.__func__ if isinstance(f, types.MethodType) and isinstance(f.__func__, types.FunctionType) else None
        if behind is None:
            return look(f)
        if behind not in seen:
            seen[behind] = look(f)
        names, defaults = seen[behind]
        return list(names), list(defaults)

    return get_function_args_defaults


def _value(given: Sequence[str], option: str) -> str | None:
    """The value of an option, given as `--option=value` or as two arguments."""
    for argument, following in itertools.zip_longest(given, given[1:], fillvalue=""):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else following
    return None
