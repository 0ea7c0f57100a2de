# SPDX-License-Identifier: Apache-2.0
"""The compiled package: real compilations of the real graph."""

from __future__ import annotations

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest
from kfp import components

import runner_kfp
from components.train.hyperparameters import MODELS
from pipeline import code_digest
from pipeline.kubeflow import resources
from tests.kubeflow import packages

ROOT = pathlib.Path(__file__).parents[2]
NODES = [
    "ingest", "baseline", "statistics", "image-check", "data-check", "data-gate", "transform", "train", "infra-check",
    "evaluate", "push",
]  # fmt: skip
NEVER_CACHED = {"ingest", "baseline", "data-gate", "push", "report"}


@pytest.fixture(scope="module")
def package():
    return packages.documents(*packages.DIGITS)


def tasks_of(spec):
    inner = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    return inner | {"report": spec["root"]["dag"]["tasks"]["report"]}


def container(spec, name):
    return spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]


def test_another_process_elsewhere_writes_the_same_bytes(tmp_path):
    (tmp_path / "home").mkdir()
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "TZ": "Asia/Tokyo", "LANG": "C",
        "PYTHONHASHSEED": "7", "KERAS_BACKEND": "jax", "TF_USE_LEGACY_KERAS": "1", "TF_CONFIG": "none",
    }  # fmt: skip
    command = [sys.executable, str(ROOT / "runner_kfp.py"), "compile", *packages.DIGITS, "--output", "there.yaml"]
    command += ["--json", "told.json"]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == "there.yaml: pipeline mnist-tfx, 12 tasks, model cnn\n"
    assert json.loads((tmp_path / "told.json").read_text()) == {
        "package": str(tmp_path / "there.yaml"), "pipeline": "mnist-tfx", "tasks": 12, "model": "cnn",
    }  # fmt: skip
    assert (tmp_path / "there.yaml").read_text() == packages.text(*packages.DIGITS)


def test_kfp_loads_it_with_a_default_for_each_parameter(tmp_path):
    (tmp_path / "pipeline.yaml").write_text(packages.text(*packages.DIGITS))
    loaded = components.load_component_from_file(str(tmp_path / "pipeline.yaml"))
    assert loaded.name == "mnist-tfx"
    assert {name: item.default for name, item in loaded.component_spec.inputs.items()} == {
        "data_dir": "s3://data/digits", "span": -1, "model": "cnn", "serving_dir": "s3://models/mnist", "allow": "",
        "force_push": "", "train_steps": 600, "learning_rate": -1.0, "batch_size": 128, "seed": 1, "ksize1": -1,
        "ksize2": -1, "nfil1": -1, "nfil2": -1, "dropout": -1.0, "patience": 0,
    }  # fmt: skip


def test_the_graph_is_one_task_that_the_report_follows_however_it_ends(package):
    spec, _ = package
    inner, report = spec["root"]["dag"]["tasks"]["exit-handler-1"], spec["root"]["dag"]["tasks"]["report"]
    assert sorted(spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]) == sorted(NODES)
    assert inner["componentRef"]["name"] == "comp-exit-handler-1"
    assert report["dependentTasks"] == ["exit-handler-1"]
    assert report["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    args = container(spec, "report")["args"]
    assert args[args.index("--stages") + 1].split(",") == NODES
    definition = spec["components"]["comp-report"]["outputDefinitions"]["artifacts"]
    assert {key: item["artifactType"]["schemaTitle"] for key, item in definition.items()} == {
        "html": "system.HTML", "metrics": "system.Metrics", "classification_metrics": "system.ClassificationMetrics",
        "record": "system.Artifact",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "task_inputs"),
    [
        ("ingest", {"data_dir": "data_dir", "span": "span", "allow": "allow"}),
        ("baseline", {"serving_dir": "serving_dir"}),
        ("data-check", {"allow": "allow"}),
        ("train", {"model_type": "model", "train_steps": "train_steps", "dropout": "dropout", "ksize1": "ksize1"}),
        ("evaluate", {"model_type": "model"}),
        ("push", {"serving_dir": "serving_dir", "run_data_dir": "data_dir", "run_force_push": "force_push"}),
        ("report", {"data_dir": "data_dir", "model": "model"}),
    ],
)  # fmt: skip
def test_what_a_run_is_told_reaches_the_tasks(package, task, task_inputs):
    spec, _ = package
    inputs = tasks_of(spec)[task]["inputs"]["parameters"]
    assert {name: inputs[name].get("componentInputParameter") for name in task_inputs} == task_inputs
    outer = spec["root"]["dag"]["tasks"]["exit-handler-1"]["inputs"]["parameters"]
    assert all(outer[name] == {"componentInputParameter": name} for name in task_inputs.values())


