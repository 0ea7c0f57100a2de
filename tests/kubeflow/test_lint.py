# SPDX-License-Identifier: Apache-2.0
"""Each rule, held against a package that breaks it: a compiled one with a single change."""

from __future__ import annotations

import json
import pathlib

import pytest
import yaml

import runner_kfp
from components.errors import BadInput
from pipeline.kubeflow import lint
from tests.kubeflow import packages


@pytest.fixture(scope="module")
def text():
    return packages.text(*packages.DIGITS)


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
    spec["deploymentSpec"]["executors"]["exec-schema"] = executor


def rename_component(spec, old, new):
    spec["components"][new] = spec["components"].pop(old)
    inner(spec)[old.removeprefix("comp-")]["componentRef"]["name"] = new


def rename_executor(spec, kubernetes, old, new):
    for owner in (spec["deploymentSpec"]["executors"], pods(kubernetes)):
        owner[new] = owner.pop(old)
    spec["components"][old.replace("exec", "comp")]["executorLabel"] = new


def same_container(spec):
    spec["deploymentSpec"]["executors"]["exec-infra-gate"]["container"] = container(spec, "baseline")


def importer(uri):
    return {"importer": {"artifactUri": {"constant": uri}, "typeSchema": {"schemaTitle": "system.Artifact"}}}


