# SPDX-License-Identifier: Apache-2.0
"""Checks of a compiled package: its format, what servers refuse only when a run starts, its size, secrets and paths.

The rules are those of kubeflow/pipelines 2.14 to 2.17. The compiler's tests assert the rest of this project's packages.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from components.errors import BadInput
from pipeline.kubeflow import size

Json = dict[str, Any]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built
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
_IN_EVERY_IMAGE = ("/dev/", "/proc/", "/bin/", "/usr/bin/")


@dataclasses.dataclass(frozen=True)
class LintFinding:
    """A rule that a part of a package breaks, with the value received and the way out."""

    rule: str
    part: str
    message: str
    advice: str

    @property
    def sentence(self) -> str:
        """All of it on one line."""
        return f"{self.rule}: {self.part}: {self.message}. Way out: {self.advice}."


def check(text: str, session: str = "") -> list[LintFinding]:
    """Returns every finding in a package, YAML or JSON; `session` is that of `size.estimate`."""
    from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes
    from kfp.pipeline_spec import pipeline_spec_pb2 as pipelines

    try:
        documents = [document for document in yaml.load_all(text, _LOADER) if document is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as a date with a 13th month
        return [
            LintFinding("yaml", "the file", f"a package is YAML; {' '.join(str(error).split())}", "compile it again")
        ]
    specs = [
        document for document in documents if isinstance(document, dict) and {"pipelineInfo", "root"} & {*document}
    ]
    platforms = [document for document in documents if document not in specs]
    if len(specs) != 1 or len(platforms) > 1:
        rule = "a package holds one PipelineSpec, with pipelineInfo and root, and at most one document beside it"
        message = f"{rule}; received {len(specs)} and {len(platforms)}"
        return [LintFinding("documents", "the file", message, "compile it again")]
    findings: list[LintFinding] = []
    spec = _parse(specs[0], pipelines.PipelineSpec(), "the PipelineSpec", findings)
    deployment = specs[0].get("deploymentSpec") or {}
    spec["deploymentSpec"] = _parse(deployment, pipelines.PipelineDeploymentConfig(), "deploymentSpec", findings)
    platform = _parse(platforms[0] if platforms else {}, pipelines.PlatformSpec(), "the second document", findings)
    pods = platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    for label, pod in pods.items():
        _parse(pod, kubernetes.KubernetesExecutorConfig(), f"{label} in the second document", findings)
    if not findings:  # malformed documents cannot be checked further
        findings = [*_tasks(spec), *_executors(spec), *check_values([spec, platform])]
    return findings or _size([spec, platform], session)


def check_values(document: Any) -> Iterator[LintFinding]:
    """Yields the findings in the values of a document: images, variables, mounts, secrets, paths and templates."""
    texts = collections.Counter(_texts(document, ""))
    mounts = tuple(text.rstrip("/") for part, text in texts if part.endswith(".mountPath"))
    for (part, text), count in texts.items():
        is_image = part.rpartition(".")[2] in ("image", "--image", "--gpu-image")
        if is_image and not _IMAGE.fullmatch(text):
            message = f"an image is [HOST[:PORT]/]NAME[:TAG][@DIGEST], the name in lower case; received {text!r}"
            yield LintFinding("image", part, message, "correct --image")
        if part.endswith(".mountPath") and (count > 1 or not text.startswith("/")):
            message = f"a volume is mounted at an absolute path of its own; received {text!r}"
            yield LintFinding("mount", part, message, "begin it with /, and mount one volume at it")
        for kind, pattern in _SECRET_TEXT.items():
            if pattern.search(text):  # not repeated
                yield LintFinding(
                    "secret", part, f"a package holds no secret; received {kind}", "mount it with --secret"
                )
        is_path = _LOCAL.fullmatch(text) and not is_image and not text.startswith(_IN_EVERY_IMAGE)
        if is_path and not any(text == mount or text.startswith(f"{mount}/") for mount in mounts):
            message = f"a path must be in the image or in a mounted volume; received {text!r}"
            yield LintFinding("local-path", part, message, "give a URL, or mount the volume with --pvc CLAIM=PATH")
        if re.search(r"\{\{(?!\$)", text):
            message = "Argo replaces text in double braces; received some other than Kubeflow's {{$…}}"
            yield LintFinding("template", part, message, "write a space between the braces")
    for name, value, is_variable in dict.fromkeys(_named_values(document)):
        if is_variable and not _VARIABLE.fullmatch(name):
            message = f"a variable's name is of letters, digits, _, - and .; received {name!r}"
            yield LintFinding("environment", name, message, "rename it")
        if value and _SECRET_NAME.search(name) and not _NO_SECRET.search(name):
            message = f"everybody can read variables and defaults; received a value of {name}"
            yield LintFinding("secret", name, message, f"mount it with --secret SECRET:KEY={name}")


def refuse(findings: Sequence[LintFinding], subject: str) -> None:
    """Raises BadInput with every finding, where there is one; the same one in several parts is listed once."""
    parts: dict[LintFinding, list[str]] = {}
    for finding in findings:
        parts.setdefault(dataclasses.replace(finding, part=""), []).append(finding.part)
    if parts:
        sentences = []
        for number, (finding, [first, *more]) in enumerate(parts.items(), 1):
            part = f"{first} and {len(more)} more" if more else first
            sentences.append(f"({number}) {dataclasses.replace(finding, part=part).sentence}")
        raise BadInput(f"{subject} breaks rules of Kubeflow Pipelines: {' '.join(sentences)}")


def _parse(document: Any, message: Any, part: str, findings: list[LintFinding]) -> Json:
    """Reads a document into a message as the server does, where an empty field is a missing one."""
    from google.protobuf import json_format

    try:
        json_format.ParseDict(document, message)
        return json.loads(json_format.MessageToJson(message, sort_keys=True))
    except (json_format.ParseError, json_format.SerializeToJsonError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    rule = "the server refuses or drops a field that is not of its format"
    findings.append(LintFinding("fields", part, f"{rule}; {reason}", "correct the field's name, level or type"))
    return {}


def _tasks(spec: Json) -> Iterator[LintFinding]:
    components, executors = spec.get("components", {}), spec["deploymentSpec"].get("executors", {})
    for component in (spec.get("root", {}), *components.values()):
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            part, reference = f"task {name}", task.get("componentRef", {}).get("name", "")
            inner = components.get(reference, {})
            if not _TASK_NAME.fullmatch(name):
                message = f"Argo refuses names that do not match {_TASK_NAME.pattern}"
                yield LintFinding("task-name", part, message, "use letters, digits and hyphens")
            if not task.get("taskInfo", {}).get("name"):
                message = "the driver refuses a task without taskInfo.name at the run; received none"
                yield LintFinding("task-name", part, message, "compile it again")
            if "artifactIterator" in task:
                message = "servers have not implemented artifactIterator; received one"
                yield LintFinding("iterator", part, message, "iterate over a parameter")
            if "dag" not in inner and inner.get("executorLabel") not in executors:
                message = f"a task needs a component with a graph or an executor; received {reference!r}"
                yield LintFinding("component", part, message, "name one that exists")


def _executors(spec: Json) -> Iterator[LintFinding]:
    for label, executor in spec["deploymentSpec"].get("executors", {}).items():
        container = executor.get("container")
        if container is None and "importer" not in executor:
            message = f"servers run containers and importers; received {next(iter(executor), 'nothing')}"
            yield LintFinding("executor-kind", label, message, "use an ordinary component in place of a Resolver")
        if container is not None and not container.get("image"):
            yield LintFinding("image", label, "a container needs an image; received none", "compile with --image")
        if container is not None and not container.get("command"):
            message = "the launcher executes the first argument where there is no command; received none"
            yield LintFinding("command", label, message, "set the command")


def _size(documents: Sequence[Json], session: str) -> list[LintFinding]:
    sizes = size.estimate(documents, session=session)
    if (total := sum(sizes.values())) < size.LIMIT:
        return []
    largest = ", ".join(
        f"{name} {sizes[name] / 1000:,.0f} KB" for name in sorted(sizes, key=lambda name: -sizes[name])[:3]
    )
    message = (
        f"the workflow of a run must stay below 1 MiB ({size.LIMIT / 1000:,.0f} KB), or the server loses sight of its "
        f"last tasks; this one reaches {total / 1000:,.0f} KB, most of it for {largest}"
    )
    advice = "give fewer or shorter --env, --secret, --pvc, --toleration and --beam-arg: each task has eight copies"
    return [LintFinding("size", "the workflow", message, advice)]


def _texts(value: Any, part: str) -> Iterator[tuple[str, str]]:
    """Yields every text with its part, also those in JSON that is a text itself."""
    value = _unpack(value)
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{part}.{name}" if part else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, part)
    elif isinstance(value, str):
        yield part, value


def _named_values(value: Any) -> Iterator[tuple[str, str, bool]]:
    """Yields name and value of environment variables (True) and of parameters with defaults (False)."""
    value = _unpack(value)
    if isinstance(value, dict):
        if isinstance(value.get("name"), str) and isinstance(value.get("value"), str):
            yield value["name"], value["value"], True
        for name, inner in value.items():
            if isinstance(inner, dict) and "defaultValue" in inner:
                yield name, str(inner["defaultValue"]), False
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _named_values(inner)


def _unpack(value: Any) -> Any:
    """Returns the object or list that a text holds as JSON; any other value as it is."""
    try:
        inner = json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else None
    except ValueError:
        return value
    return value if inner is None else inner
