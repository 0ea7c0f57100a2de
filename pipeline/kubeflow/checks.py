# SPDX-License-Identifier: Apache-2.0
"""Checks a compiled package for what the server refuses only when a run starts or silently drops, and for secrets.

The rules were read in kubeflow/pipelines 2.14 to 2.17. What else holds for the package of this project is asserted in
the compiler's tests. Each finding says the rule, what was received, and the way out.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from google.protobuf import json_format
from google.protobuf import message as protobuf
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from components.errors import BadInput
from pipeline.kubeflow import resources

Json = dict[str, Any]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built
_PIPELINE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_TASK_NAME = re.compile(r"[a-zA-Z][-a-zA-Z0-9]{0,120}")  # Argo's limit is 128; the server adds "-driver"
# [HOST[:PORT]/]PATH[:TAG][@DIGEST], after the reference grammar of the container registries.
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:{_HOST}(?::\d+)?/)?{_PART}(?:/{_PART})*(?::\w[\w.-]{{0,127}})?(?:@[a-z0-9+._-]+:[0-9a-fA-F]{{32,}})?"
)

_SECRET_NAME = re.compile(r"secret|password|passwd|token|credential|private_?key|api_?key|access_?key", re.IGNORECASE)
_NO_SECRET = re.compile(r"(_FILE|_PATH|_URL|_URI|_ENDPOINT|_NAME)$", re.IGNORECASE)
_SECRET_TEXT = {
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an access key of AWS": re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a token": re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{30,}|ya29\.[\w-]{20,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+)"),
    "a URL with a password": re.compile(r"\b[a-z][a-z0-9+]*://[^/\s:@]+:[^/\s@]+@"),
}
_LOCAL = re.compile(r"(file://|~/|[A-Za-z]:\\|/)\S*")
_EVERYWHERE = ("/dev/", "/proc/", "/bin/", "/usr/bin/")  # in every Linux container


@dataclasses.dataclass(frozen=True)
class Finding:
    """Broken rule.

    Attributes:
        rule: its name.
        part: of the package.
        received: the rule in words, and what was received instead.
        way_out: what to do.
    """

    rule: str
    part: str
    received: str
    way_out: str

    @property
    def sentence(self) -> str:
        """All of it on one line."""
        return f"{self.rule}: {self.part}: {self.received}. Way out: {self.way_out}."


def check(text: str) -> list[Finding]:
    """Returns every finding in a package, YAML or JSON, in its order."""
    try:
        documents = [document for document in yaml.load_all(text, _LOADER) if document is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as a date with a 13th month
        return [Finding("yaml", "the file", f"a package is YAML; {' '.join(str(error).split())}", "compile it again")]
    specs = [one for one in documents if isinstance(one, dict) and ("pipelineInfo" in one or "root" in one)]
    others = [one for one in documents if one not in specs]
    if len(specs) != 1 or len(others) > 1:
        received = "a package holds one PipelineSpec, with pipelineInfo and root, and at most one document beside it"
        return [
            Finding("documents", "the file", f"{received}; found {len(specs)} and {len(others)}", "compile it again")
        ]

    spec, findings = _parse(specs[0], pipeline_spec_pb2.PipelineSpec, "the PipelineSpec")
    deployment, more = _parse(
        specs[0].get("deploymentSpec") or {}, pipeline_spec_pb2.PipelineDeploymentConfig, "deploymentSpec"
    )
    platform, others_more = _parse(others[0] if others else {}, pipeline_spec_pb2.PlatformSpec, "the second document")
    findings += more + others_more
    if findings:  # what does not have the form cannot be looked into
        return findings
    executors = deployment.get("executors", {})
    return [
        *_refused_at_start(spec, executors),
        *_platform(platform, executors),
        *_contents([spec | {"deploymentSpec": deployment}, platform]),
        # The size of the workflow, by size.estimate(documents), belongs here.
    ]


def refuse(findings: Sequence[Finding], what: str) -> None:
    """Raises BadInput with every finding, where there is one; what is wrong in many parts is said once."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for one in findings:
        alike.setdefault((one.rule, one.received, one.way_out), []).append(one.part)
    sentences = [
        Finding(rule, parts[0] + (f" and {len(parts) - 1} more" if len(parts) > 1 else ""), received, way_out).sentence
        for (rule, received, way_out), parts in alike.items()
    ]
    if sentences:
        listed = " ".join(f"({number}) {sentence}" for number, sentence in enumerate(sentences, 1))
        raise BadInput(f"{what} breaks rules of Kubeflow Pipelines: {listed}")


