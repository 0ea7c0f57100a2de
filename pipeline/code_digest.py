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
import subprocess
from collections.abc import Iterator, Mapping

ROOT = pathlib.Path(__file__).parent.parent
LOCK = ROOT / "requirements/run.lock"
_PACKAGES = ("components", "pipeline")
_SUFFIXES = (".py", ".toml", ".pbtxt", ".html", ".css", ".js")
_DOTTED_PATH = re.compile(rf"(?:{'|'.join(_PACKAGES)})(?:\.\w+)+")


def of_module(module: str, *files: pathlib.Path) -> str:
    """SHA-256 over a module, what it imports from this project, the lock, and further files.

    Args:
        module: dotted name, such as `components.train.component`.
        *files: data that the stage reads beside its inputs.
    """
    return joined(files_of(module, *files))


def files_of(module: str, *files: pathlib.Path) -> dict[str, str]:
    """The files that `of_module` goes over, each by its path below the project (else its name), with SHA-256."""
    return {_name(path): _sha256(path) for path in [*sorted(_closure(module)), LOCK, *files]}


def of_project() -> str:
    """SHA-256 over every file of the project that a run may use: the code, the built-in profiles, and the lock."""
    return joined(project_files())


def project_files() -> dict[str, str]:
    """The files that `of_project` goes over: path below the project -> SHA-256."""
    paths = sorted(path for package in _PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in _SUFFIXES)
    return {_name(path): _sha256(path) for path in [*paths, LOCK]}


def provenance() -> dict[str, str | None]:
    """Where a model's code comes from: `code_digest`, `lock_digest` and `git_commit`, None outside a checkout."""
    return {
        "code_digest": of_project(),
        "lock_digest": hashlib.sha256(LOCK.read_bytes()).hexdigest(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """The commit that is checked out, and `-dirty` where a file differs; None outside a checkout or without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def joined(files: Mapping[str, str]) -> str:
    """One digest for files and their digests."""
    return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, digest in files.items()).encode()).hexdigest()


def _name(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
