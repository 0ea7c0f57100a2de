# SPDX-License-Identifier: Apache-2.0
"""The locks: both lanes, every file by its hash, no registry by name, and all that pyproject.toml asks for."""

from __future__ import annotations

import ast
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUN, DEV, BUILD = "requirements/run.lock", "requirements/dev.lock", "requirements/build.lock"
GPU = "requirements/gpu.lock"
LOCKS = (RUN, DEV, BUILD, GPU)
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"}
MAC = {"sys_platform": "darwin", "platform_machine": "arm64", "platform_system": "Darwin"}
# Every environment that requirements/lane.py lets in.
ENVIRONMENTS = [
    {**machine, "python_version": version, "python_full_version": f"{version}.1"}
    for machine in (LINUX, MAC)
    for version in ("3.11", "3.12", "3.13")
]
IDS = [f"{environment['sys_platform']}-{environment['python_version']}" for environment in ENVIRONMENTS]


def _entries(name: str) -> list[str]:
    """Returns the requirements of a lock, each on one line with its hashes behind it."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _pinned(name: str, environment: dict[str, str]) -> dict[str, str]:
    """Returns the version of each package that a lock installs in an environment."""
    versions: dict[str, str] = {}
    for entry in _entries(name):
        requirement = Requirement(entry.partition(" --hash=")[0].strip())
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.name not in versions, f"{requirement.name} twice"
            (specifier,) = requirement.specifier
            assert specifier.operator == "=="
            versions[canonicalize_name(requirement.name)] = specifier.version
    return versions


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_hashes(name):
    entries = _entries(name)
    assert len(entries) > 2
    for entry in entries:
        assert re.search(r" --hash=sha256:[0-9a-f]{64}\b", entry), entry


@pytest.mark.parametrize("name", LOCKS)
def test_no_registry_is_named(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert "index-url" not in text
    assert "find-links" not in text


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=IDS)
def test_both_lanes(environment):
    versions = _pinned(RUN, environment)
    compatible = environment["sys_platform"] == "linux" and environment["python_version"] == "3.11"
    assert versions["tensorflow-data-validation"] == ("1.16.1" if compatible else "1.21.0")
    assert versions["ml-metadata"] == ("1.17.1" if compatible else "1.21.0")
    assert versions["tfx"] == "1.21.0"


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=IDS)
def test_all_that_is_asked_for_is_locked(environment):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    direct = {
        RUN: project["project"]["dependencies"],
        DEV: project["dependency-groups"]["dev"],
        BUILD: project["dependency-groups"]["build"],
    }
    for name, requirements in direct.items():
        versions = _pinned(name, environment)
        for requirement in map(Requirement, requirements):
            if requirement.marker is None or requirement.marker.evaluate(environment):
                assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("folder", ["components", "pipeline", "serving", "tests"])
def test_all_that_is_imported_is_locked(folder):
    own = {path.stem for path in ROOT.iterdir()} | {"conftest"}
    names: set[str] = set()
    for module in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.partition(".")[0])
    packages = importlib.metadata.packages_distributions()
    for environment in ENVIRONMENTS:
        locked = _pinned(RUN, environment).keys() | (_pinned(DEV, environment).keys() if folder == "tests" else set())
        missing = {
            name
            for name in names - own - sys.stdlib_module_names
            if not locked & {canonicalize_name(package) for package in packages.get(name, [])}
        }
        assert not missing


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=IDS)
def test_locks_agree(environment):
    run = _pinned(RUN, environment)
    for name in (DEV, BUILD):
        other = _pinned(name, environment)
        assert {package: run[package] for package in other.keys() & run.keys()} == {
            package: other[package] for package in other.keys() & run.keys()
        }


def test_what_runs_needs_no_tools():
    assert not {"pytest", "mypy", "ruff", "hypothesis", "uv"} & _pinned(RUN, ENVIRONMENTS[0]).keys()


def test_stand_in_is_built_by_the_locked_uv():
    project = tomllib.loads((ROOT / "requirements/compat/pyproject.toml").read_text(encoding="utf-8"))
    (backend,) = map(Requirement, project["build-system"]["requires"])
    assert backend.name == "uv_build"
    assert backend.specifier.contains(_pinned(BUILD, ENVIRONMENTS[0])["uv"])


def test_uv_lock_is_not_committed():
    assert "uv.lock" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "uv.lock"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert listed.stdout == ""
