# SPDX-License-Identifier: Apache-2.0
"""The gate node: it reads what a check has published and raises where that must stop the run.

Check and gate are two nodes because a node that raises publishes nothing.
"""

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.base_node import BaseNode
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types.channel import BaseChannel

from components import findings
from components.artifacts import Checks
from components.errors import GateStopped


@component
def Gate(checks: InputArtifact[Checks], passed: OutputArtifact[Checks], force_reason: Parameter[str]) -> None:
    """Raises GateStopped where a finding is not allowed, or a result did not pass and nobody forces it.

    Input: `checks`. Output: `passed`, what the gate let through.
    """
    found, results = findings.read(checks.uri)
    closed = [finding.sentence for finding in found if not finding.allowed]
    if not force_reason:
        closed += [result.reason for result in results if not result.passed]
    if closed:
        more = f" (and {len(closed) - 1} more)" if len(closed) > 1 else ""
        raise GateStopped(closed[0] + more)
    findings.write(passed.uri, found, results)


def gate(
    name: str, *, checks: BaseChannel, force_reason: str | RuntimeParameter = "", before: list[BaseNode]
) -> BaseComponent:
    """Builds a gate.

    Args:
        name: the node's id.
        checks: Checks of the stage that it follows.
        force_reason: why results that did not pass shall not stop the run; empty: they do. Findings are allowed where
            they are found (`Finding.allowed`).
        before: the nodes that must not start unless it opens.
    """
    node = Gate(checks=checks, force_reason=force_reason).with_id(name)
    for later in before:
        later.add_upstream_node(node)
    return node
