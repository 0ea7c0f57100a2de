# SPDX-License-Identifier: Apache-2.0
"""Each rule of `lint`, held against a package that breaks it: a compiled one with a single change."""

from __future__ import annotations

import copy
import json
import pathlib

import pytest

import runner_kfp
from components.errors import BadInput
from pipeline.kubeflow import checks
from tests.kubeflow import packages


@pytest.fixture(scope="module")
def text():
    return packages.text(*packages.DIGITS)


@pytest.fixture(scope="module")
def documents():
    return packages.documents(*packages.DIGITS)


def dumped(documents):
    """Documents as a file; JSON is YAML."""
    return "\n---\n".join(json.dumps(document) for document in documents)


def inner(spec):
    return spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]


def container(spec, name):
    return spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]


def pods(kubernetes):
    return kubernetes["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def parameters(spec):
    return spec["root"]["inputDefinitions"]["parameters"]


def rename_task(spec, name):
    inner(spec)[name] = inner(spec).pop("push")
    inner(spec)[name]["taskInfo"]["name"] = name


def replace_executor(spec, **executor):
    spec["deploymentSpec"]["executors"]["exec-transform"] = executor


# Case -> the change, the rule that it breaks, and a part of the finding.
BROKEN = {
    "unknown field": (lambda s, k: s.update(labels={}), "fields", 'no field named "labels"'),
    "unknown field of a task": (
        lambda s, k: inner(s)["push"].update(retry={}), "fields", 'no field named "retry"'
    ),
    "unknown field of a container": (
        lambda s, k: container(s, "push").update(workingDir="/srv"), "fields", 'no field named "workingDir"'
    ),
    "task with an underscore": (lambda s, k: rename_task(s, "push_it"), "task-name", "task push_it"),
    "task with a dot": (lambda s, k: rename_task(s, "push.it"), "task-name", "task push.it"),
    "task without its name": (lambda s, k: inner(s)["push"].pop("taskInfo"), "task-name", "without taskInfo.name"),
    "task with a long name": (lambda s, k: rename_task(s, "p" * 122), "task-name", "do not match"),
    "no such component": (
        lambda s, k: inner(s)["push"]["componentRef"].update(name="comp-x"), "component", "received 'comp-x'"
    ),
    "no such executor": (
        lambda s, k: s["components"]["comp-push"].update(executorLabel="exec-x"), "component", "received 'comp-push'"
    ),
    "resolver": (lambda s, k: replace_executor(s, resolver={}), "executor-kind", "received resolver"),
    "custom job": (
        lambda s, k: replace_executor(s, customJob={"customJob": {}}), "executor-kind", "received customJob"
    ),
    "no image": (lambda s, k: container(s, "push").pop("image"), "image", "exec-push"),
    "image in upper case": (
        lambda s, k: container(s, "push").update(image="MNIST:latest"), "image", "received 'MNIST:latest'"
    ),
    "no command": (lambda s, k: container(s, "push").pop("command"), "command", "executes the first argument"),
    "artifact iterator": (
        lambda s, k: inner(s)["push"].update(artifactIterator={"itemInput": "x"}), "iterator", "have not implemented"
    ),
    "variable": (
        lambda s, k: container(s, "train").update(env=[{"name": "A B", "value": "c"}]), "environment", "'A B'"
    ),
    "platform's field": (lambda s, k: k.update(kind="x"), "fields", 'no field named "kind"'),
    "misspelt field": (
        lambda s, k: pods(k)["exec-train"].update(nodeSelectors={"labels": {}}),
        "fields", 'no field named "nodeSelectors"',
    ),
    "misspelt field inside": (
        lambda s, k: pods(k)["exec-train"].update(tolerations=[{"keys": "a"}]),
        "fields", 'no field named "keys"',
    ),
    "relative mount": (
        lambda s, k: pods(k)["exec-train"].update(pvcMount=[{"constant": "a", "mountPath": "data"}]), "mount", "'data'"
    ),
    "two volumes at one path": (
        lambda s, k: pods(k)["exec-train"].update(pvcMount=[{"constant": c, "mountPath": "/data"} for c in "ab"]),
        "mount", "of its own; received '/data'",
    ),
    "secret in the environment": (
        lambda s, k: container(s, "train")["env"].append({"name": "DB_PASSWORD", "value": "hunter2"}),
        "secret", "a value of DB_PASSWORD",
    ),
    "secret as default": (
        lambda s, k: parameters(s).update(
            api_key={"parameterType": "STRING", "defaultValue": "hunter2"}
        ),
        "secret", "a value of api_key",
    ),
    "URL with a password": (
        lambda s, k: parameters(s)["data_dir"].update(defaultValue="https://me:hunter2@host/data"),
        "secret", "a URL with a password",
    ),
    "private key": (
        lambda s, k: container(s, "train")["args"].append("-----BEGIN PRIVATE KEY-----hunter2"),
        "secret", "a private key",
    ),
    "key of AWS": (
        lambda s, k: container(s, "train")["args"].append("AKIA" + "HUNTER2XHUNTER2X"), "secret", "access key of AWS"
    ),
    "local path": (
        lambda s, k: parameters(s)["data_dir"].update(defaultValue="/home/me/mnist"), "local-path", "'/home/me/mnist'"
    ),
    "local path in JSON": (
        lambda s, k: container(s, "train")["args"].append('{"a": [{"b": "~/mnist"}]}'), "local-path", "'~/mnist'"
    ),
    "braces": (lambda s, k: container(s, "train")["args"].append("{{workflow.name}}"), "template", "double braces"),
}  # fmt: skip


def test_compiled_package_breaks_no_rule(text):
    assert checks.check(text) == []


@pytest.mark.parametrize(("change", "rule", "text"), BROKEN.values(), ids=BROKEN)
def test_each_rule(documents, change, rule, text):
    spec, kubernetes = copy.deepcopy(documents)
    change(spec, kubernetes)
    findings = checks.check(dumped([spec, kubernetes]))
    sentences = [finding.sentence for finding in findings]
    assert any(finding.rule == rule and text in finding.sentence for finding in findings), sentences
    for sentence in sentences:
        assert sentence.count("\n") == 0
        assert "hunter2" not in sentence.lower() or rule != "secret"


def rules(*documents):
    return [finding.rule for finding in checks.check(dumped(documents))]


def test_package_is_one_pipeline_and_at_most_one_document_beside_it(documents):
    spec, kubernetes = copy.deepcopy(documents)
    assert rules(spec, spec) == ["documents"]
    assert rules(kubernetes) == ["documents"]
    assert rules(spec, kubernetes, kubernetes) == ["documents"]
    assert rules(spec) == []
    assert [finding.rule for finding in checks.check("a: [")] == ["yaml"]
    assert [finding.rule for finding in checks.check("")] == ["documents"]


@pytest.mark.parametrize("empty", [None, []], ids=repr)
def test_empty_fields_are_missing_ones(documents, empty):
    """YAML reads a name with nothing behind it as null."""
    spec, kubernetes = copy.deepcopy(documents)
    spec["pipelineInfo"] = spec["root"]["inputDefinitions"] = empty
    inner(spec)["push"]["inputs"] = inner(spec)["transform"]["componentRef"] = empty
    container(spec, "ingest")["resources"] = empty
    pods(kubernetes)["exec-train"]["secretAsEnv"] = None
    assert rules(spec, kubernetes) == ["component"]
    spec["root"] = kubernetes["platforms"]["kubernetes"]["deploymentSpec"] = empty
    spec["deploymentSpec"] = None
    assert "component" in rules(spec, kubernetes)


def test_package_of_another_compiler():
    """With an importer, a condition's graph, and neither parameters nor a second document."""
    name = {"taskInfo": {"name": "a"}, "componentRef": {"name": "comp-a"}}
    spec = {
        "pipelineInfo": {"name": "other"}, "schemaVersion": "2.1.0",
        "root": {"dag": {"tasks": {"a": name, "b": name | {"componentRef": {"name": "comp-b"}}}}},
        "components": {
            "comp-a": {"executorLabel": "exec-a", "outputDefinitions": {"artifacts": {"artifact": {}}}},
            "comp-b": {"dag": {"tasks": {"c": name | {"componentRef": {"name": "comp-c"}, "inputs": {
                "artifacts": {"data": {"componentInputArtifact": "data"}},
                "parameters": {"x": {"runtimeValue": {"runtimeParameter": "y"}}},
            }}}}},
            "comp-c": {"executorLabel": "exec-c"},
        },
        "deploymentSpec": {"executors": {
            "exec-a": {"importer": {"artifactUri": {"constant": "gs://bucket/data"}}},
            "exec-c": {"container": {"image": "python:3.11", "command": ["python"]}},
        }},
    }  # fmt: skip
    assert rules(spec) == []
    spec["deploymentSpec"]["executors"]["exec-c"]["container"]["args"] = ["x" * 200_000]  # type: ignore[index]
    assert rules(spec) == ["size"]


IMAGES = {
    "mnist": True, "mnist:1": True, "library/mnist_tfx:2.17-gpu": True, "registry.example:5000/a/b-c__d.e:v1": True,
    "localhost/mnist": True, "127.0.0.1:5000/mnist": True, "[::1]:5000/mnist:1": True,
    f"registry.example/mnist@sha256:{'0a' * 32}": True, f"registry.example/mnist:1@sha256:{'0a' * 32}": True,
    "Registry.Example/mnist": True,
    "MNIST:latest": False, "registry.example/MNIST": False, "https://r/m:1": False, "mn ist": False, "mnist:": False,
    "mnist:a:b": False, "/mnist": False, "mnist/": False, "a//b": False, "-mnist": False, "mnist@sha256:abc": False,
    "mnist:.1": False, "mnist\n": False, "registry.example:port/mnist": False,
}  # fmt: skip


@pytest.mark.parametrize(("image", "is_valid"), IMAGES.items())
def test_image_references(documents, image, is_valid):
    """As container runtimes read them, after the grammar of the registries."""
    spec, kubernetes = copy.deepcopy(documents)
    container(spec, "push")["image"] = image
    assert rules(spec, kubernetes) == ([] if is_valid else ["image"])


def test_other_spellings_of_the_same_package(documents):
    spec, kubernetes = copy.deepcopy(documents)
    inner(spec)["train"]["retryPolicy"]["maxRetryCount"] = "2"
    spec["schema_version"] = spec.pop("schemaVersion")
    assert rules(spec, kubernetes) == []


@pytest.mark.parametrize("broken", ["a: 2024-13-45", "[" * 3000, "{root: {dag: {tasks: {a: }}}}", "root: &a [*a]"])
def test_file_that_is_no_package(broken):
    assert len(checks.check(broken)) == 1


def test_same_finding_in_many_parts_is_listed_once(documents):
    spec, kubernetes = copy.deepcopy(documents)
    for name in ("push", "train", "ingest"):
        container(spec, name)["image"] = ""
    with pytest.raises(BadInput, match=r"^it breaks rules of [^:]*: \(1\) image: exec-ingest and 2 more: "):
        checks.refuse(checks.check(dumped([spec, kubernetes])), "it")


def test_path_in_a_mounted_volume_is_no_local_path(documents):
    spec, kubernetes = copy.deepcopy(documents)
    parameters(spec)["data_dir"]["defaultValue"] = "/data/mnist"
    for pod in pods(kubernetes).values():
        pod["pvcMount"] = [{"constant": "images", "mountPath": "/data"}]
    assert rules(spec, kubernetes) == []


def test_command_lists_the_findings(text, tmp_path: pathlib.Path, capsys):
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    assert runner_kfp.main(["lint", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: no findings\n"
    file.write_text(text.replace("registry.example/mnist:1", "MNIST").replace("AWS_ENDPOINT_URL", "A B"))
    assert runner_kfp.main(["lint", str(file)]) == 2
    output = capsys.readouterr()
    assert {line.partition(":")[0] for line in output.out.splitlines()} == {"image", "environment"}
    count = len(output.out.splitlines())
    assert output.err == f"error: {file} breaks rules of Kubeflow Pipelines: {count} findings\n"
    assert runner_kfp.main(["lint", str(file), "--json"]) == 2
    rows = json.loads(capsys.readouterr().out)
    assert {row["rule"] for row in rows} == {"image", "environment"}
    assert set(rows[0]) == {"rule", "part", "message", "advice"}
    for path, message in (
        (tmp_path / "no" / "file", "--json names a file that can be written"),
        ("/dev/full", "--json names a file that can be written, but /dev/full: No space left on device"),
    ):
        assert runner_kfp.main(["lint", str(file), "--json", str(path)]) == 2
        assert message in capsys.readouterr().err
    assert runner_kfp.main(["lint", str(tmp_path / "none.yaml")]) == 2
    assert "must be a readable package" in capsys.readouterr().err
