# SPDX-License-Identifier: Apache-2.0
"""The promises of the files of deploy/, read from them; what an image holds is tried by deploy/try_image.sh."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted(DEPLOY.glob("*.yaml"))
GPU_LOCK, LOCK = ROOT / "requirements/gpu.lock", ROOT / "requirements/run.lock"


def instructions():
    """The Dockerfile, an instruction a line, as (stage, name, rest)."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    stage, keyword = "", []
    for name, rest in (line.split(" ", 1) for line in lines if line.strip()):
        stage = rest.rpartition(" ")[2] if name == "FROM" else stage
        keyword.append((stage, name, rest))
    return keyword


def of_stage(stage, name):
    return [rest for in_stage, keyword, rest in instructions() if (in_stage, keyword) == (stage, name)]


def test_dockerfile_has_a_target_for_each_kind_of_machine_and_the_plain_one_last():
    stages = [rest for _, name, rest in instructions() if name == "FROM"]
    assert stages == [
        "${BASE} AS build",
        "build AS build-gpu",
        "${BASE} AS project",
        "project AS gpu",
        "project AS cpu",
    ]


def test_base_is_an_argument_on_the_official_lane():
    assert of_stage("", "ARG") == ["BASE=python:3.13-slim-trixie"]


def test_final_stages_hold_no_installer_and_run_as_a_user_by_number():
    assert of_stage("project", "USER") == ["10001:10001"]
    for stage in ("project", "cpu", "gpu"):
        commands = " ".join(of_stage(stage, "RUN"))
        assert not re.search(r"g\+\+|gcc|build-essential|pip|uv |curl|wget", commands), stage
        assert not of_stage(stage, "ADD")
        assert stage == "project" or not of_stage(stage, "USER")
    assert of_stage("cpu", "COPY") == ["--from=build /opt/venv /opt/venv"]
    assert of_stage("gpu", "COPY") == ["--from=build-gpu /opt/venv /opt/venv"]


def test_packages_come_from_the_locks_alone():
    assert of_stage("build", "RUN")[-1] == "sh install.sh run.lock"
    assert of_stage("build-gpu", "RUN") == ["sh install.sh gpu.lock"]
    installs = [
        line for line in (DEPLOY / "install.sh").read_text().replace("\\\n", " ").splitlines() if " install " in line
    ]
    assert len(installs) == 2
    assert all("--require-hashes" in line for line in installs)


