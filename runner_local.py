#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the pipeline on this machine: arguments, configuration, run."""

from __future__ import annotations

import pathlib
import sys

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))  # which `python -P` leaves out
    from components import stdio

    stdio.prepare()

import argparse
import contextlib
import resource
import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components import environment, paths, stdio
from components.errors import ProjectError, exit_code
from pipeline import answer
from pipeline.arguments import HYPERPARAMETERS, Parser, add_compute, add_training
from pipeline.local import commands, supervise

if TYPE_CHECKING:
    from components.ingest.source import Choice
    from pipeline.config import Config
    from pipeline.local.console import Console

_STOPPED = "stopped: what was finished is kept, and the same command goes on from there"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="runner_local.py",
        description=__doc__,
        epilog=commands.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", metavar="auto|mnist|digits", help="auto: MNIST where it can be had, else digits")
    data.add_argument(
        "--data-dir",
        metavar="DIR|URL",
        help="folder with the four IDX files, or with span-N folders of them; a path, s3://, gs:// or https://",
    )
    data.add_argument("--span", type=int, metavar="N", help="which span; default: the newest")
    data.add_argument(
        "--profile", metavar="NAME|FILE", help="limits and schema for one's own data (mnist, digits or a TOML file)"
    )
    data.add_argument(
        "--allow", action="append", metavar="FINDING", help="a finding of the data gate that must not stop the run"
    )
    add_training(parser)
    add_compute(parser)
    run = parser.add_argument_group("run")
    run.add_argument("--config", metavar="FILE", help="TOML file; flags go over it")
    run.add_argument("--output", metavar="DIR", help="all that a run writes; default: output/")
    run.add_argument(
        "--serving-dir",
        metavar="DIR|URL",
        help="where models are pushed: a path, s3:// or gs://; default: OUTPUT/serving",
    )
    run.add_argument("--serving-name", metavar="NAME", help="name of the model's folder there; default: mnist")
    answer.add_json(run)
    run.add_argument(
        "--explain", action="store_true", help="run nothing; say which stages would run, and the reason for each"
    )
    run.add_argument("--fresh", action="store_true", default=None, help="run every stage again")
    run.add_argument("--force-push", metavar="REASON", help="push whatever the model gate says")
    run.add_argument(
        "--beam-arg", action="append", metavar="ARG", help="option for Beam, such as --beam-arg=--runner=FlinkRunner"
    )
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> int:
    """Puts the configuration together, finds the data, and runs."""
    from pipeline import config
    from pipeline.local import lock
    from pipeline.local.console import Console

    file = config.read_toml(pathlib.Path(args.config), config.CONFIG_KEYS, "config file") if args.config else {}
    told = {
        key.replace("_", "-"): value for key, value in vars(args).items() if key not in ("config", "json", "explain")
    }
    flags: dict[str, Any] = {key: told.pop(key) for key in ("model", *HYPERPARAMETERS)}
    flags = {**told, "training": flags}

    # The profile may depend on the data, and finding the data on what is configured: what both need comes first.
    named = told["profile"] or file.get("profile")
    draft = config.build(flags, file, config.find_profile(named or "mnist"))
    paths.refuse_patterns(draft.output, "output")
    if not args.explain:
        lock.refuse_unwritable(draft.output)
    with contextlib.closing(Console(answer.stream(args.json))) as console:
        effective, choice = _settle(draft, named, flags, file, console)
        row = _explain(effective, choice, console) if args.explain else _run(effective, choice, console)
    answer.write(row, args.json)
    return int(row.get("exit_code", 0))


def _settle(
    draft: Config, named: str | None, flags: Mapping[str, Any], file: Mapping[str, Any], console: Console
) -> tuple[Config, Choice]:
    """Finds the data and settles the profile."""
    from components import features
    from components.ingest import source
    from components.push import versions
    from pipeline import config

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
    return config.build(flags, file, config.find_profile(profile)), choice


def _explain(effective: Config, choice: Choice, console: Console) -> dict[str, Any]:
    """Says what a run would do."""
    from pipeline.local import run as local_run

    console.say(choice.sentence)
    return {"stages": local_run.explain(effective, choice, console)}


def _run(effective: Config, choice: Choice, console: Console) -> dict[str, Any]:
    """Runs, and says how it ended; returns the record."""
    from components import findings
    from components.report import gates
    from pipeline import record
    from pipeline.local import run as local_run

    row = local_run.run(effective, choice, console)
    if excluded := (row["dataset"] or {}).get("excluded"):
        console.say(f"Left out, as their label is no class: {findings.excluded_words(excluded)}")
    good = row["verdict"] in (record.PUSHED, record.UNCHANGED)
    console.say(record.sentence(row), style="bold green" if good else "bold red")
    console.verdict(gates.short(row))
    console.say(f"Record and log: {pathlib.Path(row['log']).parent}")
    return row


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 done, 2 wrong usage or bad input, 3 stopped by a gate, 1 anything else."""
    try:
        return exit_code(lambda: run(parse(arguments)))
    except OSError as error:
        print(f"FAILED: {error}; the same command goes on from what was finished", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(_STOPPED, file=sys.stderr)
        return 1


def died(arguments: Sequence[str], number: int, folder: pathlib.Path | None) -> int:
    """Says, and puts into the record unless that is complete, that a signal ended the process that did the work.

    Returns:
        The exit code.
    """
    from pipeline import record

    row = record.read(folder) if folder else record.new("")
    if row["reason"] != record.DID_NOT_END:  # the process came to write it
        return int(row["exit_code"]) or 1
    if number in supervise.INTERRUPTIONS:
        print(_STOPPED, file=sys.stderr)
        row["reason"] = supervise.reason(number)
    else:
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        running = [stage["name"] for stage in row["stages"] if stage["state"] == "running"]
        stages = f" in the stage {' or '.join(running)}" if running else ""
        guess = "" if number == signal.SIGQUIT else " (the kernel and libraries do that when memory runs out)"
        row["reason"] = (
            f"{signal.Signals(number).name} ended the process{stages}, which had used {peak / 2**30:.1f} GiB{guess}; "
            "what was finished is kept, and the same command goes on from there"
        )
    row["sentence"] = record.sentence(row)
    told = None
    try:
        told = parse(arguments).json if folder else None
    except ProjectError as error:  # its file could be written when the run began
        print(f"The record could not be written: {error}", file=sys.stderr)
    answer.say(told, row["sentence"])
    try:
        if folder:
            answer.say(told, f"Record and log: {folder}")
            record.write(row, folder / record.RECORD_FILE)
        answer.write(row, told)
    except (OSError, ProjectError) as error:  # the disk may be full as well
        print(f"The record could not be written: {error}", file=sys.stderr)
    return int(row["exit_code"])


if __name__ == "__main__":
    environment.prepare()
    if sys.argv[1:] and sys.argv[1] in commands.NAMES:
        stdio.run(lambda: commands.main(sys.argv[1:]))
    stdio.run(
        lambda: supervise.call(lambda: main(sys.argv[1:]), lambda number, folder: died(sys.argv[1:], number, folder))
    )
