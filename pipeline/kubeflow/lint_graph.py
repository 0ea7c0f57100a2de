# SPDX-License-Identifier: Apache-2.0
"""The rules about pipeline, parameters, tasks and components."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.kubeflow.finding import Finding

Json = dict[str, Any]

SCHEMA_VERSION = "2.1.0"
AFTER_ALL = "ALL_UPSTREAM_TASKS_COMPLETED"
ROOT = "root"
_PIPELINE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
# Argo's own limit is 128; the server adds "-driver".
_TASK_NAME = re.compile(r"[a-zA-Z][-a-zA-Z0-9]{0,120}")
_KINDS: Mapping[str, tuple[type, ...]] = {
    "STRING": (str,), "NUMBER_INTEGER": (int,), "NUMBER_DOUBLE": (int, float), "BOOLEAN": (bool,), "LIST": (list,),
    "STRUCT": (dict,),
}  # fmt: skip


def check(spec: Json) -> Iterator[Finding]:
    """Looks at a PipelineSpec that has the form of one."""
    yield from _header(spec)
    yield from _parameters(spec["root"].get("inputDefinitions", {}).get("parameters", {}))
    components = spec.get("components", {})
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    if ROOT in components:
        yield Finding("component-name", ROOT, "root is the name of the whole; a component has it", "call it otherwise")
    for name, component in components.items():
        yield from _component(name, component, executors)
    for name, component in {ROOT: spec["root"], **components}.items():
        if "dag" in component:
            yield from _dag(name, component, components, executors)


def _header(spec: Json) -> Iterator[Finding]:
    version = spec.get("schemaVersion", "")
    if version != SCHEMA_VERSION:
        yield Finding(
            "schema-version", "schemaVersion", f"the server takes {SCHEMA_VERSION} only; found {version or 'none'}",
            "compile with use_pipeline_spec_2_1=True",
        )  # fmt: skip
    if not spec.get("sdkVersion"):
        yield Finding("sdk-version", "sdkVersion", "kfp refuses to load a package without it", "say what compiled it")
    name = spec.get("pipelineInfo", {}).get("name", "")
    if not _PIPELINE_NAME.fullmatch(name):
        yield Finding(
            "pipeline-name", "pipelineInfo.name", f"the name must match {_PIPELINE_NAME.pattern}; found {name!r}",
            "use lower case, digits and hyphens",
        )  # fmt: skip
    if "dag" not in spec.get("root", {}):
        yield Finding(
            "root", ROOT, "the root must be a graph of tasks; it has none", "compile a pipeline, no component"
        )


def _parameters(parameters: Mapping[str, Json]) -> Iterator[Finding]:
    for name, parameter in parameters.items():
        where = f"parameter {name}"
        kind = parameter.get("parameterType", "")
        if kind not in _KINDS:
            yield Finding(
                "parameter-type",
                where,
                f"the type must be one of {', '.join(_KINDS)}; found {kind or 'none'}",
                "say it",
            )
        elif "defaultValue" not in parameter:
            yield Finding(
                "default-value", where, "without a default, every run would have to set it; found none",
                "add defaultValue, which TFX's compiler leaves out",
            )  # fmt: skip
        elif not _has_kind(parameter["defaultValue"], kind):
            found = f"the default must be {kind}; found {parameter['defaultValue']!r}"
            yield Finding("default-value", where, found, "give one of that type")


def _has_kind(value: Any, kind: str) -> bool:
    if kind == "NUMBER_INTEGER" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _KINDS[kind]) and (kind == "BOOLEAN" or not isinstance(value, bool))


def _component(name: str, component: Json, executors: Mapping[str, Json]) -> Iterator[Finding]:
    label = component.get("executorLabel", "")
    if not name.startswith("comp-"):
        yield Finding(
            "component-name", name, "kfp's own runner cuts comp- off each component's name, whatever stands there",
            f"call it comp-{name}",
        )  # fmt: skip
    if "dag" in component:
        return
    if label not in executors:
        yield Finding("executor", name, f"a component has a graph or an executor; found {label!r}", "name one there is")
    elif not label.startswith("exec-"):
        yield Finding(
            "executor-name", label, "kfp's own runner cuts exec- off each executor's name, whatever stands there",
            f"call it exec-{label}",
        )  # fmt: skip
    inputs = component.get("inputDefinitions", {})
    for key in sorted(set(inputs.get("parameters", {})) & set(inputs.get("artifacts", {}))):
        found = f"{key} is a parameter and an artifact, and kfp's own runner takes one for the other"
        yield Finding("input-name", name, found, "call one of them otherwise")
    for side in ("inputDefinitions", "outputDefinitions"):
        for key, artifact in component.get(side, {}).get("artifacts", {}).items():
            kind = artifact.get("artifactType", {})
            if not (kind.get("schemaTitle") or "title:" in kind.get("instanceSchema", "")):
                found = f"{key} must have a type with a title; found {kind or 'none'}"
                yield Finding("artifact-type", name, found, "give schemaTitle, or an instanceSchema with a title")


def _dag(
    name: str, component: Json, components: Mapping[str, Json], executors: Mapping[str, Json]
) -> Iterator[Finding]:
    tasks = component["dag"].get("tasks", {})
    if not any(task.get("triggerPolicy", {}).get("strategy") != AFTER_ALL for task in tasks.values()):
        yield Finding("tasks", name, "a graph needs a task that is no exit task; found none", "add one")
    for key, task in tasks.items():
        where = f"task {key}" if name == ROOT else f"task {key} of {name}"
        if not _TASK_NAME.fullmatch(key):
            yield Finding(
                "task-name", where, f"Argo refuses, when a run starts, what does not match {_TASK_NAME.pattern}",
                "use letters, digits and hyphens",
            )  # fmt: skip
        if (shown := task.get("taskInfo", {}).get("name", key)) != key:
            found = f"taskInfo.name must be the task's own name, by which others find it; found {shown!r}"
            yield Finding("task-name", where, found, f"call it {key}")
        if "artifactIterator" in task:
            found = "the server has not implemented artifactIterator; found one"
            yield Finding("iterator", where, found, "iterate over a parameter")
        reference = task.get("componentRef", {}).get("name", "")
        if reference not in components:
            yield Finding("component", where, f"its component must be there; found {reference!r}", "name one there is")
            continue
        yield from _caching(where, task, components[reference])
        yield from _importer(where, task, executors.get(components[reference].get("executorLabel", ""), {}))
        yield from _policies(where, task)
        yield from _inputs(where, task, component, tasks, components)


def _caching(where: str, task: Json, component: Json) -> Iterator[Finding]:
    if "dag" not in component and "cachingOptions" not in task:
        yield Finding(
            "caching", where, "each task says whether its results may be used again, or the server's default decides",
            "add cachingOptions: {} or cachingOptions: {enableCache: true}",
        )  # fmt: skip


def _importer(where: str, task: Json, executor: Json) -> Iterator[Finding]:
    if "importer" in executor and task.get("triggerPolicy", {}).get("condition"):
        yield Finding(
            "importer", where, "an importer cannot have a condition; found one", "put it into a graph of its own"
        )


def _policies(where: str, task: Json) -> Iterator[Finding]:
    retries = task.get("retryPolicy", {}).get("maxRetryCount", 0)
    if retries < 0:
        yield Finding("retries", where, f"maxRetryCount counts from 0; found {retries}", "give 0 or more")
    if task.get("triggerPolicy", {}).get("strategy") == AFTER_ALL and not task.get("dependentTasks"):
        found = "a task that runs however others end must depend on them; found no dependentTasks"
        yield Finding("exit-task", where, found, "name the task that it follows")


def _inputs(
    where: str, task: Json, parent: Json, tasks: Mapping[str, Json], components: Mapping[str, Json]
) -> Iterator[Finding]:
    for needed in task.get("dependentTasks", ()):
        if needed not in tasks:
            yield Finding(
                "dependency", where, f"it depends on {needed!r}, which is not in its graph", "name a task there"
            )
    declared = components[task["componentRef"]["name"]].get("inputDefinitions", {})
    of_parent = parent.get("inputDefinitions", {})
    for kind in ("parameters", "artifacts"):
        given = task.get("inputs", {}).get(kind, {})
        known = declared.get(kind, {})
        for key in sorted(set(given) - set(known)):
            yield Finding("input", where, f"its component has no input {key!r} among its {kind}", "declare it there")
        for key in sorted(set(known) - set(given)):
            if not known[key].get("isOptional"):
                yield Finding("input", where, f"its component needs the input {key!r}; the task gives none", "give it")
        for key, source in given.items():
            outer = source.get("componentInputParameter" if kind == "parameters" else "componentInputArtifact")
            if outer is not None and outer not in of_parent.get(kind, {}):
                found = f"its input {key!r} comes from {outer!r}, which the graph around it does not have"
                yield Finding("input", where, found, "declare it as an input of the graph")
            yield from _producer(where, key, source, tasks, components)


def _producer(
    where: str, key: str, source: Json, tasks: Mapping[str, Json], components: Mapping[str, Json]
) -> Iterator[Finding]:
    for kind, name_of_key in (
        ("taskOutputParameter", "outputParameterKey"),
        ("taskOutputArtifact", "outputArtifactKey"),
    ):
        made = source.get(kind)
        if made is None:
            continue
        producer, output = made.get("producerTask"), made.get(name_of_key)
        if producer not in tasks:
            yield Finding(
                "producer", where, f"its input {key!r} comes from the task {producer!r}, which is not in its graph",
                "name a task there; future().value as an execution property names one that does not exist",
            )  # fmt: skip
            continue
        component = components.get(tasks[producer].get("componentRef", {}).get("name", ""), {})
        made_by_it = component.get("outputDefinitions", {})
        if not any(output in made_by_it.get(side, {}) for side in ("parameters", "artifacts")):
            yield Finding("producer", where, f"{producer} has no output {output!r}", "name one that it has")
