# SPDX-License-Identifier: Apache-2.0
"""Checks a compiled package: what the open-source server refuses, late and in its own words, or silently ignores.

The rules were read in kubeflow/pipelines 2.14 to 2.17. Each finding says the rule, what was found, and the way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from google.protobuf import json_format, message
from kfp.pipeline_spec import pipeline_spec_pb2

from components.errors import BadInput
from pipeline.kubeflow import lint_contents, lint_executors, lint_graph, lint_kubernetes
from pipeline.kubeflow.finding import Finding

Json = dict[str, Any]


def check(text: str) -> list[Finding]:
    """Every finding in a package, in its order.

    Args:
        text: the package, YAML or JSON.
    """
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        return [Finding("yaml", "the file", f"a package is YAML; {' '.join(str(error).split())}", "compile it again")]
    specs = [one for one in documents if isinstance(one, dict) and ("pipelineInfo" in one or "root" in one)]
    if len(specs) != 1:
        found = f"a package holds one PipelineSpec, with pipelineInfo and root; found {len(specs)}"
        return [Finding("documents", "the file", found, "compile one pipeline into one file")]
    [spec] = specs
    others = [one for one in documents if one is not spec]

    findings = _parses(spec, pipeline_spec_pb2.PipelineSpec(), "fields", "the PipelineSpec")
    deployment = spec.get("deploymentSpec") or {}
    config = pipeline_spec_pb2.PipelineDeploymentConfig()
    findings += _parses(deployment, config, "deployment-fields", "deploymentSpec")
    if findings:  # what does not have the form cannot be looked into
        return findings
    executors = deployment.get("executors", {})
    return [
        *lint_graph.check(spec),
        *lint_executors.check(spec, executors),
        *lint_kubernetes.check(others, executors),
        *lint_contents.check(spec, others),
    ]


def refuse(findings: Sequence[Finding], what: str) -> None:
    """Raises BadInput with every finding, where there is one."""
    if findings:
        listed = " ".join(f"({number}) {finding.sentence}" for number, finding in enumerate(findings, 1))
        raise BadInput(f"{what} breaks rules of Kubeflow Pipelines: {listed}")


def _parses(document: Any, into: message.Message, rule: str, where: str) -> list[Finding]:
    try:
        json_format.ParseDict(document, into)
    except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
        text = " ".join(str(error).split())
        found = f"the server takes the fields of its own format only, or drops what holds another; {text}"
        return [Finding(rule, where, found, "correct the field's name, place or type")]
    return []
