# SPDX-License-Identifier: Apache-2.0
"""The compiled package: the graph as PipelineSpec for the open-source server, and the Kubernetes document beside it.

TFX's compiler writes for Vertex AI. What the open-source server wants otherwise is put right here, on its result; every
rule is checked in `pipeline.kubeflow.checks` or in the tests.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from tfx.dsl.components.base.base_node import BaseNode
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

from components.ingest import source
from pipeline import code_digest, graph
from pipeline.kubeflow import parameters
from pipeline.kubeflow.parameters import Parameter
from pipeline.kubeflow.resources import NEVER_CACHED, Needs
from pipeline.kubeflow.training_job import tfjob_manifest
from pipeline.settings import Settings

PIPELINE = "mnist-tfx"
DESCRIPTION = (
    "Ingests, validates and transforms images of digits, trains a network, judges it, and pushes what is blessed."
)
EXIT_HANDLER, REPORT = "exit-handler-1", "report"
ENTRYPOINT = ("python", "-m", "pipeline.kubeflow.entrypoint")
REPORT_COMMAND = ("python", "-m", "pipeline.kubeflow.report")
SHORT = {"--executor_class_path": "--executor", "--json_serialized_invocation_args": "--input"}
INPUTS_SPEC = "--json_serialized_inputs_spec_args"
# Of the code's SHA-256, in hexadecimal digits.
DIGEST_LENGTH = 16
REPORT_OUTPUTS = {
    "html": "system.HTML",
    "metrics": "system.Metrics",
    "classification_metrics": "system.ClassificationMetrics",
    "record": "system.Artifact",
}

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Images:
    """Container images: of every task, and of what runs on accelerators."""

    cpu: str
    gpu: str


def compile_graph(config: Settings, training: Mapping[str, Any], images: Images, needs: Needs) -> list[Json]:
    """Compiles the graph.

    Args:
        config: what to compile; its schema must be one of the built-in ones, as the image holds no other file.
        training: see `parameters.declare`.
        images: of the containers.
        needs: of the tasks.

    Returns:
        The PipelineSpec and the Kubernetes document.

    Raises:
        BadInput: the schema is not in the image.
    """
    told = parameters.declare(config, training)
    record = parameters.differences(parameters.record(config))
    nodes = graph.build(config, _place(config, told, record))
    names = [node.id for node in nodes]
    compiled = _compile(nodes, config.beam_args)
    digest = code_digest.of_project()[:DIGEST_LENGTH]

    components: Json = {}
    executors: Json = {}
    tasks: Json = {}
    for name in names:
        component, task = compiled["components"][name], compiled["root"]["dag"]["tasks"][name]
        container = compiled["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        components[f"comp-{name}"] = {**_titled(component), "executorLabel": f"exec-{name}"}
        tasks[name] = _task(name, needs, task)
        executors[f"exec-{name}"] = {"container": container | {"image": images.cpu} | needs.container(name)}
        container = executors[f"exec-{name}"]["container"]
        container["args"] = [*_arguments(container["args"]), "--task", name, "--code_digest", digest]
        container["args"] += ["--retries", str(needs.retries)]
        if "accelerator" in container["resources"]:
            container["image"] = images.gpu
        if needs.launches(name):
            tfjob_manifest.launch(tasks[name], needs, images.gpu if needs.gpus_per_worker else images.cpu, digest)
    of_push = [one for one in told if one.name in parameters.PROVENANCE_PARAMETERS]
    _tell(components["comp-push"], tasks["push"], of_push, parameters.RUN_PREFIX)
    _add_report(components, executors, names, told, images, needs)
    return [
        {
            "pipelineInfo": {"name": PIPELINE, "description": DESCRIPTION},
            "schemaVersion": "2.1.0",
            "sdkVersion": compiled["sdkVersion"],
            "root": _root(components, tasks, told, _json(record), needs),
            "components": components,
            "deploymentSpec": {"executors": executors},
        },
        _kubernetes([*names, REPORT], needs),
    ]


def dump(documents: Sequence[Json]) -> str:
    """The package's text; the same for the same documents."""
    return yaml.safe_dump_all(documents, sort_keys=True, width=120, allow_unicode=True)


def _place(config: Settings, told: Sequence[Parameter], record: Json) -> graph.RunInputs:
    by_name = {one.name: RuntimeParameter(one.name, one.kind, one.default, one.description) for one in told}
    rest = {name: by_name.pop(name) for name in ("data_dir", "span", "allow")}
    del by_name["force_push"]  # push gets it with the other parameters of the run
    return graph.RunInputs(
        model_dir=by_name.pop("serving_dir"),
        dataset=config.dataset if config.dataset != source.AUTO else source.CUSTOM,
        data_sha256="",
        schema=parameters.record(config)["schema"],
        hyperparameters=by_name,
        serving_state="",
        checkpoints="",
        # The run's id and parameters, and the digests of the image's code, are put in where the task runs.
        run={"config": record, "git_commit": code_digest.provenance()["git_commit"], "dataset_choice": None},
        **rest,
    )