def test_image_holds_what_the_digest_of_the_code_is_taken_over():
    """And what is sent to the builder holds all that is copied from it, and nothing else by default."""
    copied = [source for rest in of_stage("project", "COPY") for source in rest.split()[:-1]]
    assert {"components", "pipeline", "requirements/run.lock", "runner_kfp.py"} <= set(copied)
    assert of_stage("project", "WORKDIR") == ["/opt/project"]
    ignored = [line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert ignored[0] == "*"
    all_copied = [
        source
        for _, name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]
    assert {line[1:] for line in ignored if line.startswith("!")} == set(all_copied)
    assert all((ROOT / source).exists() for source in all_copied)
    assert [line for line in ignored if line[:1] not in "!*"] == []
    assert ignored[-1] == "**/__pycache__"


def test_gpu_lock_is_what_tensorflow_asks_for_cuda_and_nothing_that_is_locked_already():
    entries = GPU_LOCK.read_text(encoding="utf-8").replace("\\\n", " ")
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", entries, flags=re.MULTILINE))
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}\b", line) for line in entries.splitlines() if "==" in line)
    assert "://" not in entries
    requirements = [Requirement(text) for text in importlib.metadata.requires("tensorflow") or [] if "and-cuda" in text]
    assert requirements
    assert set(pins) == {requirement.name for requirement in requirements}
    for requirement in requirements:
        assert requirement.specifier.contains(pins[requirement.name]), requirement
    assert not set(pins) & set(re.findall(r"^([a-z0-9-]+)==", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifest_is_complete_and_holds_no_secret(path):
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert documents
    for document in documents:
        assert {"apiVersion", "kind", "metadata"} <= set(document)
        assert "namespace" not in document["metadata"], "kubectl is told which"
        if document["kind"] == "Secret":
            assert set(document["stringData"].values()) == {"replace-me"}
            assert "data" not in document


def test_kserve_serves_with_the_version_of_tensorflow_from_a_folder_that_it_watches():
    service = yaml.safe_load((DEPLOY / "kserve.yaml").read_text(encoding="utf-8"))
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    predictor = service["spec"]["predictor"]
    model = predictor["model"]
    locked = re.search(r"^tensorflow==(\S+)", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert locked
    assert model["runtimeVersion"] == locked[1]
    assert model["modelFormat"] == {"name": "tensorflow"}
    assert (model["runtime"], model["protocolVersion"]) == ("kserve-tensorflow-serving", "v1")
    assert "storageUri" not in model
    (mount,) = model["volumeMounts"]
    assert (mount["mountPath"], mount["readOnly"]) == ("/mnt/models", True)
    (volume,) = predictor["volumes"]
    assert volume["name"] == mount["name"]
    claims = [document["metadata"]["name"] for document in yaml.safe_load_all((DEPLOY / "storage.yaml").read_text())]
    assert volume["persistentVolumeClaim"]["claimName"] in claims


def test_nothing_floats():
    """A tag that moves, such as latest, is in no file but as the base's name, whose digest is recorded."""
    for path in filter(pathlib.Path.is_file, DEPLOY.iterdir()):
        assert not re.search(r":latest\b|:stable\b", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("script", sorted(DEPLOY.glob("*.sh")), ids=lambda path: path.name)
def test_script_can_be_read_and_stops_at_errors(script):
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    assert "\nset -eu\n" in script.read_text(encoding="utf-8")


DOCKER = """#!/bin/sh
echo "$@" >>"$CALLS"
case $1 in
pull) [ -z "$NO_REGISTRY" ] ;;
image) echo "$DIGEST" ;;
esac
"""
DIGEST = "python@sha256:" + "0123456789abcdef" * 4


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of what building reads, and a docker that notes how it is called."""
    shutil.copytree(DEPLOY, tmp_path / "checkout" / "deploy")
    (tmp_path / "checkout" / "deploy" / "base.image").unlink(missing_ok=True)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("NO_REGISTRY", "")
    monkeypatch.setenv("DIGEST", DIGEST)
    return tmp_path / "checkout"


def build(checkout, *arguments):
    script = checkout / "deploy" / "build_image.sh"
    process = subprocess.run([str(script), *arguments], capture_output=True, text=True, check=False)
    calls = checkout.parent / "calls"
    return process, [shlex.split(line) for line in calls.read_text().splitlines()] if calls.exists() else []


def test_build_resolves_the_base_once_and_records_it(checkout):
    for number, target in enumerate(("cpu", "gpu"), start=1):
        process, calls = build(checkout, "registry.example.com/mnist:1", target)
        assert process.returncode == 0, process.stderr
        assert (checkout / "deploy" / "base.image").read_text() == f"python:3.13-slim-trixie {DIGEST}\n"
        assert [call[0] for call in calls] == ["pull", "image", *["build"] * number]
        assert f"BASE={DIGEST}" in calls[-1]
        assert calls[-1][calls[-1].index("--target") + 1] == target
        assert calls[-1][calls[-1].index("--tag") + 1] == "registry.example.com/mnist:1"


def test_another_base_is_heeded_where_one_is_recorded(checkout, monkeypatch):
    build(checkout, "mnist")
    other = DIGEST.replace("0123", "ffff")
    monkeypatch.setenv("DIGEST", other)
    dockerfile = checkout / "deploy" / "Dockerfile"
    dockerfile.write_text(
        dockerfile.read_text().replace("ARG BASE=python:3.13-slim-trixie", "ARG BASE=python:3.12-slim")
    )
    process, calls = build(checkout, "mnist")
    assert process.returncode == 0, process.stderr
    assert f"BASE={other}" in calls[-1]
    assert (checkout / "deploy" / "base.image").read_text() == f"python:3.12-slim {other}\n"
    monkeypatch.setenv("BASE", DIGEST)
    process, calls = build(checkout, "mnist")
    assert f"BASE={DIGEST}" in calls[-1]
    assert (checkout / "deploy" / "base.image").read_text() == f"python:3.12-slim {other}\n"
    monkeypatch.setenv("BASE", "registry.example/python:3.13")
    process, calls = build(checkout, "mnist")
    assert calls[-3][0:3] == ["pull", "--quiet", "registry.example/python:3.13"]


@pytest.mark.parametrize(("variable", "value"), [("NO_REGISTRY", "1"), ("DIGEST", ""), ("DIGEST", "python:3.13")])
def test_build_invents_no_digest(checkout, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    process, calls = build(checkout, "mnist")
    assert (process.returncode, process.stderr.startswith("error: "), process.stderr.count("\n")) == (2, True, 1)
    assert not (checkout / "deploy" / "base.image").exists()
    assert "build" not in [call[0] for call in calls]
