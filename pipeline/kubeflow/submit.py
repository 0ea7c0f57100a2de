# SPDX-License-Identifier: Apache-2.0
"""What is sent to the server: a package as a version of a pipeline, a run of a version, a schedule of runs."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from components.errors import BadInput

if TYPE_CHECKING:
    from pipeline.kubeflow.server import Server

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
_ROOT = re.compile(r"(gs|s3|minio)://[^/\s?#@*\[\\]+(/[^\s?#*\[\\]*)?")
_EQUALS = 1  # the filter's operation


@dataclasses.dataclass(frozen=True)
class Version:
    """A version of a pipeline on the server.

    Attributes:
        spec: its PipelineSpec as the server gives it back, without the part for Kubernetes.
    """

    pipeline: str
    pipeline_id: str
    name: str
    version_id: str
    spec: Mapping[str, Any]


def upload(server: Server, package: pathlib.Path, pipeline: str | None, version: str | None) -> dict[str, str]:
    """Makes a package a pipeline or, where the server has one of its name, a new version of it.

    Args:
        server: where to.
        package: what `compile` wrote.
        pipeline: another name than the package's own.
        version: the version's name; by default it is made of the pipeline's name and the package's SHA-256, so that the
            same package is not uploaded twice as a version. The server itself names a new pipeline's first version, as
            the pipeline; one with the given name is then added.

    Returns:
        pipeline, pipeline_id, version, version_id and url.

    Raises:
        BadInput: the package or a name is refused, or the version is there already.
    """
    content, spec = _read_package(package)
    name = pipeline or str(spec["pipelineInfo"]["name"])
    _check_name("pipeline", name)
    if version:
        _check_name("version", version)
    named = version or f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    pipeline_id = _find_pipeline(server, name)
    taken = (
        f"{server.host} has {name} {named} already, or a {name} that this account does not see: nothing is uploaded; "
        "give --version or --pipeline another name."
    )
    with server.asking("take the package", taken):
        uploaded = None
        if pipeline_id is None:
            pipeline_id = server.client.upload_pipeline(
                str(package), name, namespace=server.namespace or None
            ).pipeline_id
            first = server.client.list_pipeline_versions(pipeline_id, page_size=1, sort_by="created_at desc")
            uploaded = first.pipeline_versions[0]
        if uploaded is None or version not in (None, uploaded.display_name):
            uploaded = server.client.upload_pipeline_version(str(package), named, pipeline_id=pipeline_id)
    return {
        "pipeline": name,
        "pipeline_id": uploaded.pipeline_id,
        "version": uploaded.display_name,
        "version_id": uploaded.pipeline_version_id,
        "url": f"{server.host}/#/pipelines/details/{uploaded.pipeline_id}/version/{uploaded.pipeline_version_id}",
    }


def find_version(server: Server, pipeline: str, version: str | None) -> Version:
    """Finds a version of a pipeline: the newest, or the one that `version` names.

    Raises:
        BadInput: there is no such pipeline or version.
    """
    pipeline_id = _existing_pipeline(server, pipeline)
    with server.asking("list the versions of a pipeline"):
        found = server.client.list_pipeline_versions(
            pipeline_id, page_size=1, sort_by="created_at desc", filter=_named(version) if version else ""
        ).pipeline_versions
        if not found:
            raise BadInput(f"{pipeline} has no version {version or 'at all'}: `list versions` shows those it has.")
        # The list may leave the specification out.
        full = server.client.get_pipeline_version(pipeline_id, found[0].pipeline_version_id)
        return Version(pipeline, pipeline_id, full.display_name, full.pipeline_version_id, spec_of(full.pipeline_spec))


def versions(server: Server, pipeline: str) -> list[dict[str, str]]:
    """Lists the newest twenty versions of a pipeline: id, name, created.

    Raises:
        BadInput: there is no such pipeline.
    """
    pipeline_id = _existing_pipeline(server, pipeline)
    with server.asking("list the versions of a pipeline"):
        found = server.client.list_pipeline_versions(pipeline_id, page_size=20, sort_by="created_at desc")
    return [
        {"id": one.pipeline_version_id, "name": one.display_name, "created": str(one.created_at)}
        for one in found.pipeline_versions or []
    ]


def spec_of(answer: Any) -> Mapping[str, Any]:
    """The PipelineSpec in what the server answers, which wraps it where there is a part for Kubernetes beside it."""
    return dict((answer or {}).get("pipeline_spec") or answer or {})


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run, or each run of a schedule, starts with.

    Attributes:
        version: of which pipeline.
        parameters: NAME=VALUE of the parameters that differ from their defaults.
        pipeline_root: the URI below which a run keeps its artifacts.
        experiment: its name; it is made where it is missing.
        service_account: of the pods; None: the server's choice.
    """

    version: Version
    parameters: Sequence[str]
    pipeline_root: str
    experiment: str
    service_account: str | None

    def checked(self) -> dict[str, Any]:
        """As the client takes it, but for the experiment.

        Raises:
            BadInput: a parameter or the root is refused.
        """
        check_root(self.pipeline_root)
        return {
            "params": typed(self.version.spec, self.parameters),
            "pipeline_id": self.version.pipeline_id,
            "version_id": self.version.version_id,
            "pipeline_root": self.pipeline_root,
            "service_account": self.service_account,
        }

    def name(self) -> str:
        """The pipeline's and the time."""
        return f"{self.version.pipeline} {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H-%M-%S} UTC"