def test_the_floors_of_all_models_are_there_so_that_a_run_may_change_its_model(package):
    limits = tasks_of(package[0])["evaluate"]["inputs"]["parameters"]["limits"]["runtimeValue"]["constant"]
    assert set(json.loads(limits)["accuracy"]) == set(MODELS)


def test_what_looks_outside_is_not_cached_and_decisions_are_not_repeated(package):
    tasks = tasks_of(package[0])
    cached = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    assert cached == set(tasks) - NEVER_CACHED
    retried = {name: task["retryPolicy"]["maxRetryCount"] for name, task in tasks.items() if "retryPolicy" in task}
    assert retried == dict.fromkeys({*cached, "ingest", "baseline"}, 2)


@pytest.mark.parametrize("arguments", [(), ("--tune", "2"), ("--workers", "2")])
def test_no_task_without_an_upstream_task_is_cached(arguments):
    spec, _ = packages.documents(*packages.DIGITS, *arguments)
    dags = [spec["root"]["dag"], *(item["dag"] for item in spec["components"].values() if "dag" in item)]
    for dag in dags:
        for name, task in dag["tasks"].items():
            artifacts = task.get("inputs", {}).get("artifacts", {}).values()
            if not any("taskOutputArtifact" in item for item in artifacts):
                assert not task.get("cachingOptions", {}).get("enableCache"), name


def test_limits_of_memory_are_twice_what_was_measured_and_requests_fit_a_small_node():
    measured = {
        "image-check": 1052, "train": 880, "ingest": 872, "infra-check": 739, "evaluate": 735, "statistics": 614,
        "transform": 569, "tune": 880,
    }  # fmt: skip
    for name, share in resources.SHARES.items():
        request, limit = (resources.amount("--memory", text) for text in share.memory)
        assert limit >= max(2 * measured.get(name, 567) * 10**6, 2**30), name
        assert resources.amount("--cpu", share.cpu[0]) <= 1, name
        assert request <= 4 * 2**30, name
    for name in resources.ON_ACCELERATOR:
        assert resources.amount("--memory", resources.SHARES[name].memory[1]) >= 4 * 2**30


@pytest.mark.parametrize(
    ("arguments", "task", "memory"),
    [
        (("--gpus", "1"), "train", ("4Gi", "8Gi")),
        (("--gpus", "1", "--shared-memory", "2Gi"), "train", ("4Gi", "10240Mi")),
        (("--gpus", "1", "--tune", "2", "--shared-memory", "512Mi"), "tune", ("4Gi", "8704Mi")),
        (("--shared-memory", "1Gi"), "train", ("2Gi", "5120Mi")),
        (("--gpus", "1", "--memory", "train=3Gi:9Gi", "--shared-memory", "2Gi"), "train", ("3Gi", "9Gi")),
    ],
)
def test_the_memory_of_a_training_has_room_for_accelerators_and_shared_memory(arguments, task, memory):
    spec, _ = packages.documents(*packages.DIGITS, *arguments)
    definition = container(spec, task)["resources"]
    assert (definition["resourceMemoryRequest"], definition["resourceMemoryLimit"]) == memory