# name -> the change, the rule that it breaks, and a part of what is said
BROKEN = {
    "old schema": (lambda s, k: s.update(schemaVersion="2.0.0"), "schema-version", "takes 2.1.0 only; found 2.0.0"),
    "no sdk": (lambda s, k: s.pop("sdkVersion"), "sdk-version", "kfp refuses to load"),
    "pipeline's name": (
        lambda s, k: s["pipelineInfo"].update(name="Mnist_TFX"), "pipeline-name", "found 'Mnist_TFX'"
    ),
    "unknown field": (lambda s, k: s.update(labels={}), "fields", 'no field named "labels"'),
    "unknown field of a task": (
        lambda s, k: inner(s)["push"].update(retry={}), "fields", 'no field named "retry"'
    ),
    "unknown field of a container": (
        lambda s, k: container(s, "push").update(workingDir="/srv"), "deployment-fields", 'no field named "workingDir"'
    ),
    "no graph": (lambda s, k: s["root"].pop("dag"), "root", "must be a graph of tasks"),
    "no default": (lambda s, k: parameters(s)["model"].pop("defaultValue"), "default-value", "every run would have to"),
    "default of another type": (
        lambda s, k: parameters(s)["span"].update(defaultValue="newest"), "default-value", "found 'newest'"
    ),
    "no parameter type": (lambda s, k: parameters(s)["span"].pop("parameterType"), "parameter-type", "found none"),
    "task with an underscore": (lambda s, k: rename_task(s, "push_it"), "task-name", "task push_it"),
    "task with a dot": (lambda s, k: rename_task(s, "push.it"), "task-name", "task push.it"),
    "task with a long name": (lambda s, k: rename_task(s, "p" * 122), "task-name", "does not match"),
    "task shown otherwise": (
        lambda s, k: inner(s)["push"]["taskInfo"].update(name="put"), "task-name", "found 'put'"
    ),
    "component without comp": (
        lambda s, k: rename_component(s, "comp-push", "push"), "component-name", "call it comp-push"
    ),
    "executor without exec": (
        lambda s, k: rename_executor(s, k, "exec-push", "pushing"), "executor-name", "call it exec-pushing"
    ),
    "reserved component": (
        lambda s, k: s["components"].update(root={"dag": {}}), "component-name", "name of the whole"
    ),
    "no such component": (
        lambda s, k: inner(s)["push"]["componentRef"].update(name="comp-x"), "component", "found 'comp-x'"
    ),
    "no such executor": (
        lambda s, k: s["components"]["comp-push"].update(executorLabel="exec-x"), "executor", "found 'exec-x'"
    ),
    "resolver": (lambda s, k: replace_executor(s, resolver={}), "executor-kind", "found resolver"),
    "custom job": (lambda s, k: replace_executor(s, customJob={"customJob": {}}), "executor-kind", "found customJob"),
    "importer without a scheme": (
        lambda s, k: replace_executor(s, **importer("bucket/schema")), "importer", "found 'bucket/schema'"
    ),
    "importer with a condition": (
        lambda s, k: (
            replace_executor(s, **importer("s3://bucket/schema")),
            inner(s)["schema"].update(triggerPolicy={"condition": "true"}),
        ),
        "importer", "cannot have a condition",
    ),
    "no image": (lambda s, k: container(s, "push").pop("image"), "image", "exec-push"),
    "no command": (lambda s, k: container(s, "push").pop("command"), "command", "never uses an image's ENTRYPOINT"),
    "lifecycle hook": (
        lambda s, k: container(s, "ingest").update(lifecycle={"preCacheCheck": {"command": ["python"]}}),
        "lifecycle", "instead of a FileBasedExampleGen",
    ),
    "artifact iterator": (
        lambda s, k: inner(s)["push"].update(artifactIterator={"itemInput": "x"}), "iterator", "has not implemented"
    ),
    "no caching options": (lambda s, k: inner(s)["push"].pop("cachingOptions"), "caching", "each task says whether"),
    "push is cached": (
        lambda s, k: inner(s)["push"].update(cachingOptions={"enableCache": True}), "caching", "cache is blind"
    ),
    "dependency": (lambda s, k: inner(s)["push"]["dependentTasks"].append("tune"), "dependency", "depends on 'tune'"),
    "producer": (
        lambda s, k: inner(s)["push"]["inputs"]["artifacts"]["model"]["taskOutputArtifact"].update(
            producerTask="train_task"
        ),
        "producer", "comes from the task 'train_task'",
    ),
    "producer's output": (
        lambda s, k: inner(s)["push"]["inputs"]["artifacts"]["model"]["taskOutputArtifact"].update(
            outputArtifactKey="network"
        ),
        "producer", "train has no output 'network'",
    ),
    "input that is missing": (
        lambda s, k: inner(s)["push"]["inputs"]["artifacts"].pop("schema"), "input", "needs the input 'schema'"
    ),
    "input that is unknown": (
        lambda s, k: s["components"]["comp-push"]["inputDefinitions"]["artifacts"].pop("schema"),
        "input", "has no input 'schema'",
    ),
    "input of the graph": (
        lambda s, k: s["components"]["comp-exit-handler-1"]["inputDefinitions"]["parameters"].pop("model"),
        "input", "which the graph around it does not have",
    ),
    "one name for two inputs": (
        lambda s, k: s["components"]["comp-push"]["inputDefinitions"]["parameters"].update(
            model={"parameterType": "STRING", "isOptional": True}
        ),
        "input-name", "model is a parameter and an artifact",
    ),
    "untyped artifact": (
        lambda s, k: s["components"]["comp-push"]["inputDefinitions"]["artifacts"]["model"].update(artifactType={}),
        "artifact-type", "model must have a type with a title",
    ),
    "exit task": (
        lambda s, k: s["root"]["dag"]["tasks"]["report"].pop("dependentTasks"), "exit-task", "must depend on them"
    ),
    "nothing but an exit task": (lambda s, k: s["root"]["dag"]["tasks"].pop("exit-handler-1"), "tasks", "no exit task"),
    "retries": (
        lambda s, k: inner(s)["train"]["retryPolicy"].update(maxRetryCount=-1), "retries", "counts from 0; found -1"
    ),
    "quantity": (
        lambda s, k: container(s, "train")["resources"].update(resourceCpuLimit="four"), "resources", "not 'four'"
    ),
    "request above limit": (
        lambda s, k: container(s, "train")["resources"].update(resourceMemoryRequest="9Gi"), "resources", "memory 9Gi"
    ),
    "accelerator": (
        lambda s, k: container(s, "train")["resources"].update(accelerator={"resourceType": "nvidia.com/gpu"}),
        "resources", "needs resourceType and a resourceCount",
    ),
    "variable": (
        lambda s, k: container(s, "train").update(env=[{"name": "A-B", "value": "c"}]), "environment", "'A-B'"
    ),
    "two tasks, one container": (lambda s, k: same_container(s), "same-container", "comp-baseline has the same"),
    "another task's argument": (
        lambda s, k: container(s, "push")["args"].__setitem__(-3, "train"), "task-argument", "found 'train'"
    ),
    "two codes": (
        lambda s, k: container(s, "push")["args"].__setitem__(-1, "0" * 64), "code-digest", "one code; found"
    ),
    "platform's field": (lambda s, k: k.update(kind="x"), "platform", "ignores all of a document"),
    "platform's name": (
        lambda s, k: k.update(platforms={"k8s": k["platforms"]["kubernetes"]}), "platform", "found k8s"
    ),
    "no platform": (lambda s, k: k.pop("platforms"), "platform", "found none"),
    "executor of nothing": (
        lambda s, k: pods(k).update({"exec-trainer": {}}), "platform-executor", "exec-trainer in the second document"
    ),
    "misspelt field": (
        lambda s, k: pods(k)["exec-train"].update(nodeSelectors={"labels": {}}),
        "platform-field", 'no field named "nodeSelectors"',
    ),
    "misspelt field inside": (
        lambda s, k: pods(k)["exec-train"].update(tolerations=[{"keys": "a"}]),
        "platform-field", 'no field named "keys"',
    ),
    "shared memory that is not read": (
        lambda s, k: pods(k)["exec-train"].update(enabledSharedMemory={"volumeName": "a", "size": "1Gi"}),
        "platform-field", "no server reads enabledSharedMemory",
    ),
    "toleration's effect": (
        lambda s, k: pods(k)["exec-train"].update(tolerations=[{"key": "a", "effect": "noschedule"}]),
        "platform-value", "found 'noschedule'",
    ),
    "toleration with a value": (
        lambda s, k: pods(k)["exec-train"].update(tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]),
        "platform-value", "with Exists has no value",
    ),
    "pull policy": (
        lambda s, k: pods(k)["exec-train"].update(imagePullPolicy="Sometimes"), "platform-value", "found 'Sometimes'"
    ),
    "nameless secret": (
        lambda s, k: pods(k)["exec-train"]["secretAsEnv"].append({"keyToEnv": []}), "platform-value", "add secretName"
    ),
    "size": (
        lambda s, k: pods(k)["exec-train"].update(
            emptyDirMounts=[{"volumeName": "a", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "big"}]
        ),
        "platform-value", "not 'big'",
    ),
    "relative mount": (
        lambda s, k: pods(k)["exec-train"].update(pvcMount=[{"constant": "a", "mountPath": "data"}]), "mount", "'data'"
    ),
    "two volumes at one path": (
        lambda s, k: pods(k)["exec-train"].update(pvcMount=[{"constant": c, "mountPath": "/data"} for c in "ab"]),
        "mount", "/data is there twice",
    ),
    "secret in the environment": (
        lambda s, k: container(s, "train")["env"].append({"name": "DB_PASSWORD", "value": "hunter2"}),
        "secret", "a value of DB_PASSWORD",
    ),
    "secret as default": (
        lambda s, k: parameters(s).update(
            api_key={"parameterType": "STRING", "defaultValue": "hunter2"}
        ),
        "secret", "a default of api_key",
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
    "wheel": (
        lambda s, k: container(s, "train")["args"].append("run@s3://bucket/module-1-py3-none-any.whl"),
        "wheel", "no wheel",
    ),
    "pip": (lambda s, k: container(s, "train")["args"].append("pip install x"), "wheel", "installs nothing"),
    "module file": (
        lambda s, k: inner(s)["train"]["inputs"]["parameters"].update(
            module_file={"runtimeValue": {"constant": "train.py"}}
        ),
        "wheel", "module_file names a file",
    ),
    "braces": (lambda s, k: container(s, "train")["args"].append("{{workflow.name}}"), "template", "double braces"),
}  # fmt: skip


