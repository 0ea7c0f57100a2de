# SPDX-License-Identifier: Apache-2.0
"""Digests of code: a cached result must not outlive the code that made it.

A stage's code is its room's `component.py` and all of the project that this imports, however deep, be it by an import
statement or by the dotted path of a function. The locked dependencies are part of every stage's code.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import pathlib
import re
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parent.parent
LOCK = ROOT / "requirements.lock"
_PACKAGES = ("components", "pipeline")
_DOTTED_PATH = re.compile(rf"(?:{'|'.join(_PACKAGES)})(?:\.\w+)+")


def of_module(module: str, *files: pathlib.Path) -> str:
    """SHA-256 over a module, what it imports from this project, the lock, and further files.

    Args:
        module: dotted name, such as `components.train.component`.
        *files: data that the stage reads beside its inputs.
    """
    digest = hashlib.sha256()
    for path in [*sorted(_closure(module)), LOCK, *files]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def of_project() -> str:
    """SHA-256 over every Python file that a run may use, and the lock."""
    digest = hashlib.sha256()
    paths = sorted(path for package in _PACKAGES for path in (ROOT / package).rglob("*.py"))
    for path in [*paths, LOCK]:
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _closure(module: str) -> set[pathlib.Path]:
    seen: set[pathlib.Path] = set()
    waiting = [module]
    while waiting:
        path = _file(waiting.pop())
        if path is not None and path not in seen:
            seen.add(path)
            waiting.extend(_mentions(path))
    return seen


@functools.cache
def _mentions(path: pathlib.Path) -> tuple[str, ...]:
    return tuple(_walk(ast.parse(path.read_text(encoding="utf-8"))))


def _walk(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _DOTTED_PATH.fullmatch(node.value):
            yield node.value.rpartition(".")[0]


def _file(module: str) -> pathlib.Path | None:
    """The file of a module of this project; None for a foreign module, a package without code, or a function."""
    if module.partition(".")[0] not in _PACKAGES:
        return None
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return path if path.is_file() else None
