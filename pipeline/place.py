# SPDX-License-Identifier: Apache-2.0
"""Which output folder and which model a command is about: the flags that all commands beside the run itself share."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from typing import Any, NamedTuple

from components.errors import BadInput
from components.push import destination
from components.push.destination import Destination
from pipeline import config


class Place(NamedTuple):
    """The output folder of runs on this machine, and the folder of the model that they push to."""

    output: pathlib.Path
    model: Destination

    @property
    def database(self) -> pathlib.Path:
        return self.output / "metadata.db"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --output, --serving-dir, --serving-name, --config and --json."""
    parser.add_argument("--output", metavar="DIR", help="what runs write; default: output/")
    parser.add_argument("--serving-dir", metavar="DIR|URL", help="where models are pushed to; default: OUTPUT/serving")
    parser.add_argument("--serving-name", metavar="NAME", help="name of the model in there; default: mnist")
    parser.add_argument("--config", metavar="FILE", help="TOML file of the runs; flags go over it")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write the result there, or to stdout")


def of(args: argparse.Namespace) -> Place:
    """The place that the arguments name, found as a run finds it.

    Raises:
        BadInput: a flag or the config file is wrong.
    """
    check_json(args.json)
    file = config.read_toml(pathlib.Path(args.config), config.CONFIG_KEYS, "config file") if args.config else {}
    flags = {"output": args.output, "serving-dir": args.serving_dir, "serving-name": args.serving_name}
    settled = config.build(flags, file, config.find_profile(file.get("profile", "mnist")))
    return Place(settled.output, destination.at(settled.serving_dir))


def check_json(to: str | None) -> None:
    """Says before any work starts that --json names a file that could not be written in the end.

    Raises:
        BadInput: it is in no folder, is one itself, or is not writable.
    """
    if to is None or to == "-":
        return
    path = pathlib.Path(to).absolute()
    reason = (
        f"{path.parent} is no folder"
        if not path.parent.is_dir()
        else "it is a folder"
        if path.is_dir()
        else "it is not writable"
        if not os.access(path if path.exists() else path.parent, os.W_OK)
        else ""
    )
    if reason:
        raise BadInput(f"--json names a file that can be written, but {to}: {reason}")


def write_json(result: Any, to: str | None) -> None:
    """Writes what --json asked for: to a file, to stdout where it is "-", nowhere where it is None.

    Raises:
        BadInput: the file cannot be written.
    """
    if to is None:
        return
    text = json.dumps(result, indent=1) + "\n"
    if to == "-":
        sys.stdout.write(text)
        return
    try:
        pathlib.Path(to).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--json names a file that can be written, but {to}: {error.strerror}") from None
