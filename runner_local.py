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
from pipeline import cli
from pipeline.cli import HYPERPARAMETERS, Parser, add_compute_arguments, add_training_arguments
from pipeline.local import commands, supervisor

if TYPE_CHECKING:
    from components.ingest.source import DatasetChoice
    from pipeline.local.console import Console
    from pipeline.run_record import RunRecord
    from pipeline.settings import Config

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
    add_training_arguments(parser)
    add_compute_arguments(parser)
    run = parser.add_argument_group("run")
    run.add_argument("--config", metavar="FILE", help="TOML file; flags go over it")
    run.add_argument("--output", metavar="DIR", help="all that a run writes; default: output/")
    run.add_argument(
        "--serving-dir",
        metavar="DIR|URL",
        help="where models are pushed: a path, s3:// or gs://; default: OUTPUT/serving",
    )
    run.add_argument("--serving-name", metavar="NAME", help="name of the model's folder there; default: mnist")
    cli.add_json_argument(run)
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
    from pipeline import settings
    from pipeline.local import lock
    from pipeline.local.console import Console

    file = settings.read_toml(pathlib.Path(args.config), settings.CONFIG_KEYS, "config file") if args.config else {}
    told = {
        key.replace("_", "-"): value for key, value in vars(args).items() if key not in ("config", "json", "explain")
    }
    flags: dict[str, Any] = {key: told.pop(key) for key in ("model", *HYPERPARAMETERS)}
    flags = {**told, "training": flags}

    # The profile may depend on the data, and finding the data on what is configured: what both need comes first.
    named = told["profile"] or file.get("profile")
    draft = settings.build(flags, file, settings.find_profile(named or "mnist"))
    paths.refuse_patterns(draft.output, "output")
    if not args.explain:
        lock.refuse_unwritable(draft.output)
    with contextlib.closing(Console(cli.message_stream(args.json))) as console:
        effective, choice = _settle(draft, named, flags, file, console)
        if args.explain:
            cli.write_json(_explain(effective, choice, console), args.json)
            return 0
        record = _run(effective, choice, console)
    cli.write_json(record.to_json(), args.json)
    return record.exit_code


def _settle(
    draft: Config, named: str | None, flags: Mapping[str, Any], file: Mapping[str, Any], console: Console
) -> tuple[Config, DatasetChoice]:
    """Finds the data and settles the profile."""
    from components import features
    from components.ingest import source
    from components.push import versions
    from pipeline import settings

    production = versions.production_version(draft.serving_dir)
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
    return settings.build(flags, file, settings.find_profile(profile)), choice


def _explain(effective: Config, choice: DatasetChoice, console: Console) -> dict[str, Any]:
    """Says what a run would do."""
    from pipeline.local import runner as local_run

    console.say(choice.sentence)
    return {"stages": local_run.explain_run(effective, choice, console)}


def _run(effective: Config, choice: DatasetChoice, console: Console) -> RunRecord:
    """Runs the pipeline, shows the verdict, and returns the record."""
    from components import findings
    from pipeline import run_record
    from pipeline.local import runner as local_run
    from pipeline.report import content

    record = local_run.run_pipeline(effective, choice, console)
    if record.dataset and record.dataset.excluded:
        console.say(f"Left out, as their label is no class: {findings.excluded_words(record.dataset.excluded)}")
    console.say(record.sentence or "", style="bold green" if record.verdict.is_good else "bold red")
    console.verdict(content.short_gates(record))
    console.say(f"Record and log: {run_record.run_folder(effective.output, record.run_id)}")
    return record


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
    from pipeline import run_record
    from pipeline.run_record import State, Verdict

    record = run_record.read_record(folder) if folder else run_record.RunRecord(run_id="")
    if record.has_ended:  # the process came to write it
        return record.exit_code or 1
    if number in supervisor.INTERRUPTIONS:
        print(_STOPPED, file=sys.stderr)
        reason = supervisor.signal_reason(number)
    else:
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        running = [stage.name for stage in record.stages if stage.state == State.RUNNING]
        stages = f" in the stage {' or '.join(running)}" if running else ""
        guess = "" if number == signal.SIGQUIT else " (the kernel and libraries do that when memory runs out)"
        reason = (
            f"{signal.Signals(number).name} ended the process{stages}, which had used {peak / 2**30:.1f} GiB{guess}; "
            "what was finished is kept, and the same command goes on from there"
        )
    record = record.end(Verdict.FAILED, reason)
    told = None
    try:
        told = parse(arguments).json if folder else None
    except ProjectError as error:  # its file could be written when the run began
        print(f"The record could not be written: {error}", file=sys.stderr)
    cli.print_lines(told, record.sentence or "")
    try:
        if folder:
            cli.print_lines(told, f"Record and log: {folder}")
            run_record.write_record(record, folder)
        cli.write_json(record.to_json(), told)
    except (OSError, ProjectError) as error:  # the disk may be full as well
        print(f"The record could not be written: {error}", file=sys.stderr)
    return record.exit_code


if __name__ == "__main__":
    environment.prepare()
    if sys.argv[1:] and sys.argv[1] in commands.NAMES:
        stdio.run(lambda: commands.main(sys.argv[1:]))
    stdio.run(
        lambda: supervisor.call(lambda: main(sys.argv[1:]), lambda number, folder: died(sys.argv[1:], number, folder))
    )
