# SPDX-License-Identifier: Apache-2.0
"""Checks a compiled package: what the open-source server refuses, late and in its own words, or silently ignores.

The rules were read in kubeflow/pipelines 2.14 to 2.17. Each finding says the rule, what was found, and the way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from google.protobuf import message as protobuf
from kfp.pipeline_spec import pipeline_spec_pb2

from components.errors import BadInput
from pipeline.kubeflow import (
    lint_contents,
    lint_executors,
    lint_graph,
    lint_kubernetes,
    lint_training_job,
    message,
)
from pipeline.kubeflow.finding import Finding

Json = dict[str, Any]


def check(text: str) -> list[Finding]:
    """Every finding in a package, in its order.

    Args:
        text: the package, YAML or JSON.
    """
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as of a date with a 13th month
        return [Finding("yaml", "the file", f"a package is YAML; {' '.join(str(error).split())}", "compile it again")]
    specs = [one for one in documents if isinstance(one, dict) and ("pipelineInfo" in one or "root" in one)]
    if len(specs) != 1:
        found = f"a package holds one PipelineSpec, with pipelineInfo and root; found {len(specs)}"
        return [Finding("documents", "the file", found, "compile one pipeline into one file")]
    [spec] = specs
    others = [one for one in documents if one is not spec]

    deployment = spec.get("deploymentSpec") or {}
    spec, findings = _parsed(spec, pipeline_spec_pb2.PipelineSpec, "fields", "the PipelineSpec")
    config, more = _parsed(
        deployment, pipeline_spec_pb2.PipelineDeploymentConfig, "deployment-fields", "deploymentSpec"
    )
    findings += more
    if findings:  # what does not have the form cannot be looked into
        return findings
    spec = {"root": {}, **spec, "deploymentSpec": config}
    executors = config.get("executors", {})
    return [
        *lint_graph.check(spec),
        *lint_executors.check(spec, executors),
        *lint_kubernetes.check(others, executors),
        *lint_training_job.check(spec),
        *lint_contents.check(spec, others),
    ]


def refuse(findings: Sequence[Finding], what: str) -> None:
    """Raises BadInput with every finding, where there is one; what is wrong in many places is said once."""
    if findings:
        places: dict[tuple[str, str, str], list[str]] = {}
        for one in findings:
            places.setdefault((one.rule, one.found, one.way_out), []).append(one.where)
        alike = [
            Finding(rule, where[0] + (f" and {len(where) - 1} more" if len(where) > 1 else ""), found, way_out).sentence
            for (rule, found, way_out), where in places.items()
        ]
        listed = " ".join(f"({number}) {sentence}" for number, sentence in enumerate(alike, 1))
        raise BadInput(f"{what} breaks rules of Kubeflow Pipelines: {listed}")


def _parsed(document: Any, kind: type[protobuf.Message], rule: str, where: str) -> tuple[Json, list[Finding]]:
    said, error = message.parse(document, kind)
    if not error:
        return said, []
    found = f"the server takes the fields of its own format only, or drops what holds another; {error}"
    return said, [Finding(rule, where, found, "correct the field's name, place or type")]
