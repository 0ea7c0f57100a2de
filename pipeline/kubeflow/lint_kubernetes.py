# SPDX-License-Identifier: Apache-2.0
"""The rules about the second document: nodes, volumes, secrets. The server drops what is misspelt there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from components.errors import BadInput
from pipeline.kubeflow import message, resources
from pipeline.kubeflow.finding import Finding

Json = dict[str, Any]

_PLATFORM = "kubernetes"
# The format has them, and no code of the server reads them.
_UNREAD = {"enabledSharedMemory": "emptyDirMounts with medium Memory at /dev/shm", "podAffinity": "nodeAffinity"}
_CHOICES: Mapping[str, Mapping[str, frozenset[str]]] = {
    "tolerations": {
        "operator": frozenset({"Exists", "Equal"}),
        "effect": frozenset({"NoSchedule", "PreferNoSchedule", "NoExecute"}),
    },
    "emptyDirMounts": {"medium": frozenset({"Memory", ""})},
}
_PULL_POLICIES = frozenset({"Always", "Never", "IfNotPresent"})
# Field of a list -> the fields of which one must name what is meant.
_NAMES = {
    "secretAsEnv": ("secretName", "secretNameParameter"),
    "secretAsVolume": ("secretName", "secretNameParameter"),
    "configMapAsEnv": ("configMapName", "configMapNameParameter"),
    "configMapAsVolume": ("configMapName", "configMapNameParameter"),
    "pvcMount": ("constant", "taskOutputParameter", "componentInputParameter", "pvcNameParameter"),
    "imagePullSecret": ("secretName", "secretNameParameter"),
}


def check(documents: Sequence[Any], executors: Mapping[str, Json]) -> Iterator[Finding]:
    """Looks at the documents beside the PipelineSpec.

    Args:
        documents: parsed.
        executors: those of the PipelineSpec, by label.
    """
    where = "the second document"
    if len(documents) > 1:
        yield Finding(
            "documents", where, f"a package has one besides the PipelineSpec; found {len(documents)}", "join them"
        )
    for document in documents:
        said, error = message.parse(document, pipeline_spec_pb2.PlatformSpec)
        if error:
            found = f"the server ignores all of a document with an unknown field; {error}"
            yield Finding("platform", where, found, "write platforms.kubernetes.deploymentSpec.executors")
            continue
        platforms = said.get("platforms", {})
        for name in sorted(set(platforms) - {_PLATFORM}) or ([] if platforms else ["none"]):
            found = f"the server knows the platform {_PLATFORM} only, and ignores others; found {name}"
            yield Finding("platform", where, found, f"write platforms.{_PLATFORM}")
        for label, config in _configs(said).items():
            yield from _executor(label, config, executors)


def mounts(documents: Sequence[Any]) -> frozenset[str]:
    """Every path at which a volume is mounted in some container."""
    found = set()
    for document in documents:
        said, _ = message.parse(document, pipeline_spec_pb2.PlatformSpec)
        for config in _configs(said).values():
            for entries in message.parse(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig)[0].values():
                if isinstance(entries, list):
                    found |= {one["mountPath"] for one in entries if isinstance(one, Mapping) and "mountPath" in one}
    return frozenset(found)


def _configs(said: Json) -> Json:
    configs: Json = said.get("platforms", {}).get(_PLATFORM, {}).get("deploymentSpec", {}).get("executors", {})
    return configs


def _executor(label: str, config: Json, executors: Mapping[str, Json]) -> Iterator[Finding]:
    where = f"{label} in the second document"
    if label not in executors:
        known = ", ".join(executors)
        found = "an entry belongs to an executor of the PipelineSpec, and the server ignores any other"
        yield Finding("platform-executor", where, found, f"name one of {known}")
    config, error = message.parse(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig)
    if error:
        found = f"servers ignore a field that they don't know, or refuse it when a run starts; {error}"
        yield Finding("platform-field", where, found, "correct the field's name, place or type")
        return
    for field, instead in _UNREAD.items():
        if field in config:
            yield Finding("platform-field", where, f"no server reads {field}, which is there", f"use {instead}")
    policy = config.get("imagePullPolicy", "Always")
    if policy not in _PULL_POLICIES:
        found = f"imagePullPolicy is one of {', '.join(sorted(_PULL_POLICIES))}; found {policy!r}"
        yield Finding("platform-value", where, found, "use one of them")
    for field, names in _NAMES.items():
        for entry in config.get(field, ()):
            if not any(entry.get(name) for name in names):
                found = f"{field} needs one of {', '.join(names)}; found none"
                yield Finding("platform-value", where, found, f"add {names[0]}")
    yield from _choices(where, config)
    yield from _mounted(where, config)


def _choices(where: str, config: Json) -> Iterator[Finding]:
    for field, choices in _CHOICES.items():
        for entry in config.get(field, ()):
            for key, values in choices.items():
                if entry.get(key) and entry[key] not in values:
                    found = f"{field}.{key} is one of {', '.join(sorted(values - {''}))}; found {entry[key]!r}"
                    yield Finding("platform-value", where, found, "use one of them")
    for entry in config.get("tolerations", ()):
        if entry.get("operator") == "Exists" and entry.get("value"):
            yield Finding("platform-value", where, "a toleration with Exists has no value; found one", "use Equal")


def _mounted(where: str, config: Json) -> Iterator[Finding]:
    paths = []
    for field, entries in config.items():
        for entry in entries if isinstance(entries, list) else ():
            if not isinstance(entry, dict):
                continue
            if "mountPath" in entry:
                paths.append(entry["mountPath"])
                if not str(entry["mountPath"]).startswith("/"):
                    found = f"a volume is mounted at an absolute path; found {entry['mountPath']!r}"
                    yield Finding("mount", where, found, "begin it with /")
            size = entry.get("sizeLimit") or entry.get("size")
            if size:
                try:
                    resources.amount(f"the size in {field}", size)
                except BadInput as error:
                    yield Finding("platform-value", where, str(error), "write it as Kubernetes does")
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        yield Finding("mount", where, f"one path holds one volume; {path} is there twice", "mount the other elsewhere")