def run(server: Server, start: Start) -> dict[str, str]:
    """Starts a run.

    Returns:
        run_id, name, version and url.

    Raises:
        BadInput: the server, or this function, refuses something.
    """
    told, name = start.checked(), start.name()
    with server.asking("start a run"):
        started = server.client.run_pipeline(_experiment(server, start), name, **told)
    url = f"{server.host}/#/runs/details/{started.run_id}"
    return {"run_id": started.run_id, "name": name, "version": start.version.name, "url": url}


def schedule(server: Server, start: Start, cron: str, name: str | None) -> dict[str, str]:
    """Starts runs again and again, one at a time, without making up for missed ones.

    Args:
        server: where.
        start: of each run.
        cron: six fields, seconds first, or the usual five; in UTC unless the server is set up otherwise.
        name: the schedule's, by default the pipeline's and the time.

    Returns:
        schedule_id, name, cron as sent, version and url.

    Raises:
        BadInput: the server, or this function, refuses something.
    """
    fields = cron.split()
    if len(fields) not in (5, 6):
        raise BadInput(f"--cron must be six fields, seconds first, or the usual five. Received {cron!r}.")
    sent = " ".join(["0", *fields] if len(fields) == 5 else fields)
    told, name = start.checked(), name or start.name()
    with server.asking("make a schedule", taken=f"{server.host} has a schedule {name!r} already: give another --name."):
        made = server.client.create_recurring_run(
            _experiment(server, start), name, cron_expression=sent, max_concurrency=1, no_catchup=True, **told
        )
    url = f"{server.host}/#/recurringrun/details/{made.recurring_run_id}"
    return {"schedule_id": made.recurring_run_id, "name": name, "cron": sent, "version": start.version.name, "url": url}


def _experiment(server: Server, start: Start) -> str:
    return str(server.client.create_experiment(start.experiment, namespace=server.namespace).experiment_id)


def typed(spec: Mapping[str, Any], parameters: Sequence[str]) -> dict[str, Any]:
    """Gives NAME=VALUE texts the types that a pipeline's parameters have.

    Raises:
        BadInput: no parameter of this name, a value of another type, or a parameter without default is not given.
    """
    known = spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    values: dict[str, Any] = {}
    for parameter in parameters:
        name, equals, text = parameter.partition("=")
        if not equals or name not in known:
            names = ", ".join(sorted(known)) or "none at all"
            raise BadInput(
                f"--param must be NAME=VALUE of a parameter of the pipeline: {names}. Received {parameter!r}."
            )
        if name in values:
            raise BadInput(f"--param {name} is given twice.")
        values[name] = _typed(name, known[name].get("parameterType", "STRING"), text)
    for name, parameter in sorted(known.items()):
        if name not in values and "defaultValue" not in parameter and not parameter.get("isOptional"):
            raise BadInput(f"The pipeline's parameter {name} has no default: give --param {name}=VALUE.")
    return values


def _typed(name: str, kind: str, text: str) -> Any:
    try:
        if kind == "NUMBER_INTEGER":
            return int(text)
        if kind == "NUMBER_DOUBLE":
            number = float(text)
            if math.isfinite(number):
                return number
        elif kind == "BOOLEAN":
            return {"true": True, "false": False}[text.lower()]
        elif kind in ("LIST", "STRUCT"):
            value = json.loads(text)
            if isinstance(value, list if kind == "LIST" else dict):
                return value
        else:
            return text
    except (ValueError, KeyError):
        pass
    wants = {"NUMBER_INTEGER": "a whole number", "NUMBER_DOUBLE": "a number", "BOOLEAN": "true or false"}
    raise BadInput(f"The parameter {name} is {wants.get(kind, 'a ' + kind.lower() + ' in JSON')}. Received {text!r}.")


def check_root(pipeline_root: str) -> None:
    """Raises BadInput unless Kubeflow can keep artifacts there."""
    if not _ROOT.fullmatch(pipeline_root):
        raise BadInput(
            "--pipeline-root must be gs://, s3:// or minio:// with a bucket, and without the characters of "
            f"patterns (* ? [ \\). Received {pipeline_root!r}."
        )


def _find_pipeline(server: Server, name: str) -> str | None:
    with server.asking("find a pipeline"):
        found = server.client.list_pipelines(filter=_named(name), namespace=server.namespace or None).pipelines
    return found[0].pipeline_id if found else None


def _existing_pipeline(server: Server, name: str) -> str:
    pipeline_id = _find_pipeline(server, name)
    if pipeline_id is None:
        raise BadInput(f"{server.host} has no pipeline {name}: upload it first, or give --pipeline or --namespace.")
    return pipeline_id


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": _EQUALS, "key": "display_name", "stringValue": name}]})


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"The name of a {what} is at most 128 lower-case letters, digits and -, and begins with no -. "
            f"Received {name!r}."
        )


def _read_package(package: pathlib.Path) -> tuple[bytes, Mapping[str, Any]]:
    if package.suffix not in (".yaml", ".yml"):
        raise BadInput(f"A package is a .yaml file, as `compile` writes it. Received {package}.")
    try:
        content = package.read_bytes()
        spec = next(yaml.safe_load_all(content))
        return content, spec if spec["pipelineInfo"]["name"] else {}
    except OSError as error:
        raise BadInput(f"The package {package} cannot be read ({error.strerror}): `compile` writes one.") from None
    except (yaml.YAMLError, ValueError, StopIteration, KeyError, TypeError, RecursionError):
        raise BadInput(f"{package} is no pipeline package, which has a pipelineInfo with a name.") from None
