# SPDX-License-Identifier: Apache-2.0
"""The compiled package: the graph as PipelineSpec for the open-source server, and the Kubernetes document.

TFX's compiler writes for Vertex AI. This module adapts its result to the open-source server; `pipeline.kubeflow.checks`
or the tests check each rule.
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
    "Ingests, validates and transforms images of digits, trains a network, evaluates it, and pushes it if blessed."
)
EXIT_HANDLER, REPORT = "exit-handler-1", "report"
ENTRYPOINT = ("python", "-m", "pipeline.kubeflow.entrypoint")
REPORT_COMMAND = ("python", "-m", "pipeline.kubeflow.report")
SHORT = {"--executor_class_path": "--executor", "--json_serialized_invocation_args": "--input"}
INPUTS_SPEC = "--json_serialized_inputs_spec_args"
DIGEST_LENGTH = 16  # hexadecimal digits of the code's SHA-256
REPORT_OUTPUTS = {
    "html": "system.HTML",
    "metrics": "system.Metrics",
    "classification_metrics": "system.ClassificationMetrics",
    "record": "system.Artifact",
}

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ContainerImages:
    """The container images of tasks on processors and of tasks on accelerators."""

    cpu: str
    gpu: str


def compile_graph(config: Settings, training: Mapping[str, Any], images: ContainerImages, needs: Needs) -> list[Json]:
    """Compiles the graph.

    Args:
        config: settings of the package; its schema must be a file of the project, as the image has no others.
        training: see `parameters.declare`.
        images: of the containers.
        needs: of the tasks.

    Returns:
        The PipelineSpec and the Kubernetes document.

    Raises:
        BadInput: the schema is not in the image.
    """
    declared = parameters.declare(config, training)
    record = parameters.differences(parameters.record(config))
    nodes = graph.build(config, _run_inputs(config, declared, record))
    names = [node.id for node in nodes]
    compiled = _compile(nodes, config.beam_args)
    digest = code_digest.of_project()[:DIGEST_LENGTH]

    components: Json = {}
    executors: Json = {}
    tasks: Json = {}
    for name in names:
        component, task = compiled["components"][name], compiled["root"]["dag"]["tasks"][name]
        container = compiled["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        components[f"comp-{name}"] = {**_reduce_types(component), "executorLabel": f"exec-{name}"}
        tasks[name] = _task(name, needs, task)
        executors[f"exec-{name}"] = {"container": container | {"image": images.cpu} | needs.container(name)}
        container = executors[f"exec-{name}"]["container"]
        container["args"] = [*_arguments(container["args"]), "--task", name, "--code_digest", digest]
        container["args"] += ["--retries", str(needs.retries)]
        if "accelerator" in container["resources"]:
            container["image"] = images.gpu
        if needs.launches(name):
            tfjob_manifest.launch(tasks[name], needs, images.gpu if needs.gpus_per_worker else images.cpu, digest)
    of_push = [parameter for parameter in declared if parameter.name in parameters.PROVENANCE_PARAMETERS]
    _pass_parameters(components["comp-push"], tasks["push"], of_push, parameters.RUN_PREFIX)
    _add_report(components, executors, names, images, needs)
    return [
        {
            "pipelineInfo": {"name": PIPELINE, "description": DESCRIPTION},
            "schemaVersion": "2.1.0",
            "sdkVersion": compiled["sdkVersion"],
            "root": _root(components, tasks, declared, _json(record), needs),
            "components": components,
            "deploymentSpec": {"executors": executors},
        },
        _kubernetes([*names, REPORT], needs),
    ]


def dump(documents: Sequence[Json]) -> str:
    """Returns the package's text; the same for the same documents."""
    return yaml.safe_dump_all(documents, sort_keys=True, width=120, allow_unicode=True)


