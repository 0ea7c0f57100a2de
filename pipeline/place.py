# SPDX-License-Identifier: Apache-2.0
"""Which output folder and which model a command is about: the flags that all commands beside the run itself share."""

from __future__ import annotations

import argparse
import pathlib
from typing import NamedTuple

from components import paths
from components.push import destination
from components.push.destination import Destination
from pipeline import answer, config


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
    answer.add_json(parser)


def of(args: argparse.Namespace) -> Place:
    """The place that the arguments name, found as a run finds it.

    Raises:
        BadInput: a flag or the config file is wrong.
    """
    file = config.read_toml(pathlib.Path(args.config), config.CONFIG_KEYS, "config file") if args.config else {}
    flags = {"output": args.output, "serving-dir": args.serving_dir, "serving-name": args.serving_name}
    settled = config.build(flags, file, config.find_profile(file.get("profile", "mnist")))
    paths.refuse_patterns(settled.output, "output")
    return Place(settled.output, destination.at(settled.serving_dir))
