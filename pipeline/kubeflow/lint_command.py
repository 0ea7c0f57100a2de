# SPDX-License-Identifier: Apache-2.0
"""The command `lint` of runner_kfp.py: is a package one that the server takes, and that does what it says?"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any

from components.errors import BadInput
from pipeline import answer


def register(subparsers: Any) -> None:
    """Adds the command."""
    does = "Check a compiled package, of this or of another pipeline."
    parser: argparse.ArgumentParser = subparsers.add_parser("lint", help=does, description=does, allow_abbrev=False)
    parser.set_defaults(run=run)
    parser.add_argument("package", metavar="FILE", help="a package in YAML or JSON")
    answer.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Prints every finding; 2 where there is one."""
    from pipeline.kubeflow import lint

    try:
        text = pathlib.Path(args.package).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadInput(f"FILE must be a readable package; {args.package}: {why}") from None
    findings = lint.check(text)
    lines = [finding.sentence for finding in findings] or [f"{args.package}: nothing to complain about"]
    answer.say(args.json, *lines)
    answer.write([dataclasses.asdict(finding) for finding in findings], args.json)
    if findings:
        count = f"{len(findings)} finding{'s' if len(findings) > 1 else ''}"
        raise BadInput(f"{args.package} breaks rules of Kubeflow Pipelines: {count}")
    return 0
