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


# name -> the change, the rule that it breaks, and a part of what is said
BROKEN = {
    "old schema": (lambda s, k: s.update(schemaVersion="2.0.0"), "schema-version", "takes 2.1.0 only; found 2.0.0"),
    "pipeline's name": (
        lambda s, k: s["pipelineInfo"].update(name="Mnist_TFX"), "pipeline-name", "found 'Mnist_TFX'"
    ),
    "unknown field": (lambda s, k: s.update(labels={}), "fields", 'no field named "labels"'),
    "unknown field of a task": (
        lambda s, k: inner(s)["push"].update(retry={}), "fields", 'no field named "retry"'
    ),
    "unknown field of a container": (
        lambda s, k: container(s, "push").update(workingDir="/srv"), "fields", 'no field named "workingDir"'
    ),
    "no graph": (lambda s, k: s["root"].pop("dag"), "root", "must be a graph of tasks"),
    "task with an underscore": (lambda s, k: rename_task(s, "push_it"), "task-name", "task push_it"),
    "task with a dot": (lambda s, k: rename_task(s, "push.it"), "task-name", "task push.it"),
    "task with a long name": (lambda s, k: rename_task(s, "p" * 122), "task-name", "does not match"),
    "no such component": (
        lambda s, k: inner(s)["push"]["componentRef"].update(name="comp-x"), "component", "found 'comp-x'"
    ),
    "no such executor": (
        lambda s, k: s["components"]["comp-push"].update(executorLabel="exec-x"), "component", "and 'exec-x'"
    ),
    "resolver": (lambda s, k: replace_executor(s, resolver={}), "executor-kind", "found resolver"),
    "custom job": (lambda s, k: replace_executor(s, customJob={"customJob": {}}), "executor-kind", "found customJob"),
    "no image": (lambda s, k: container(s, "push").pop("image"), "image", "exec-push"),
    "image in upper case": (
        lambda s, k: container(s, "push").update(image="MNIST:latest"), "image", "found 'MNIST:latest'"
    ),
    "no command": (lambda s, k: container(s, "push").pop("command"), "command", "executes the first argument"),
    "artifact iterator": (
        lambda s, k: inner(s)["push"].update(artifactIterator={"itemInput": "x"}), "iterator", "has not implemented"
    ),
    "quantity": (
        lambda s, k: container(s, "train")["resources"].update(resourceCpuLimit="four"), "resources", "not 'four'"
    ),
    "request above limit": (
        lambda s, k: container(s, "train")["resources"].update(resourceMemoryRequest="9Gi"), "resources", "memory 9Gi"
    ),
    "variable": (
        lambda s, k: container(s, "train").update(env=[{"name": "A B", "value": "c"}]), "environment", "'A B'"
    ),
    "platform's field": (lambda s, k: k.update(kind="x"), "fields", 'no field named "kind"'),
    "platform's name": (
        lambda s, k: k.update(platforms={"k8s": k["platforms"]["kubernetes"]}), "platform", "found k8s"
    ),
    "executor of nothing": (
        lambda s, k: pods(k).update({"exec-trainer": {}}), "platform-executor", "exec-trainer in the second document"
    ),
    "misspelt field": (
        lambda s, k: pods(k)["exec-train"].update(nodeSelectors={"labels": {}}),
        "fields", 'no field named "nodeSelectors"',
    ),
    "misspelt field inside": (
        lambda s, k: pods(k)["exec-train"].update(tolerations=[{"keys": "a"}]),
        "fields", 'no field named "keys"',
    ),
    "shared memory that is not read": (
        lambda s, k: pods(k)["exec-train"].update(enabledSharedMemory={"volumeName": "a", "size": "1Gi"}),
        "platform-field", "no server reads enabledSharedMemory",
    ),
    "relative mount": (
        lambda s, k: pods(k)["exec-train"].update(pvcMount=[{"constant": "a", "mountPath": "data"}]), "mount", "'data'"
    ),
    "two volumes at one path": (
        lambda s, k: pods(k)["exec-train"].update(pvcMount=[{"constant": c, "mountPath": "/data"} for c in "ab"]),
        "mount", "one at each; found '/data'",
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


def test_the_compiled_package_breaks_no_rule(text):
    assert checks.check(text) == []


@pytest.mark.parametrize(("change", "rule", "said"), BROKEN.values(), ids=BROKEN)
def test_each_rule_is_held(documents, change, rule, said):
    spec, kubernetes = copy.deepcopy(documents)
    change(spec, kubernetes)
    found = checks.check(dumped([spec, kubernetes]))
    assert any(one.rule == rule and said in one.sentence for one in found), [one.sentence for one in found]
    for one in found:
        assert one.sentence.count("\n") == 0
        assert "hunter2" not in one.sentence.lower() or rule != "secret"


def test_there_is_one_pipeline_and_one_document_beside_it(documents):
    spec, kubernetes = copy.deepcopy(documents)
    assert [one.rule for one in checks.check(dumped([spec, spec]))] == ["documents"]
    assert [one.rule for one in checks.check(dumped([kubernetes]))] == ["documents"]
    assert [one.rule for one in checks.check(dumped([spec, kubernetes, kubernetes]))] == ["documents"]
    assert checks.check(dumped([spec])) == []
    assert [one.rule for one in checks.check("a: [")] == ["yaml"]
    assert [one.rule for one in checks.check("")] == ["documents"]


@pytest.mark.parametrize("empty", [None, []], ids=repr)
def test_what_is_empty_is_taken_for_missing(documents, empty):
    """As a name with nothing behind it is, which YAML reads as null."""
    spec, kubernetes = copy.deepcopy(documents)
    spec["pipelineInfo"] = spec["root"]["inputDefinitions"] = empty
    inner(spec)["push"]["inputs"] = inner(spec)["transform"]["componentRef"] = empty
    container(spec, "ingest")["resources"] = empty
    pods(kubernetes)["exec-train"]["secretAsEnv"] = None
    assert {one.rule for one in checks.check(dumped([spec, kubernetes]))} == {"pipeline-name", "component"}
    spec["root"] = kubernetes["platforms"]["kubernetes"]["deploymentSpec"] = empty
    spec["deploymentSpec"] = None
    assert {"root", "component"} <= {one.rule for one in checks.check(dumped([spec, kubernetes]))}


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
    found = [one.rule for one in checks.check(dumped([spec, kubernetes]))]
    assert found == ([] if is_valid else ["image"])


def test_what_is_written_otherwise_and_means_the_same(documents):
    spec, kubernetes = copy.deepcopy(documents)
    inner(spec)["train"]["retryPolicy"]["maxRetryCount"] = "2"
    spec["schema_version"] = spec.pop("schemaVersion")
    assert checks.check(dumped([spec, kubernetes])) == []


@pytest.mark.parametrize("broken", ["a: 2024-13-45", "[" * 3000, "{root: {dag: {tasks: {a: }}}}", "root: &a [*a]"])
def test_a_file_that_is_no_package_is_said_to_be_none(broken):
    assert len(checks.check(broken)) == 1


def test_what_is_wrong_in_many_places_is_said_once(documents):
    spec, kubernetes = copy.deepcopy(documents)
    for name in ("push", "train", "ingest"):
        container(spec, name)["image"] = ""
    with pytest.raises(BadInput, match=r"^it breaks rules of [^:]*: \(1\) image: exec-ingest and 2 more: "):
        checks.refuse(checks.check(dumped([spec, kubernetes])), "it")


def test_a_path_in_a_mounted_volume_is_no_local_path(documents):
    spec, kubernetes = copy.deepcopy(documents)
    parameters(spec)["data_dir"]["defaultValue"] = "/data/mnist"
    for pod in pods(kubernetes).values():
        pod["pvcMount"] = [{"constant": "images", "mountPath": "/data"}]
    assert checks.check(dumped([spec, kubernetes])) == []


def test_the_command_lists_what_it_finds(text, tmp_path: pathlib.Path, capsys):
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    assert runner_kfp.main(["lint", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: no findings\n"
    file.write_text(text.replace("schemaVersion: 2.1.0", "schemaVersion: 2.0.0").replace("name: mnist-tfx", "name: M"))
    assert runner_kfp.main(["lint", str(file)]) == 2
    told = capsys.readouterr()
    assert [line.partition(":")[0] for line in told.out.splitlines()] == ["schema-version", "pipeline-name"]
    assert told.err == f"error: {file} breaks rules of Kubeflow Pipelines: 2 findings\n"
    assert runner_kfp.main(["lint", str(file), "--json"]) == 2
    assert [one["rule"] for one in json.loads(capsys.readouterr().out)] == ["schema-version", "pipeline-name"]
    for place, said in (
        (tmp_path / "no" / "file", "--json names a file that can be written"),
        ("/dev/full", "--json names a file that can be written, but /dev/full: No space left on device"),
    ):
        assert runner_kfp.main(["lint", str(file), "--json", str(place)]) == 2
        assert said in capsys.readouterr().err
    assert runner_kfp.main(["lint", str(tmp_path / "none.yaml")]) == 2
    assert "must be a readable package" in capsys.readouterr().err
