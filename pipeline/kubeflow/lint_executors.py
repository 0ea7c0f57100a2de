# SPDX-License-Identifier: Apache-2.0
"""The rules about executors: what runs, with which command, resources and environment."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from components.errors import BadInput
from pipeline.kubeflow import resources
from pipeline.kubeflow.finding import Finding

Json = dict[str, Any]

_ENTRYPOINT, _REPORT = "pipeline.kubeflow.entrypoint", "pipeline.kubeflow.report"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check(spec: Json, executors: Mapping[str, Json]) -> Iterator[Finding]:
    """Looks at the executors of a PipelineSpec that has the form of one."""
    for label, executor in executors.items():
        if "container" in executor:
            yield from _container(label, executor["container"])
        elif "importer" in executor:
            yield from _importer(label, executor["importer"])
        else:
            kind = next(iter(executor), "nothing")
            yield Finding(
                "executor-kind", label, f"the server runs containers and importers; found {kind}",
                "find the input in an ordinary component instead of a Resolver node",
            )  # fmt: skip
    yield from _alike(spec.get("components", {}), executors)
    yield from _own(spec, executors)


def _container(label: str, container: Json) -> Iterator[Finding]:
    if not container.get("image"):
        yield Finding("image", label, "a container needs an image; found none", "compile with --image")
    if not container.get("command"):
        yield Finding(
            "command", label, "the server never uses an image's ENTRYPOINT: without a command, its launcher executes "
            "the first argument; found none", "set the command",
        )  # fmt: skip
    if "lifecycle" in container:
        yield Finding(
            "lifecycle", label, "the server ignores lifecycle hooks, so that a driver's work is not done; found one",
            "let the executor resolve its own input, instead of a FileBasedExampleGen",
        )  # fmt: skip
    yield from _resources(label, container.get("resources", {}))
    for variable in container.get("env", ()):
        if not _VARIABLE.fullmatch(variable.get("name", "")):
            found = f"{variable.get('name')!r} is no name of a variable"
            yield Finding("environment", label, found, "use letters, digits and _")


def _resources(label: str, needed: Json) -> Iterator[Finding]:
    for what in ("Cpu", "Memory"):
        amounts = {}
        for bound in ("Request", "Limit"):
            text = needed.get(f"resource{what}{bound}")
            if text is None or "{{" in text:
                continue
            try:
                amounts[bound] = resources.amount(f"resource{what}{bound}", text)
            except BadInput as error:
                yield Finding("resources", label, str(error), "write it as Kubernetes does")
        if len(amounts) == 2 and amounts["Request"] > amounts["Limit"]:
            found = f"a request must not be above its limit; found {what.lower()} {needed[f'resource{what}Request']}"
            yield Finding("resources", label, found, "raise the limit")
    if "accelerator" in needed:
        accelerator = needed["accelerator"]
        count = str(accelerator.get("resourceCount", ""))
        if not accelerator.get("resourceType") or not (count.isdigit() and int(count)):
            found = f"an accelerator needs resourceType and a resourceCount above 0; found {accelerator}"
            yield Finding("resources", label, found, "such as nvidia.com/gpu and 1")


def _importer(label: str, importer: Json) -> Iterator[Finding]:
    uri = importer.get("artifactUri", {})
    constant = uri.get("constant", uri.get("constantValue", {}).get("stringValue"))
    if constant is not None and "://" not in str(constant):
        found = f"an importer's URI needs a scheme; found {constant!r}"
        yield Finding("importer", label, found, "write it as s3://…, gs://… or minio://…")


def _alike(components: Mapping[str, Json], executors: Mapping[str, Json]) -> Iterator[Finding]:
    """The server keeps components by the hash of their container, so that of two alike it uses one for both."""
    seen: dict[str, tuple[str, Json]] = {}
    for name, component in components.items():
        container = executors.get(component.get("executorLabel", ""), {}).get("container")
        if container is None:
            continue
        interface = {side: component.get(side) for side in ("inputDefinitions", "outputDefinitions")}
        other, of_other = seen.setdefault(json.dumps(container, sort_keys=True), (name, interface))
        if interface != of_other:
            yield Finding(
                "same-container", name, "the server takes components with one container for one component; "
                f"{other} has the same and other inputs or outputs", "tell them apart by an argument",
            )  # fmt: skip


def _own(spec: Json, executors: Mapping[str, Json]) -> Iterator[Finding]:
    """Rules for packages of this project."""
    digests = set()
    for dag in (spec["root"], *spec.get("components", {}).values()):
        for name, task in dag.get("dag", {}).get("tasks", {}).items():
            component = spec.get("components", {}).get(task.get("componentRef", {}).get("name"), {})
            container = executors.get(component.get("executorLabel", ""), {}).get("container", {})
            command, args = container.get("command", ()), container.get("args", ())
            if _ENTRYPOINT not in command and _REPORT not in command:
                continue
            options = dict(itertools.pairwise(args))
            if options.get("--task") != name:
                found = f"its argument --task must be its name; found {options.get('--task')!r}"
                yield Finding("task-argument", f"task {name}", found, "compile it again")
            if _ENTRYPOINT in command:
                digests.add(options.get("--code_digest"))
            if name in resources.NEVER_CACHED and task.get("cachingOptions", {}).get("enableCache"):
                yield Finding(
                    "caching", f"task {name}", "it looks at what is outside of its inputs, to which the server's cache "
                    "is blind; found enableCache", "set cachingOptions: {}",
                )  # fmt: skip
    if len(digests) > 1 or None in digests:
        found = "every task must carry the digest of one code; found " + ", ".join(sorted(map(str, digests)))
        yield Finding("code-digest", "the executors", found, "compile it again")