def _compile(nodes: Sequence[BaseNode], beam_args: Sequence[str]) -> Json:
    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
        kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
            default_image="image", default_commands=list(ENTRYPOINT), use_pipeline_spec_2_1=True
        )
    )
    job = runner.run(
        tfx_pipeline.Pipeline(
            pipeline_name=PIPELINE,
            pipeline_root="",  # given with each run
            components=list(nodes),
            enable_cache=True,
            beam_pipeline_args=list(beam_args),
        ),
        write_out=False,
    )
    spec: Json = job["pipelineSpec"]
    return spec


def _task(name: str, needs: Needs, compiled: Json) -> Json:
    compiled = copy.deepcopy(compiled)
    artifacts = compiled.get("inputs", {}).get("artifacts")
    for given in compiled.get("inputs", {}).get("parameters", {}).values():
        constant = given.get("runtimeValue", {}).get("constant")
        if isinstance(constant, str) and constant.startswith("{"):
            given["runtimeValue"]["constant"] = _json(json.loads(constant))
    return {
        **compiled,
        "componentRef": {"name": f"comp-{name}"},
        # Without an input from another task, a former result may lie below another root, where the launcher finds none.
        "cachingOptions": {"enableCache": True} if artifacts and name not in NEVER_CACHED else {},
        **needs.task(name),
    }


def _titled(component: Json) -> Json:
    """The component with no more of its artifacts' types than their titles, which is all that the server reads.

    The server keeps every component in six copies and more (`pipeline.kubeflow.size`).
    """
    definitions = {
        kind: {
            **component[kind],
            "artifacts": {
                key: {"artifactType": {"schemaTitle": _title(definition)}}
                for key, definition in component[kind].get("artifacts", {}).items()
            },
        }
        for kind in ("inputDefinitions", "outputDefinitions")
        if "artifacts" in component.get(kind, {})
    }
    return {**component, **definitions}


def _title(definition: Json) -> str:
    return str(yaml.safe_load(definition["artifactType"]["instanceSchema"])["title"])


def _arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of TFX's entrypoint in the short form that ours reads."""
    arguments = [SHORT.get(argument, argument) for argument in arguments]
    position = arguments.index(INPUTS_SPEC)
    spec = json.loads(arguments[position + 1])
    inputs = [f"{key}={_title(definition)}" for key, definition in spec.get("artifacts", {}).items()]
    inputs += [
        f"{key}={parameters.INTEGER}"
        for key, definition in spec.get("parameters", {}).items()
        if definition.get("parameterType") == parameters.INTEGER
    ]
    return [*arguments[:position], *(["--inputs", ",".join(inputs)] if inputs else []), *arguments[position + 2 :]]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _tell(component: Json, task: Json, told: Sequence[Parameter], prefix: str = "") -> None:
    """Gives a task every parameter of the run, with a prefix where the task has inputs of the same name."""
    declared = component.setdefault("inputDefinitions", {}).setdefault("parameters", {})
    given = task.setdefault("inputs", {}).setdefault("parameters", {})
    for one in told:
        declared[prefix + one.name] = {"parameterType": parameters.KINDS[one.kind]}
        given[prefix + one.name] = {"componentInputParameter": one.name}


def _add_report(
    components: Json, executors: Json, names: Sequence[str], told: Sequence[Parameter], images: Images, needs: Needs
) -> None:
    components[f"comp-{REPORT}"] = {
        "executorLabel": f"exec-{REPORT}",
        "inputDefinitions": {"parameters": {"config": {"parameterType": "STRING"}}},
        "outputDefinitions": {
            "artifacts": {
                key: {"artifactType": {"schemaTitle": title, "schemaVersion": "0.0.1"}}
                for key, title in REPORT_OUTPUTS.items()
            }
        },
    }
    args = ["--task", REPORT, "--stages", ",".join(names), "--input", "{{$}}", "--retries", str(needs.retries)]
    executors[f"exec-{REPORT}"] = {
        "container": {"image": images.cpu, "command": list(REPORT_COMMAND), "args": args, **needs.container(REPORT)}
    }


def _root(components: Json, tasks: Json, told: Sequence[Parameter], record: str, needs: Needs) -> Json:
    """The graph as one task, and after it, however it ends, the report; the shape of kfp's own `dsl.ExitHandler`."""
    whole: Json = {"taskInfo": {"name": EXIT_HANDLER}, "componentRef": {"name": f"comp-{EXIT_HANDLER}"}}
    components[f"comp-{EXIT_HANDLER}"] = {"dag": {"tasks": tasks}}
    _tell(components[f"comp-{EXIT_HANDLER}"], whole, told)

    report: Json = {
        "taskInfo": {"name": REPORT},
        "inputs": {"parameters": {"config": {"runtimeValue": {"constant": record}}}},
        "dependentTasks": [EXIT_HANDLER],
        "triggerPolicy": {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"},
    }
    _tell(components[f"comp-{REPORT}"], report, told)
    return {
        "dag": {"tasks": {EXIT_HANDLER: whole, REPORT: _task(REPORT, needs, report)}},
        "inputDefinitions": {
            "parameters": {
                one.name: {
                    "parameterType": parameters.KINDS[one.kind],
                    "defaultValue": one.default,
                    "isOptional": True,
                    "description": one.description,
                }
                for one in told
            }
        },
    }


def _kubernetes(names: Sequence[str], needs: Needs) -> Json:
    pods = {f"exec-{name}": pod for name in names if (pod := needs.pod(name))}
    return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": pods}}}}