def _run_inputs(config: Settings, declared: Sequence[Parameter], record: Json) -> graph.RunInputs:
    by_name = {
        parameter.name: RuntimeParameter(parameter.name, parameter.kind, parameter.default, parameter.description)
        for parameter in declared
    }
    rest = {name: by_name.pop(name) for name in ("data_dir", "span", "allow")}
    del by_name["force_push"]  # push gets it with the run's other parameters
    return graph.RunInputs(
        model_dir=by_name.pop("serving_dir"),
        dataset=config.dataset if config.dataset != source.AUTO else source.CUSTOM,
        data_sha256="",
        schema=parameters.record(config)["schema"],
        hyperparameters=by_name,
        serving_state="",
        checkpoints="",
        # The task itself adds the run's id and parameters, and the digests of the image's code.
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
            pipeline_root="",  # set by each run
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
    for parameter in compiled.get("inputs", {}).get("parameters", {}).values():
        constant = parameter.get("runtimeValue", {}).get("constant")
        if isinstance(constant, str) and constant.startswith("{"):
            parameter["runtimeValue"]["constant"] = _json(json.loads(constant))
    return {
        **compiled,
        "componentRef": {"name": f"comp-{name}"},
        # Results of a task without inputs may be below the root of another run, where the launcher does not find them.
        "cachingOptions": {"enableCache": True} if artifacts and name not in NEVER_CACHED else {},
        **needs.task(name),
    }


def _reduce_types(component: Json) -> Json:
    """Returns the component with its artifacts' types reduced to their titles, which are all that the server reads.

    The server stores six or more copies of each component (`pipeline.kubeflow.size`).
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
    """Returns the arguments of TFX's entrypoint in the short form of `pipeline.kubeflow.entrypoint`."""
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


def _pass_parameters(component: Json, task: Json, declared: Sequence[Parameter], prefix: str = "") -> None:
    """Passes parameters of the run to a task, with a prefix if the task has inputs of the same names."""
    definitions = component.setdefault("inputDefinitions", {}).setdefault("parameters", {})
    inputs = task.setdefault("inputs", {}).setdefault("parameters", {})
    for parameter in declared:
        definitions[prefix + parameter.name] = {"parameterType": parameters.KINDS[parameter.kind]}
        inputs[prefix + parameter.name] = {"componentInputParameter": parameter.name}


def _add_report(components: Json, executors: Json, names: Sequence[str], images: ContainerImages, needs: Needs) -> None:
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


def _root(components: Json, tasks: Json, declared: Sequence[Parameter], record: str, needs: Needs) -> Json:
    """Returns the graph as one task, with the report as its exit handler, like `dsl.ExitHandler` of kfp."""
    exit_handler: Json = {"taskInfo": {"name": EXIT_HANDLER}, "componentRef": {"name": f"comp-{EXIT_HANDLER}"}}
    components[f"comp-{EXIT_HANDLER}"] = {"dag": {"tasks": tasks}}
    _pass_parameters(components[f"comp-{EXIT_HANDLER}"], exit_handler, declared)

    report: Json = {
        "taskInfo": {"name": REPORT},
        "inputs": {"parameters": {"config": {"runtimeValue": {"constant": record}}}},
        "dependentTasks": [EXIT_HANDLER],
        "triggerPolicy": {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"},
    }
    _pass_parameters(components[f"comp-{REPORT}"], report, declared)
    return {
        "dag": {"tasks": {EXIT_HANDLER: exit_handler, REPORT: _task(REPORT, needs, report)}},
        "inputDefinitions": {
            "parameters": {
                parameter.name: {
                    "parameterType": parameters.KINDS[parameter.kind],
                    "defaultValue": parameter.default,
                    "isOptional": True,
                    "description": parameter.description,
                }
                for parameter in declared
            }
        },
    }


def _kubernetes(names: Sequence[str], needs: Needs) -> Json:
    pods = {f"exec-{name}": pod for name in names if (pod := needs.pod(name))}
    return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": pods}}}}
