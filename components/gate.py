# SPDX-License-Identifier: Apache-2.0
"""The data gate: a node that reads the results of a check and raises if they must stop the run.

Check and gate are two nodes because a node that raises publishes nothing. The checks of a model need no gate node: push
reads their verdicts first.
"""

from collections.abc import Sequence

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.base_node import BaseNode
from tfx.types.channel import BaseChannel

from components import findings
from components.artifacts import Checks
from components.errors import GateStopped


@component
def Gate(checks: InputArtifact[Checks], passed: OutputArtifact[Checks]) -> None:
    """Raises GateStopped if a finding is not allowed or a result did not pass.

    Input: `checks`. Output: `passed`, a copy of the checks.
    """
    if failures := failed_checks(checks.uri):
        raise GateStopped(summary(failures))
    findings.write(passed.uri, *findings.read(checks.uri))


def failed_checks(folder: str) -> list[str]:
    """Returns one sentence for each disallowed finding and each failed result in a Checks artifact."""
    data_findings, results = findings.read(folder)
    return [
        *(finding.sentence for finding in data_findings if not finding.allowed),
        *(result.reason for result in results if not result.passed),
    ]


def summary(failures: Sequence[str]) -> str:
    """Returns the first of one or more sentences, and the number of the others."""
    return failures[0] + (f" (and {len(failures) - 1} more)" if len(failures) > 1 else "")


def gate(name: str, *, checks: BaseChannel, before: list[BaseNode]) -> BaseComponent:
    """Builds a gate.

    Args:
        name: the node's id.
        checks: Checks of the stage before it.
        before: the nodes that start only after it has passed.
    """
    node = Gate(checks=checks).with_id(name)
    for later in before:
        later.add_upstream_node(node)
    return node