def test_the_compiled_package_breaks_no_rule(text):
    assert lint.check(text) == []


@pytest.mark.parametrize(("change", "rule", "said"), BROKEN.values(), ids=BROKEN)
def test_each_rule_is_held(text, change, rule, said):
    spec, kubernetes = yaml.safe_load_all(text)
    change(spec, kubernetes)
    found = lint.check(yaml.safe_dump_all([spec, kubernetes]))
    assert any(one.rule == rule and said in one.sentence for one in found), [one.sentence for one in found]
    for one in found:
        assert one.sentence.count("\n") == 0
        assert "hunter2" not in one.sentence.lower() or rule != "secret"


def test_there_is_one_pipeline_and_one_document_beside_it(text):
    spec, kubernetes = yaml.safe_load_all(text)
    assert [one.rule for one in lint.check(yaml.safe_dump_all([spec, spec]))] == ["documents"]
    assert [one.rule for one in lint.check(yaml.safe_dump_all([kubernetes]))] == ["documents"]
    assert [one.rule for one in lint.check(yaml.safe_dump_all([spec, kubernetes, kubernetes]))] == ["documents"]
    assert lint.check(yaml.safe_dump_all([spec])) == []
    assert [one.rule for one in lint.check("a: [")] == ["yaml"]
    assert [one.rule for one in lint.check("")] == ["documents"]


