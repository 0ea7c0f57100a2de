# SPDX-License-Identifier: Apache-2.0
"""The rules of the tree (ARCHITECTURE.md), held against every file of it and, each, against code that breaks it."""

from __future__ import annotations

import ast
import pathlib
import re
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("benchmarks", "components", "deploy", "pipeline", "requirements", "serving", "tests")
SPDX = "# SPDX-License-Identifier: Apache-2.0"


def _files(*suffixes: str) -> list[str]:
    """Returns the paths of the project's own files, from its root."""
    paths = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        paths += (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return sorted(path.relative_to(ROOT).as_posix() for path in paths if path.name.endswith(suffixes))


MODULES = _files(".py")
MAIN = "__name__ == '__main__'"
# Programs that need no `environment.prepare()`: they use neither Keras nor a home folder in their own process, or are
# meant to be without this project's code.
UNPREPARED = {
    "benchmarks/plain_keras.py",
    "benchmarks/serving.py",
    "benchmarks/tfx_example.py",
    "requirements/lane.py",
    "components/evaluate/golden.py",
    "deploy/try_task.py",
}


# Names that say nothing about the thing they are bound to (CONTRIBUTING.md, "Style").
VAGUE = frozenset(
    {
        "found", "told", "tell", "answer", "answers", "where", "place", "places", "kept", "keep", "said", "says",
        "settle", "settled", "begun", "began", "made", "given", "taken", "seen", "asked", "known", "wanted", "others",
        "here", "there",
        "thing", "things", "whole", "one", "what", "how", "who", "why", "which",
    }
)  # fmt: skip


def _imported(tree: ast.AST) -> set[str]:
    """Returns the dotted names that a module imports, wherever in it; `from a import b` counts as a.b."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update("." * node.level + f"{node.module or ''}.{alias.name}" for alias in node.names)
    return names


def _room_of_file(path: str) -> str:
    """Returns the room that a file is in: its folder, as in components/train, or "runner" for those of the root."""
    return "/".join(path.split("/")[:-1][:2]) or "runner"


def _room_of_import(name: str) -> str:
    """Returns the room that an imported module is in, and "" where it is not of this project."""
    parts = name.split(".")
    if parts[0].startswith("runner_"):
        return "runner"
    if parts[0] not in FOLDERS:
        return ""
    return "/".join(parts[:2]) if len(parts) > 1 and (ROOT / parts[0] / parts[1]).is_dir() else parts[0]


def _may_import(importer: str, imported: str) -> bool:
    """Says whether a module in room `importer` may import one in room `imported`."""
    if imported in {"", importer} or importer.partition("/")[0] in {"tests", "benchmarks"}:
        return True
    top = imported.partition("/")[0]
    if importer in {"runner", "deploy"}:
        return top in {"pipeline", "components"}
    if importer.startswith("pipeline/"):  # one orchestrator's, or the report, which both write
        return imported in {"pipeline", "pipeline/report"} or top == "components"
    if importer == "pipeline":
        return top == "components"
    if importer == "serving":  # reads the serving folder as push lays it out, and images as ingest writes them
        return imported in {"components", "components/ingest", "components/push"}
    return importer.startswith("components/") and imported == "components"


def broken_rules(path: str, source: str) -> list[str]:
    """Returns a line for each rule that a module, given its path from the root and its text, breaks."""
    tree = ast.parse(source)
    imported = _imported(tree)
    importer = _room_of_file(path)
    broken = [
        f"{path} imports {name}: the way is runner -> pipeline -> components/STAGE -> components"
        for name in sorted(imported)
        if not _may_import(importer, _room_of_import(name))
    ]
    broken += [f"{path} imports {name}: imports are absolute" for name in imported if name.startswith(".")]
    if any(name == "tfx.v1" or name.startswith("tfx.v1.") for name in imported):
        broken.append(f"{path} imports tfx.v1, 20 seconds of imports: import the submodules")
    if importer.startswith("components/") and not re.search(r"/(\w+_)?component\.py$", path):
        broken += [
            f"{path} imports {name}: the workers' side does not import the graph's side"
            for name in sorted(imported)
            if re.match(re.escape(importer.replace("/", ".")) + r"\.(\w+_)?component(\.|$)", name)
        ]
    if path.endswith("/__init__.py") and not path.startswith("requirements/compat/") and tree.body:
        broken.append(f"{path} holds more than the licence line")
    if not path.startswith("tests/") and re.search(r"\b(gfile|fileio|glob)\.i?glob\(", source):
        broken.append(f"{path} globs a whole path, in which a folder's name may be a pattern: list the folder")
    if SPDX not in source.splitlines()[: 2 if source.startswith("#!") else 1]:
        broken.append(f"{path} does not start with: {SPDX}")
    if not path.startswith("tests/"):
        broken += _vague(path, tree)
        broken += _beside_entry_points(path, tree)
        if path not in UNPREPARED:
            broken += _unprepared(path, tree)
    return broken


def _vague(path: str, tree: ast.Module) -> list[str]:
    """Returns a line for each vague name that a module binds and each docstring that begins with a question word."""
    broken = []
    for node in ast.walk(tree):
        name = None
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = node.name
        if name and name.strip("_") in VAGUE:
            broken.append(f"{path}: {name} says nothing about the thing: name it by the field's noun")
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            first = (ast.get_docstring(node) or "").partition(" ")[0]
            if first in {"What", "Whether", "How", "Which", "Where", "Why", "Who", "When"}:
                broken.append(f"{path}: a docstring opens with a verb or names the thing, not with {first}")
    return broken


def _unprepared(path: str, tree: ast.Module) -> list[str]:
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == MAIN]
    if not blocks or any(ast.unparse(block.body[0]).startswith("environment.prepare(") for block in blocks):
        return []
    return [f"{path} is started as a program: its first statement is environment.prepare()"]


def _beside_entry_points(path: str, tree: ast.Module) -> list[str]:
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if not functions & {"run_fn", "preprocessing_fn", "tuner_fn"}:
        return []
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Assign, ast.AnnAssign)
    docstring = tree.body[:1] if ast.get_docstring(tree) is not None else []
    return [
        f"{path}:{node.lineno} TFX loads a module with {' or '.join(functions)} twice: it holds functions only"
        for node in tree.body
        if not isinstance(node, allowed) and node not in docstring and not _is_for_type_checking(node)
    ]


def _is_for_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("path", MODULES)
def test_module_keeps_the_rules(path):
    assert broken_rules(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("components/train/fit.py", "from components.ingest import idx"),
        ("components/train/fit.py", "import components.ingest.idx"),
        ("components/train/fit.py", "def f():\n    from components.ingest.idx import read"),
        ("components/train/fit.py", "from components import ingest"),
        ("components/train/fit.py", "from components.train.component import build"),
        ("components/train/fit.py", "from components.train import component"),
        ("components/train/tuner.py", "from components.train.component import tune"),
        ("components/train/fit.py", "from pipeline.settings import Settings"),
        ("components/train/fit.py", "from . import models"),
        ("components/train/fit.py", "found = 3"),
        ("components/train/fit.py", "def f(told):\n    pass"),
        ("components/train/fit.py", 'def f():\n    """Whether it is."""'),
        ("components/train/fit.py", "import runner_local"),
        ("components/train/fit.py", "from tests import conftest"),
        ("components/train/fit.py", "from tfx import v1 as tfx"),
        ("components/train/fit.py", "import tfx.v1"),
        ("components/train/fit.py", "files = tf.io.gfile.glob(pattern)"),
        ("serving/fit.py", "files = glob.glob(pattern)"),
        ("components/train/fit.py", "from tfx.v1.components import Trainer"),
        ("components/train/component.py", "from pipeline import graph"),
        ("components/train/component.py", "from components.push import versions"),
        ("components/features.py", "from components.ingest import idx"),
        ("components/features.py", "from pipeline import settings"),
        ("components/train/__init__.py", "import json"),
        ("components/train/__init__.py", '"""The training stage."""'),
        ("components/train/trainer.py", "class A:\n    pass\ndef run_fn(fn_args):\n    pass"),
        ("components/train/trainer.py", "def run_fn(fn_args):\n    pass\nprint()"),
        ("components/train/trainer.py", "def preprocessing_fn(inputs):\n    pass\nif True:\n    pass"),
        ("pipeline/graph.py", "from pipeline.local import runner"),
        ("pipeline/graph.py", "import runner_local"),
        ("pipeline/graph.py", "from serving import client"),
        ("pipeline/kubeflow/compile.py", "from pipeline.local import table"),
        ("runner_local.py", "from serving import client"),
        ("deploy/accept.py", "from serving import client"),
        ("serving/client.py", "from components.train import models"),
        ("serving/client.py", "from pipeline import settings"),
        ("serving/batch.py", "if __name__ == '__main__':\n    main()\n    environment.prepare()"),
    ],
)
def test_breaking_a_rule_is_seen(path, line):
    assert len(broken_rules(path, f"{SPDX}\n{line}\n")) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("components/train/fit.py", "from components import errors, features\nfrom components.train import models"),
        (
            "components/train/component.py",
            "from components.train import hyperparameters\nfrom tfx.components import Trainer",
        ),
        ("components/train/trainer.py", '"""Trains."""\nimport json\nSIZE = 3\ndef run_fn(fn_args):\n    pass'),
        ("components/train/__init__.py", ""),
        ("components/train/component.py", "from components.train import component"),
        ("pipeline/graph.py", "from components.train import component\nfrom pipeline import settings"),
        ("pipeline/local/runner.py", "from pipeline import graph\nfrom pipeline.local import cache"),
        (
            "runner_local.py",
            "from pipeline import settings\nfrom pipeline.local import runner\nfrom components.errors import BadInput",
        ),
        ("deploy/accept.py", "from components import environment\nfrom pipeline.kubeflow import client"),
        ("serving/client.py", "from components import features\nfrom serving import images"),
        ("serving/batch.py", "if __name__ == '__main__':\n    environment.prepare()\n    main()"),
        ("tests/train/test_fit.py", "from components.train import fit\nimport runner_local"),
    ],
)
def test_keeping_the_rules_is_seen(path, line):
    assert broken_rules(path, f"{SPDX}\n{line}\n") == []


def test_licence_line_of_a_module():
    assert broken_rules("components/errors.py", f"import json\n{SPDX}\n") != []
    assert broken_rules("runner_local.py", f"#!/usr/bin/env python3\n{SPDX}\n") == []


@pytest.mark.parametrize("path", [".ci/run", "Makefile", *_files(".sh", ".toml", ".yaml", ".yml", "Dockerfile")])
def test_licence_line(path):
    assert SPDX in (ROOT / path).read_text(encoding="utf-8").splitlines()[:2]


def test_tool_configuration_is_in_one_file():
    forbidden = {"pytest.ini", "setup.cfg", "tox.ini", "mypy.ini", ".mypy.ini", "ruff.toml", ".ruff.toml", "uv.toml"}
    assert not forbidden & {path.name for path in ROOT.iterdir()}
    assert {"pytest", "ruff", "mypy", "uv"} <= tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"].keys()