def test_each_container_knows_its_task_and_the_code(package):
    spec, kubernetes = package
    for name in NODES:
        definition = container(spec, name)
        assert definition["command"] == ["python", "-m", "pipeline.kubeflow.entrypoint"]
        assert definition["args"][-6:] == [
            "--task",
            name,
            "--code_digest",
            code_digest.of_project()[:16],
            "--retries",
            "2",
        ]
        assert definition["image"] == packages.IMAGE
    assert container(spec, "report")["command"] == ["python", "-m", "pipeline.kubeflow.report"]
    pods = kubernetes["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert sorted(pods) == sorted(f"exec-{name}" for name in [*NODES, "report"])
    for name, pod in pods.items():
        assert pod["secretAsEnv"][0]["secretName"] == "mlpipeline-minio-artifact"
        env = container(spec, name.removeprefix("exec-"))["env"]
        assert env == [{"name": "AWS_ENDPOINT_URL", "value": "http://seaweedfs.kubeflow:8333"}]


def test_nothing_of_this_machine_is_in_it(package):
    spec, _ = package
    package_text = packages.text(*packages.DIGITS)
    for word in (str(ROOT), str(pathlib.Path.home()) + "/", socket.gethostname(), sys.prefix, ".whl", "/tmp/"):
        assert word not in package_text
    schema = tasks_of(spec)["statistics"]["inputs"]["parameters"]["schema_file"]["runtimeValue"]["constant"]
    assert schema == "pipeline/profiles/digits.pbtxt"
    assert (ROOT / schema).is_file()


def test_the_training_gets_its_own_nodes_and_every_task_volumes_and_environment():
    spec, kubernetes = packages.documents(
        "--image", "a:1", "--gpu-image", "b:2", "--gpus", "2", "--gpu-resource", "amd.com/gpu", "--node-selector",
        "accelerator=gpu", "--toleration", "amd.com/gpu:NoSchedule", "--toleration", "team=vision", "--shared-memory",
        "2Gi", "--memory", "train=8Gi:16Gi", "--cpu", "all=1:3", "--retries", "0", "--storage", "own",
        "--data-dir", "/data/mnist", "--pvc", "images=/data", "--serving-dir", "gs://models",
        "--secret", "s3:id=AWS_ID", "--secret", "s3:key=AWS_SECRET_ACCESS_KEY", "--env", "AWS_REGION=x",
        "--model", "linear", "--train-steps", "7", "--precision", "bfloat16",
    )  # fmt: skip
    pods = kubernetes["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert container(spec, "train")["image"] == "b:2"
    assert container(spec, "train")["resources"] == {
        "resourceCpuRequest": "1", "resourceCpuLimit": "3", "resourceMemoryRequest": "8Gi",
        "resourceMemoryLimit": "16Gi", "accelerator": {"resourceType": "amd.com/gpu", "resourceCount": "2"},
    }  # fmt: skip
    assert container(spec, "ingest")["image"] == "a:1"
    assert container(spec, "ingest")["resources"]["resourceCpuLimit"] == "3"
    assert container(spec, "report")["env"] == [{"name": "AWS_REGION", "value": "x"}]
    alone = {"nodeSelector", "tolerations", "emptyDirMounts"}
    assert {name for name, pod in pods.items() if alone & set(pod)} == {"exec-train"}
    assert pods["exec-train"]["nodeSelector"] == {"labels": {"accelerator": "gpu"}}
    assert pods["exec-train"]["tolerations"] == [
        {"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "vision"},
    ]
    assert pods["exec-train"]["emptyDirMounts"] == [
        {"volumeName": "dshm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "2Gi"}
    ]
    for pod in pods.values():
        assert [(item["constant"], item["mountPath"]) for item in pod["pvcMount"]] == [("images", "/data")]
        [secret] = pod["secretAsEnv"]
        assert secret["secretName"] == "s3"
        assert secret["keyToEnv"] == [
            {"secretKey": "id", "envVar": "AWS_ID"}, {"secretKey": "key", "envVar": "AWS_SECRET_ACCESS_KEY"},
        ]  # fmt: skip
    stderr = spec["root"]["inputDefinitions"]["parameters"]
    assert (stderr["model"]["defaultValue"], stderr["train_steps"]["defaultValue"]) == ("linear", 7)
    # Without them it must not train.
    config = json.loads(tasks_of(spec)["train"]["inputs"]["parameters"]["custom_config"]["runtimeValue"]["constant"])
    assert (config["accelerator"], config["gpus"], config["precision"]) == ("gpu", 2, "bfloat16")
    assert not any("retryPolicy" in task for task in tasks_of(spec).values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpu-image", "b"), "say how many with --gpus N"),
        (("--gpus", "-1"), "numbers from 0; received -1"),
        (("--storage", "own"), "--serving-dir must name the folder for the models"),
        (("--cpu", "tain=1:2"), "where TASK is one of all, ingest, baseline"),
        (("--cpu", "train=2:1"), "a request that is at most the limit; received 'train=2:1'"),
        (("--memory", "all=much"), "such as 500m or 2 processors or 4Gi of memory; not 'much'"),
        (("--shared-memory", "0"), "--shared-memory takes quantities above 0"),
        (("--toleration", "a:Never"), "KEY[=VALUE][:EFFECT], such as nvidia.com/gpu:NoSchedule; received 'a:Never'"),
        (("--secret", "hunter2"), "--secret takes SECRET:KEY=VARIABLE; received something else"),
        (("--env", "hunter2"), "--env takes VARIABLE=VALUE; received something else"),
        (("--node-selector", "gpu"), "--node-selector takes LABEL=VALUE"),
        (("--data-dir", "/data"), "a path must be in the image or in a mounted volume; received '/data'"),
        (("--env", "AWS_SECRET_ACCESS_KEY=hunter2"), "mount it with --secret SECRET:KEY=AWS_SECRET_ACCESS_KEY"),
        (("--env", "A B=c"), "environment: A B: a variable's name is of letters"),
        (("--env", "A={{workflow.name}}"), "write a space between the braces"),
        (("--secret", "store:key=A B"), "environment: A B: a variable's name is of letters"),
        (("--image", "MNIST:1"), "image: --image: an image is [HOST[:PORT]/]NAME[:TAG][@DIGEST]"),
        (("--gpus", "1", "--gpu-image", "mnist:"), "image: --gpu-image: an image is"),
        (("--pvc", "models=models"), "mount: --pvc.mountPath: a volume is mounted at an absolute path of its own"),
        (("--pvc", "a=/data", "--pvc", "b=/data"), "at an absolute path of its own; received '/data'"),
        (("--beam-arg=--x=AKIAHUNTER2XHUNTER2X",), "a package holds no secret; received an access key of AWS"),
        (("--output", "/nowhere/there.yaml"), "a file in a folder that exists; /nowhere does not"),
        (("--dataset", "digits"), "--data-dir must name its folder or URL"),
        (("--model", "rnn"), "invalid choice: 'rnn'"),
    ],
    ids=lambda value: "=".join(value) if isinstance(value, tuple) else "",
)
def test_what_makes_no_package_is_refused_in_one_line(arguments, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert runner_kfp.main(["compile", "--image", "a", *arguments]) == 2
    stderr = capfd.readouterr().err
    assert message in stderr
    assert stderr.count("\n") == 1
    assert "hunter2" not in stderr
    assert not list(tmp_path.iterdir())


def test_gpus_of_a_config_file_are_said_for_the_nodes_too(tmp_path, capfd):
    (tmp_path / "own.toml").write_text("gpus = 2")
    assert runner_kfp.main(["compile", "--image", "a", "--config", str(tmp_path / "own.toml")]) == 2
    assert "say how many a node must have with --gpus N" in capfd.readouterr().err


def test_a_profile_must_be_in_the_image_and_have_a_floor_for_each_model(tmp_path, capfd):
    profile = tmp_path / "own.toml"
    (tmp_path / "own.pbtxt").write_text("")
    floors = "\n".join(f"{model} = 0.5" for model in MODELS)
    profile.write_text(f'schema = "own.pbtxt"\n[model-gate.accuracy]\n{floors}\n')
    arguments = ["compile", "--image", "a", "--profile", str(profile), "--output", str(tmp_path / "pipeline.yaml")]
    assert runner_kfp.main(arguments) == 2
    assert "so a profile's schema must be one of them" in capfd.readouterr().err
    profile.write_text('schema = "own.pbtxt"\n[model-gate.accuracy]\ncnn = 0.5\n')
    assert runner_kfp.main(arguments) == 2
    assert "has no [model-gate.accuracy] linear, dnn, dnn_dropout, keras_cnn, mlp, fast, best" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [("a", "--gpus", "-1"), ("MNIST:1",), ("a", "--pvc", "models=models")])
def test_wrong_flags_are_refused_before_tensorflow_is_imported(arguments):
    code = (
        f"import sys, runner_kfp; code = runner_kfp.main(['compile', '--image', *{arguments!r}]); "
        "sys.exit(code != 2 or any(name in sys.modules for name in ('tensorflow', 'tfx', 'kfp')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True).returncode == 0


def levels(spec):
    """Returns the number of tasks on the longest way through the graph, the report included."""
    tasks = tasks_of(spec) | {"report": {"dependentTasks": list(NODES)}}

    def level(name):
        return 1 + max(map(level, tasks[name].get("dependentTasks", ())), default=0)

    return max(map(level, tasks))


def test_few_tasks_follow_one_another(package):
    # Each level costs a minute of drivers, pods and waiting, whatever its work.
    assert (len(tasks_of(package[0])), levels(package[0])) == (12, 8)
    searched, _ = packages.documents(*packages.DIGITS, "--tune", "3")
    assert (len(tasks_of(searched)), levels(searched)) == (13, 9)


def test_training_waits_for_the_data_gate_and_a_transform_cannot_hide_its_findings(package):
    tasks = tasks_of(package[0])
    assert "data-gate" in tasks["train"]["dependentTasks"]
    assert "data-check" in tasks["transform"]["dependentTasks"]


def test_a_search_is_one_more_task_whose_winner_the_training_takes(package):
    spec, kubernetes = packages.documents(*packages.DIGITS, "--tune", "3", "--dropout", "0.1", "--gpus", "1")
    tasks, before = tasks_of(spec), tasks_of(package[0])
    assert list(set(tasks) - set(before)) == ["tune"]
    assert set(before["train"]["inputs"]["artifacts"]) == {"examples", "transform_graph", "schema"}
    assert tasks["train"]["inputs"]["artifacts"]["hyperparameters"] == {
        "taskOutputArtifact": {"producerTask": "tune", "outputArtifactKey": "best_hyperparameters"}
    }
    assert "data-gate" in tasks["tune"]["dependentTasks"]
    task_inputs = tasks["tune"]["inputs"]["parameters"]
    assert task_inputs["model_type"] == {"componentInputParameter": "model"}
    assert task_inputs["learning_rate"] == {"componentInputParameter": "learning_rate"}
    config = json.loads(task_inputs["custom_config"]["runtimeValue"]["constant"])
    assert (config["trials"], config["fixed"], config["checkpoints"]) == (3, ["dropout"], "")
    assert config["run_defaults"]["dropout"] == 0.1
    splits = [
        json.loads(task_inputs[name]["runtimeValue"]["constant"])["splits"] for name in ("train_args", "eval_args")
    ]
    assert splits == [["train"], ["val"]]
    assert tasks["tune"]["cachingOptions"] == {"enableCache": True}
    assert container(spec, "tune")["resources"]["accelerator"]["resourceCount"] == "1"
    assert container(spec, "report")["args"][3].split(",").index("tune") == NODES.index("train")
    assert "exec-tune" in kubernetes["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.mark.parametrize(
    "arguments", [(), ("--tune", "3"), ("--workers", "2"), ("--gpus", "1", "--shared-memory", "2Gi", "--retries", "0")]
)
def test_every_package_holds_what_servers_and_runners_ask_for(arguments):
    """No package has fields that the open-source server drops or kfp's own runner misreads."""
    spec, kubernetes = packages.documents(*packages.DIGITS, *arguments)
    components, executors = spec["components"], spec["deploymentSpec"]["executors"]
    assert spec["sdkVersion"]
    assert spec["schemaVersion"] == "2.1.0"  # the only one that servers accept
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,127}", spec["pipelineInfo"]["name"])
    assert list(kubernetes["platforms"]) == ["kubernetes"]
    assert set(kubernetes["platforms"]["kubernetes"]["deploymentSpec"]["executors"]) <= set(executors)
    for executor in executors.values():
        quantities = executor["container"].get("resources", {})
        for name in ("Cpu", "Memory"):
            bounds = [quantities.get(f"resource{name}{bound}") for bound in ("Request", "Limit")]
            request, limit = (resources.amount(name, text) for text in bounds)
            assert 0 < request <= limit
    for name, parameter in spec["root"]["inputDefinitions"]["parameters"].items():
        types: dict[str, set[type]] = {"STRING": {str}, "NUMBER_INTEGER": {int}, "NUMBER_DOUBLE": {int, float}}
        assert type(parameter["defaultValue"]) in types[parameter["parameterType"]], name
    graphs = [(name, item) for name, item in {"root": spec["root"], **components}.items() if "dag" in item]
    for graph, component in graphs:
        tasks = component["dag"]["tasks"]
        for name, task in tasks.items():
            inner = components[task["componentRef"]["name"]]
            assert task["componentRef"]["name"].startswith("comp-")  # which kfp's runner cuts off, as exec-
            assert task["taskInfo"]["name"] == name
            assert set(task.get("dependentTasks", ())) <= set(tasks)
            assert "artifactIterator" not in task
            assert "dag" in inner or "cachingOptions" in task
            assert task.get("retryPolicy", {}).get("maxRetryCount", 0) >= 0
            if task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED":
                assert task["dependentTasks"]
            declared = inner.get("inputDefinitions", {})
            assert not set(declared.get("parameters", {})) & set(declared.get("artifacts", {}))
            for kind in ("parameters", "artifacts"):
                task_inputs, declared_inputs = task.get("inputs", {}).get(kind, {}), declared.get(kind, {})
                assert set(task_inputs) <= set(declared_inputs), f"{graph}.{name}"
                assert {key for key, item in declared_inputs.items() if not item.get("isOptional")} <= set(
                    task_inputs
                ), f"{graph}.{name}"
                assert not {"module_file", "module_path"} & set(task_inputs)
                for source in task_inputs.values():
                    _check_source(source, component, tasks, components)
    containers: dict[str, list[str]] = {}
    for name, component in components.items():
        for side in ("inputDefinitions", "outputDefinitions"):
            for artifact in component.get(side, {}).get("artifacts", {}).values():
                kind = artifact["artifactType"]
                assert kind.get("schemaTitle") or "title:" in kind["instanceSchema"]
        if "dag" not in component:
            assert component["executorLabel"].startswith("exec-")
            definition = executors[component["executorLabel"]]["container"]
            assert definition["image"]
            assert definition["command"]
            assert "lifecycle" not in definition
            # The server keeps components by the hash of their container, and takes two alike for one.
            containers.setdefault(json.dumps(definition, sort_keys=True), []).append(name)
    assert max(map(len, containers.values())) == 1
    assert not [text for text in json.dumps(spec).split('"') if text.endswith(".whl") or "pip install" in text]
    for pod in kubernetes["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        assert "enabledSharedMemory" not in pod
        for entry in pod.get("secretAsEnv", ()):
            assert entry["secretName"]


def _check_source(source, component, tasks, components):
    """An input comes from the graph around it or from an output that is there."""
    for key, kind in (("componentInputParameter", "parameters"), ("componentInputArtifact", "artifacts")):
        if key in source:
            assert source[key] in component["inputDefinitions"][kind]
    for key, output in (("taskOutputArtifact", "outputArtifactKey"), ("taskOutputParameter", "outputParameterKey")):
        if key in source:
            producer = components[tasks[source[key]["producerTask"]]["componentRef"]["name"]]
            definition = producer["outputDefinitions"]
            assert source[key][output] in {**definition.get("artifacts", {}), **definition.get("parameters", {})}


@pytest.mark.parametrize("image", ["MNIST:latest", "https://r/m:1", "mn ist"])
def test_malformed_image_is_refused(image, tmp_path, capfd):
    assert runner_kfp.main(["compile", "--image", image, "--output", str(tmp_path / "p.yaml")]) == 2
    error = capfd.readouterr().err
    assert f"received '{image}'" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