@pytest.mark.parametrize("empty", [None, []], ids=repr)
def test_what_is_empty_is_taken_for_missing(text, empty):
    """As a name with nothing behind it is, which YAML reads as null."""
    spec, kubernetes = yaml.safe_load_all(text)
    spec["pipelineInfo"] = spec["root"]["inputDefinitions"] = empty
    inner(spec)["push"]["inputs"] = inner(spec)["schema"]["componentRef"] = empty
    inner(spec)["train"]["cachingOptions"] = inner(spec)["train"]["retryPolicy"] = empty
    spec["components"]["comp-evaluate"]["outputDefinitions"] = container(spec, "ingest")["resources"] = empty
    pods(kubernetes)["exec-train"]["secretAsEnv"] = None
    found = {one.rule for one in lint.check(yaml.safe_dump_all([spec, kubernetes]))}
    assert {"pipeline-name", "input", "component", "producer"} <= found
    spec["root"] = kubernetes["platforms"]["kubernetes"]["deploymentSpec"] = empty
    spec["deploymentSpec"] = None
    found = {one.rule for one in lint.check(yaml.safe_dump_all([spec, kubernetes]))}
    assert {"root", "executor"} <= found


def test_what_is_written_otherwise_and_means_the_same(text):
    spec, kubernetes = yaml.safe_load_all(text)
    inner(spec)["train"]["retryPolicy"]["maxRetryCount"] = "2"
    spec["schema_version"] = spec.pop("schemaVersion")
    assert lint.check(yaml.safe_dump_all([spec, kubernetes])) == []


@pytest.mark.parametrize("broken", ["a: 2024-13-45", "[" * 3000, "{root: {dag: {tasks: {a: }}}}", "root: &a [*a]"])
def test_a_file_that_is_no_package_is_said_to_be_none(broken):
    assert len(lint.check(broken)) == 1


def test_what_is_wrong_in_many_places_is_said_once(text):
    spec, kubernetes = yaml.safe_load_all(text)
    for name in ("push", "train", "ingest"):
        container(spec, name)["image"] = ""
    with pytest.raises(BadInput, match=r"^it breaks rules of [^:]*: \(1\) image: exec-ingest and 2 more: "):
        lint.refuse(lint.check(yaml.safe_dump_all([spec, kubernetes])), "it")


def test_a_path_in_a_mounted_volume_is_no_local_path(text):
    spec, kubernetes = yaml.safe_load_all(text)
    parameters(spec)["data_dir"]["defaultValue"] = "/data/mnist"
    for pod in pods(kubernetes).values():
        pod["pvcMount"] = [{"constant": "images", "mountPath": "/data"}]
    assert lint.check(yaml.safe_dump_all([spec, kubernetes])) == []


def test_the_command_lists_what_it_finds(text, tmp_path: pathlib.Path, capsys):
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    assert runner_kfp.main(["lint", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: nothing to complain about\n"
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
