# SPDX-License-Identifier: Apache-2.0
"""What must not be in a package, wherever it stands: secrets, paths of the machine that compiled it, packed modules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.kubeflow import lint_kubernetes
from pipeline.kubeflow.finding import Finding

_SECRET_NAME = re.compile(r"secret|password|passwd|token|credential|private_?key|api_?key|access_?key", re.IGNORECASE)
# Names that hold such words and no secret.
_NO_SECRET = re.compile(r"(_FILE|_PATH|_URL|_URI|_ENDPOINT|_NAME)$", re.IGNORECASE)
_SECRET_TEXT = {
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an access key of AWS": re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a token": re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{30,}|ya29\.[\w-]{20,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+)"),
    "a URL with a password": re.compile(r"\b[a-z][a-z0-9+]*://[^/\s:@]+:[^/\s@]+@"),
}
_MODULE_KEYS = frozenset({"module_file", "module_path"})
_LOCAL = re.compile(r"(file://|~/|[A-Za-z]:\\|/)\S*")
# Absolute paths that every Linux container has.
_EVERYWHERE = ("/dev/", "/proc/", "/bin/", "/usr/bin/")
_TEMPLATE = re.compile(r"\{\{(?!\$)")


def check(spec: dict[str, Any], others: Sequence[Any]) -> Iterator[Finding]:
    """Looks at every name and text in a package."""
    mounts = lint_kubernetes.mounts(others)
    seen: set[str] = set()
    for where, text in _texts([spec, *others], ""):
        if text in seen:
            continue
        seen.add(text)
        for what, pattern in _SECRET_TEXT.items():
            if pattern.search(text):  # what it is, is not repeated
                yield Finding("secret", where, f"a package holds no secret; found {what}", "mount it with --secret")
        if text.endswith(".whl") or ".whl@" in text or "pip install" in text:
            yield Finding(
                "wheel", where, "a package holds no wheel and installs nothing when it runs; found one, which "
                "module_file= packs", "give a dotted path (run_fn='…') into what the image installs",
            )  # fmt: skip
        if _LOCAL.fullmatch(text) and not _is_in(text, mounts):
            yield Finding(
                "local-path", where, f"a path must be in the image or in a mounted volume; found {text!r}",
                "give a URL, or mount the volume with --pvc CLAIM=PATH",
            )  # fmt: skip
        if _TEMPLATE.search(text):
            found = "Argo replaces what stands in double braces; found some that are not Kubeflow's {{$…}}"
            yield Finding("template", where, found, "write a space between the braces")
    yield from _named(spec)


def holds_secret(name: str, value: Any) -> bool:
    """Whether a value is there whose name says that it is secret."""
    return bool(value) and bool(_SECRET_NAME.search(name)) and not _NO_SECRET.search(name)


def _is_in(path: str, mounts: frozenset[str]) -> bool:
    return path.startswith(_EVERYWHERE) or any(path == one or path.startswith(f"{one.rstrip('/')}/") for one in mounts)


def _named(spec: dict[str, Any]) -> Iterator[Finding]:
    """What its name tells."""
    told: set[str] = set()
    for label, executor in spec.get("deploymentSpec", {}).get("executors", {}).items():
        for variable in executor.get("container", {}).get("env", ()):
            name = variable.get("name", "")
            if name in told:
                continue
            told.add(name)
            if holds_secret(name, variable.get("value")):
                found = f"the environment of a package is not secret; found a value of {name}"
                yield Finding("secret", label, found, f"mount it with --secret SECRET:KEY={name}")
    components = {"root": spec.get("root", {}), **spec.get("components", {})}
    for owner, component in components.items():
        for name, parameter in component.get("inputDefinitions", {}).get("parameters", {}).items():
            if holds_secret(name, parameter.get("defaultValue")):
                found = f"parameters are shown to everybody; found a default of {name}"
                yield Finding("secret", owner, found, "mount it with --secret")
        for task, described in component.get("dag", {}).get("tasks", {}).items():
            for key in _MODULE_KEYS & set(described.get("inputs", {}).get("parameters", {})):
                found = f"{key} names a file of the machine that compiled the package, or a wheel"
                yield Finding("wheel", f"task {task}", found, "give a dotted path (run_fn='…') instead")


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every text with its place, also those in JSON that is a text itself."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, where)
    elif isinstance(value, str):
        if value[:1] in "{[" and (inner := _json(value)) is not None:
            yield from _texts(inner, where)
        else:
            yield where, value


def _json(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict | list) else None