def _parse(document: Any, kind: type[protobuf.Message], part: str) -> tuple[Json, list[Finding]]:
    """Reads a document as the server does, where an empty field is one that is not there."""
    read = kind()
    try:
        json_format.ParseDict(document, read)
        return json.loads(json_format.MessageToJson(read, sort_keys=True)), []
    except (json_format.ParseError, json_format.SerializeToJsonError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    received = f"the server refuses or drops a field that is not of its own format; {reason}"
    return {}, [Finding("fields", part, received, "correct the field's name, place or type")]


def _refused_at_start(spec: Json, executors: Mapping[str, Json]) -> Iterator[Finding]:
    if spec.get("schemaVersion") != "2.1.0":
        received = f"the server takes 2.1.0 only; found {spec.get('schemaVersion') or 'none'}"
        yield Finding("schema-version", "schemaVersion", received, "compile with use_pipeline_spec_2_1=True")
    name = spec.get("pipelineInfo", {}).get("name", "")
    if not _PIPELINE_NAME.fullmatch(name):
        received = f"the name must match {_PIPELINE_NAME.pattern}; found {name!r}"
        yield Finding("pipeline-name", "pipelineInfo.name", received, "use lower case, digits and hyphens")
    components = spec.get("components", {})
    root = spec.get("root", {})
    if not root.get("dag", {}).get("tasks"):
        yield Finding("root", "root", "the root must be a graph of tasks; it has none", "compile a pipeline")
    for component in (root, *components.values()):
        for key, task in component.get("dag", {}).get("tasks", {}).items():
            if not _TASK_NAME.fullmatch(key):
                received = f"Argo refuses, when a run starts, what does not match {_TASK_NAME.pattern}"
                yield Finding("task-name", f"task {key}", received, "use letters, digits and hyphens")
            if "artifactIterator" in task:
                received = "the server has not implemented artifactIterator; found one"
                yield Finding("iterator", f"task {key}", received, "iterate over a parameter")
            reference = task.get("componentRef", {}).get("name", "")
            label = components.get(reference, {}).get("executorLabel", "")
            if "dag" not in components.get(reference, {}) and label not in executors:
                received = f"a task needs a component with a graph or an executor; found {reference!r} and {label!r}"
                yield Finding("component", f"task {key}", received, "name one there is")
    for label, executor in executors.items():
        if "container" in executor:
            if not executor["container"].get("image"):
                yield Finding("image", label, "a container needs an image; found none", "compile with --image")
            if not executor["container"].get("command"):
                received = "the launcher executes the first argument where there is no command; found none"
                yield Finding("command", label, received, "set the command")
            for variable in executor["container"].get("env", ()):
                if not _VARIABLE.fullmatch(variable.get("name", "")):
                    received = f"Kubernetes takes no variable of the name {variable.get('name')!r}"
                    yield Finding("environment", label, received, "use letters, digits and _")
            yield from _resources(label, executor["container"].get("resources", {}))
        elif "importer" not in executor:
            received = f"the server runs containers and importers; found {next(iter(executor), 'nothing')}"
            yield Finding(
                "executor-kind", label, received, "find the input in an ordinary component, not in a Resolver"
            )


def _resources(label: str, needed: Json) -> Iterator[Finding]:
    for what in ("Cpu", "Memory"):
        amounts = {}
        for bound in ("Request", "Limit"):
            try:
                if "{{" not in (text := needed.get(f"resource{what}{bound}", "{{")):
                    amounts[bound] = resources.amount(f"resource{what}{bound}", text)
            except BadInput as error:
                yield Finding("resources", label, str(error), "write it as Kubernetes does")
        if len(amounts) == 2 and amounts["Request"] > amounts["Limit"]:
            received = f"a request must not be above its limit; found {what.lower()} {needed[f'resource{what}Request']}"
            yield Finding("resources", label, received, "raise the limit")


def _platform(platform: Json, executors: Mapping[str, Json]) -> Iterator[Finding]:
    """Checks what belongs to Kubernetes, of which the server drops what is misspelt."""
    for name, config in platform.get("platforms", {}).items():
        if name != "kubernetes":
            yield Finding("platform", name, f"the server knows no platform but kubernetes; found {name}", "rename it")
        for label, pod in config.get("deploymentSpec", {}).get("executors", {}).items():
            part = f"{label} in the second document"
            if label not in executors:
                received = "an entry belongs to an executor of the PipelineSpec, and the server ignores any other"
                yield Finding("platform-executor", part, received, f"name one of {', '.join(executors)}")
            fields, findings = _parse(pod, kubernetes_executor_config_pb2.KubernetesExecutorConfig, part)
            yield from findings
            if "enabledSharedMemory" in fields:
                received = "no server reads enabledSharedMemory, which is there"
                yield Finding("platform-field", part, received, "use emptyDirMounts with medium Memory at /dev/shm")
            paths = [text for name, text in _texts(fields, "") if name.endswith(".mountPath")]
            for path in sorted(set(paths)):
                if not path.startswith("/") or paths.count(path) > 1:
                    received = f"a volume is mounted at an absolute path, one at each; found {path!r}"
                    yield Finding("mount", part, received, "begin it with /, and mount the others elsewhere")


def _contents(documents: Sequence[Json]) -> Iterator[Finding]:
    """Images, secrets, local paths and templates of Argo, wherever they are."""
    texts = list(dict.fromkeys(_texts(documents, "")))
    mounts = tuple(text.rstrip("/") for part, text in texts if part.endswith(".mountPath"))
    for part, text in texts:
        if part.endswith(".image") and not _IMAGE.fullmatch(text):
            received = f"an image is [HOST[:PORT]/]NAME[:TAG][@DIGEST], the name in lower case; found {text!r}"
            yield Finding("image", part, received, "correct --image")
        for what, pattern in _SECRET_TEXT.items():
            if pattern.search(text):  # not repeated
                yield Finding("secret", part, f"a package holds no secret; found {what}", "mount it with --secret")
        is_path = _LOCAL.fullmatch(text) and not part.endswith(".image") and not text.startswith(_EVERYWHERE)
        if is_path and not any(text == mount or text.startswith(f"{mount}/") for mount in mounts):
            received = f"a path must be in the image or in a mounted volume; found {text!r}"
            yield Finding("local-path", part, received, "give a URL, or mount the volume with --pvc CLAIM=PATH")
        if re.search(r"\{\{(?!\$)", text):
            received = "Argo replaces what stands in double braces; found some that are not Kubeflow's {{$…}}"
            yield Finding("template", part, received, "write a space between the braces")
    for name, value in dict.fromkeys(_named(documents)):
        if value and _SECRET_NAME.search(name) and not _NO_SECRET.search(name):
            received = f"variables and defaults are shown to everybody; found a value of {name}"
            yield Finding("secret", name, received, f"mount it with --secret SECRET:KEY={name}")


def _texts(value: Any, part: str) -> Iterator[tuple[str, str]]:
    """Every text with its place, also those in JSON that is a text itself."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{part}.{name}" if part else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, part)
    elif isinstance(value, str):
        inner = _json(value)
        yield from ((part, value),) if inner is None else _texts(inner, part)


def _named(value: Any) -> Iterator[tuple[str, str]]:
    """Values of environment variables, and defaults of parameters."""
    if isinstance(value, list):
        for inner in value:
            yield from _named(inner)
    elif isinstance(value, dict):
        if isinstance(value.get("name"), str) and isinstance(value.get("value"), str):
            yield value["name"], value["value"]
        for name, inner in value.items():
            if isinstance(inner, dict) and "defaultValue" in inner:
                yield name, str(inner["defaultValue"])
            yield from _named(inner)
    elif isinstance(value, str) and (inner := _json(value)) is not None:
        yield from _named(inner)


def _json(text: str) -> Any:
    """The object or list that a text holds as JSON; None for any other text."""
    try:
        value = json.loads(text) if text[:1] in "{[" else None
    except ValueError:
        return None
    return value if isinstance(value, dict | list) else None
