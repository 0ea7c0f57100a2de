# SPDX-License-Identifier: Apache-2.0
"""Digests of code: a cached result must not outlive the code that made it.

A stage's code is its `component.py`, all modules of the project that this imports, directly or not, by an import
statement or by the dotted path of a function, and the locked dependencies.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import pathlib
import re
import subprocess
from collections.abc import Iterator, Mapping

ROOT = pathlib.Path(__file__).parent.parent
LOCK = ROOT / "requirements/run.lock"
_PACKAGES = ("components", "pipeline")
_SUFFIXES = (".py", ".toml", ".pbtxt", ".html", ".css", ".js")
_DOTTED_PATH = re.compile(rf"(?:{'|'.join(_PACKAGES)})(?:\.\w+)+")


def of_module(module: str, *files: pathlib.Path) -> str:
    """Returns the SHA-256 of a module, its imports from this project, the lock, and further files.

    Args:
        module: dotted name, such as `components.train.component`.
        *files: data that the stage reads besides its inputs.
    """
    return join(files_of(module, *files))


def files_of(module: str, *files: pathlib.Path) -> dict[str, str]:
    """Returns the files of `of_module`: path below the project, or name of another file -> SHA-256."""
    return {_name(path): _sha256(path) for path in [*sorted(_closure(module)), LOCK, *files]}


def of_project() -> str:
    """Returns the SHA-256 of all files of the project that a run may use: code, built-in profiles, and lock."""
    return join(project_files())


def project_files() -> dict[str, str]:
    """Returns the files of `of_project`: path below the project -> SHA-256."""
    paths = sorted(path for package in _PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in _SUFFIXES)
    return {_name(path): _sha256(path) for path in [*paths, LOCK]}


def provenance() -> dict[str, str | None]:
    """Returns `code_digest`, `lock_digest` and `git_commit`, which is None outside a checkout."""
    return {
        "code_digest": of_project(),
        "lock_digest": hashlib.sha256(LOCK.read_bytes()).hexdigest(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Returns the commit, with `-dirty` if a file differs; None outside a checkout or without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return process.stdout.strip()


def join(files: Mapping[str, str]) -> str:
    """Returns one digest of files: name -> digest."""
    return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, digest in files.items()).encode()).hexdigest()


def _name(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _closure(module: str) -> set[pathlib.Path]:
    paths: set[pathlib.Path] = set()
    queue = [module]
    while queue:
        path = _file(queue.pop())
        if path is not None and path not in paths:
            paths.add(path)
            queue.extend(_mentions(path))
    return paths


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
    """Returns the file of a module of this project; None for other modules, empty packages, and functions."""
    if module.partition(".")[0] not in _PACKAGES:
        return None
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return path if path.is_file() else None
