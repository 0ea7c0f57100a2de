#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the pipeline on this machine: arguments, configuration, run."""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.errors import ProjectError
from pipeline.arguments import HYPERPARAMETERS, Parser, add_training
from pipeline.local import supervise

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.local.console import Console


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="runner_local.py", description=__doc__, allow_abbrev=False)
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", metavar="auto|mnist|digits", help="auto: MNIST where it can be had, else digits")
    data.add_argument(
        "--data-dir", metavar="DIR", help="folder with the four IDX files, or with span-N folders of them"
    )
    data.add_argument("--span", type=int, metavar="N", help="which span; default: the newest")
    data.add_argument(
        "--profile", metavar="NAME|FILE", help="limits and schema for one's own data (mnist, digits or a TOML file)"
    )
    data.add_argument(
        "--allow", action="append", metavar="FINDING", help="a finding of the data gate that must not stop the run"
    )
    add_training(parser)
    run = parser.add_argument_group("run")
    run.add_argument("--config", metavar="FILE", help="TOML file; flags go over it")
    run.add_argument("--output", metavar="DIR", help="all that a run writes; default: output/")
    run.add_argument("--serving-name", metavar="NAME", help="name of the model in the serving folder; default: mnist")
    run.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write the record of the run there, or to stdout"
    )
    run.add_argument("--fresh", action="store_true", default=None, help="run every stage again")
    run.add_argument("--force-push", metavar="REASON", help="push whatever the model gate says")
    run.add_argument(
        "--beam-arg", action="append", metavar="ARG", help="option for Beam, such as --beam-arg=--runner=FlinkRunner"
    )
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> int:
    """Puts the configuration together, finds the data, and runs."""
    from pipeline import config, record
    from pipeline.local.console import Console

    file = config.read_toml(pathlib.Path(args.config), config.CONFIG_KEYS, "config file") if args.config else {}
    told = {key.replace("_", "-"): value for key, value in vars(args).items() if key not in ("config", "json")}
    flags: dict[str, Any] = {key: told.pop(key) for key in ("model", *HYPERPARAMETERS)}
    flags = {**told, "training": flags}

    # The profile may depend on the data, and finding the data on what is configured: what both need comes first.
    named = told["profile"] or file.get("profile")
    draft = config.build(flags, file, config.find_profile(named or "mnist"))
    with contextlib.closing(Console(sys.stderr if args.json == "-" else sys.stdout)) as console:
        row = _run(draft, named, flags, file, console)
    if args.json == "-":
        print(json.dumps(row, indent=1))
    elif args.json:
        record.write(row, pathlib.Path(args.json).absolute())
    return int(row["exit_code"])


def _run(
    draft: Config, named: str | None, flags: Mapping[str, Any], file: Mapping[str, Any], console: Console
) -> dict[str, Any]:
    """Finds the data, settles the profile, runs, and says how it ended; returns the record."""
    from components import features
    from components.ingest import source
    from components.push import versions
    from pipeline import config, record
    from pipeline.local import run as local_run

    production = versions.production(draft.serving_dir)
    choice = source.resolve(
        draft.dataset,
        draft.data_dir,
        draft.span,
        production_dataset=production.dataset if production else None,
        image_shape=features.IMAGE_SHAPE,
        custom_name=draft.profile if named and draft.profile not in ("mnist", "digits") else source.CUSTOM,
        progress=console.download,
    )
    profile = named or (choice.source.name if choice.source.name in ("mnist", "digits") else "mnist")
    effective = config.build(flags, file, config.find_profile(profile))

    row = local_run.run(effective, choice, console)
    good = row["verdict"] in (record.PUSHED, record.UNCHANGED)
    console.say(record.sentence(row), style="bold green" if good else "bold red")
    console.say(f"Record and log: {pathlib.Path(row['log']).parent}")
    return row


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 done, 2 wrong usage or bad input, 3 stopped by a gate, 1 anything else."""
    try:
        return run(parse(arguments))
    except ProjectError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"FAILED: {error}; the same command goes on from what was finished", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return 1


def died(arguments: Sequence[str], number: int, folder: pathlib.Path | None) -> int:
    """Says, and puts into the record, that a signal ended the process that did the work; returns the exit code."""
    from pipeline import record

    row = record.read(folder) if folder else record.new("")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    stage = next((f" in the stage {one['name']}" for one in row["stages"] if one["state"] == "running"), "")
    row["reason"] = (
        f"{signal.Signals(number).name} ended the process{stage}, which had used {peak / 2**30:.1f} GiB "
        "(the kernel and libraries do that when memory runs out); what was finished is kept, and the same command goes "
        "on from there"
    )
    row["sentence"] = record.sentence(row)
    told = parse(arguments).json if folder else None
    console = sys.stderr if told == "-" else sys.stdout
    print(row["sentence"], file=console)
    if folder:
        print(f"Record and log: {folder}", file=console)
        record.write(row, folder / record.RECORD_FILE)
    if told == "-":
        print(json.dumps(row, indent=1))
    elif told:
        record.write(row, pathlib.Path(told).absolute())
    return int(row["exit_code"])


if __name__ == "__main__":
    sys.exit(supervise.call(lambda: main(sys.argv[1:]), lambda number, folder: died(sys.argv[1:], number, folder)))
