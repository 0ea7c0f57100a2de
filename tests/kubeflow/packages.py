# SPDX-License-Identifier: Apache-2.0
"""Compiled packages, each compiled once for all tests."""

from __future__ import annotations

import functools
import json
import pathlib
import tempfile
from typing import Any

import yaml

import runner_kfp

IMAGE = "registry.example/mnist:1"
DIGITS = ("--image", IMAGE, "--profile", "digits", "--data-dir", "s3://data/digits", "--serving-dir", "s3://models")


@functools.cache
def text(*arguments: str) -> str:
    """Returns the package that `runner_kfp.py compile` writes with these arguments."""
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "pipeline.yaml"
        assert runner_kfp.main(["compile", *arguments, "--output", str(output)]) == 0
        return output.read_text(encoding="utf-8")


def documents(*arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The PipelineSpec and the Kubernetes document, for the test to change as it likes."""
    spec, kubernetes = json.loads(_parsed(*arguments))
    return spec, kubernetes


@functools.cache
def _parsed(*arguments: str) -> str:
    """The documents as JSON, which is read much faster."""
    return json.dumps(list(yaml.safe_load_all(text(*arguments))))
