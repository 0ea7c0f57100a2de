# SPDX-License-Identifier: Apache-2.0
"""Artifact types of this project, beside TFX's standard ones."""

from __future__ import annotations

from tfx.types.artifact import Artifact


class Checks(Artifact):
    """Results of a check: a folder with `findings.json`, `gates.json`, or both (`components.findings`)."""

    # Kubeflow takes `namespace.Title` only.
    TYPE_NAME = "mnist.Checks"
