# SPDX-License-Identifier: Apache-2.0
"""The run itself as a command: its arguments, its settings, and its end."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import resource
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from components import features, findings, paths
from components.errors import ProjectError
from pipeline import cli, run_record, settings
from pipeline.cli import Parser
from pipeline.local import commands, lock, supervisor
from pipeline.run_record import State, Verdict

if TYPE_CHECKING:
    from components.ingest.source import DatasetChoice
    from pipeline.local.console import Console
    from pipeline.run_record import RunRecord
    from pipeline.settings import Settings

INTERRUPTED = "stopped: finished work is kept, and the same command resumes from it"
_DESCRIPTION = "Runs the pipeline on this machine: arguments, configuration, run."
_BUILT_IN = ("mnist", "digits")  # data sets with a profile of the same name


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line of a run."""
    parser = Parser(
        prog="runner_local.py",
        description=_DESCRIPTION,
        epilog=commands.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    cli.add_version_argument(parser)
    run = settings.add_flags(parser)["run"]
    run.add_argument("--config", metavar="FILE", help="TOML file with the same keys; flags override it")
    cli.add_json_argument(run)
    run.add_argument("--explain", action="store_true", help="run nothing; list the stages that would run, with reasons")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> int:
    """Reads the settings, finds the data, and runs; returns the exit code."""
    from pipeline.local.console import Console

    flags, config_layer = settings.read_flags(args), settings.read_config(args.config)
    # The profile may depend on the data, and finding the data on the settings, so those are read twice.
    profile = flags.get("profile") or config_layer.get("profile")
    draft = settings.build(flags, config_layer, settings.find_profile(profile or "mnist"))
    paths.refuse_patterns(draft.output, "output")
    if not args.explain:
        lock.refuse_unwritable(draft.output)
    with contextlib.closing(Console(cli.message_stream(args.json))) as console:
        choice = _find_dataset(draft, has_profile=profile is not None, console=console)
        if profile is None:
            profile = choice.source.name if choice.source.name in _BUILT_IN else "mnist"
        config = settings.build(flags, config_layer, settings.find_profile(profile))
        if args.explain:
            cli.write_json(_explain(config, choice, console), args.json)
            return 0
        record = _run(config, choice, console)
    cli.write_json(record.to_json(), args.json)
    return record.exit_code


def _find_dataset(draft: Settings, has_profile: bool, console: Console) -> DatasetChoice:
    from components.ingest import source
    from components.push import versions

    production = versions.production_version(draft.model_dir)
    return source.resolve(
        draft.dataset,
        draft.data_dir,
        draft.span,
        production_dataset=production.dataset if production else None,
        image_shape=features.IMAGE_SHAPE,
        custom_name=draft.profile if has_profile and draft.profile not in _BUILT_IN else source.CUSTOM,
        progress=console.download,
    )


def _explain(config: Settings, choice: DatasetChoice, console: Console) -> dict[str, Any]:
    from pipeline.local import runner

    console.say(choice.sentence)
    return {"stages": runner.explain_run(config, choice, console)}


def _run(config: Settings, choice: DatasetChoice, console: Console) -> RunRecord:
    """Runs the pipeline and prints its verdict; returns the record."""
    from pipeline.local import runner
    from pipeline.report import gates

    record = runner.run_pipeline(config, choice, console)
    if record.dataset and record.dataset.excluded:
        console.say(f"Excluded, as their label is not a class: {findings.excluded_words(record.dataset.excluded)}")
    console.say(record.sentence or "", style="bold green" if record.verdict.is_good else "bold red")
    console.verdict(gates.short_gates(record))
    console.say(f"Record and log: {run_record.run_folder(config.output, record.run_id)}")
    return record


def record_death(arguments: Sequence[str], number: int, folder: pathlib.Path | None) -> int:
    """Reports that a signal ended the process of a run, and completes its record unless the process did.

    Args:
        arguments: of the command.
        number: of the signal.
        folder: the run's; None where it ended before it had one.

    Returns:
        The exit code.
    """
    record = run_record.read_record(folder) if folder else run_record.RunRecord(run_id="")
    if record.has_ended:  # the process wrote it
        return record.exit_code or 1
    if number in supervisor.INTERRUPTIONS:
        sys.stderr.write(f"{INTERRUPTED}\n")
        reason = supervisor.signal_reason(number)
    else:
        reason = _death_reason(record, number)
    record = record.end(Verdict.FAILED, reason)
    destination = None
    try:
        destination = parse(arguments).json if folder else None
    except ProjectError as error:  # its file could be written when the run began
        sys.stderr.write(f"The record could not be written: {error}\n")
    cli.print_lines(destination, record.sentence or "")
    try:
        if folder:
            cli.print_lines(destination, f"Record and log: {folder}")
            run_record.write_record(record, folder)
        cli.write_json(record.to_json(), destination)
    except (OSError, ProjectError) as error:  # the disk may be full as well
        sys.stderr.write(f"The record could not be written: {error}\n")
    return record.exit_code


def _death_reason(record: RunRecord, number: int) -> str:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    running = [stage.name for stage in record.stages if stage.state == State.RUNNING]
    stages = f" in the stage {' or '.join(running)}" if running else ""
    cause = "" if number == signal.SIGQUIT else " (the kernel and libraries do that when memory runs out)"
    return (
        f"{signal.Signals(number).name} ended the process{stages}, which had used {peak / 2**30:.1f} GiB{cause}; "
        "finished work is kept, and the same command resumes from it"
    )
