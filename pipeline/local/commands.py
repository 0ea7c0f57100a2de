# SPDX-License-Identifier: Apache-2.0
"""The commands of runner_local.py beside the run itself. Each imports its modules when it is called.

`doctor` must start without any package installed, so this module and its imports use the standard library alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from components.errors import exit_code
from pipeline import cli
from pipeline.cli import Parser

NAMES = ("prune", "rollback", "label", "doctor")
HELP = """\
commands:
  prune --keep N            remove old runs and versions; never the one in production
  rollback [VERSION]        put an older model back in production
  label VERSION NAME        set, move or remove a label, such as canary
  doctor                    check whether this machine can run the pipeline
Each has its own --help. For the origin of a model: python -m pipeline.lineage
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command that the first argument names; returns the exit code, as `runner_local.main` does."""
    name, *rest = arguments
    commands = {"prune": _prune, "rollback": _rollback, "label": _label, "doctor": _doctor}
    try:
        return exit_code(lambda: commands[name](Parser(prog=f"runner_local.py {name}", allow_abbrev=False), rest))
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def _prune(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    from pipeline import settings
    from pipeline.local import housekeeping

    parser.description = "Removes old runs and versions that are no longer needed, and prints the space freed."
    parser.add_argument("--keep", type=int, required=True, metavar="N", help="number of runs and versions that stay")
    settings.add_location_arguments(parser)
    args = parser.parse_args(arguments)
    result = housekeeping.prune(settings.open_location(args), args.keep)
    removed, freed = result["removed"], result["freed"]
    versions = ", ".join(f"{number} ({reason})" for number, reason in result["kept"]["versions"].items()) or "none"
    cli.print_lines(
        args.json,
        f"Freed {freed['total'] / 1e6:,.1f} MB: {_numbers('version', removed['versions'])}, "
        f"{_numbers('run', removed['runs'])}, {removed['artifacts']} artifacts, {removed['checkpoints']} checkpoints.",
        f"Kept: versions {versions}; {len(result['kept']['runs'])} runs with their artifacts.",
        *([result["note"]] if result["note"] else []),
    )
    cli.write_json(result, args.json)
    return 0


def _rollback(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    from components.push import versions
    from pipeline import settings
    from pipeline.local import housekeeping

    parser.description = "Puts an older model back in production, under the next number."
    parser.add_argument("version", nargs="?", type=int, metavar="VERSION", help="default: the one before production")
    parser.add_argument("--reason", metavar="TEXT", help="the reason, for the record")
    settings.add_location_arguments(parser)
    args = parser.parse_args(arguments)
    location = settings.open_location(args)
    before = versions.production_version(location.model)
    new, notes = housekeeping.roll_back(location, args.version, args.reason)
    rollback = new.provenance["rollback"]
    cli.print_lines(
        args.json,
        f"In production now: version {new.number}, which is version {rollback['of']} again, in {new.location}",
        f"It replaces version {before.number if before else '–'}; no run pushes that model again by itself.",
        *notes,
    )
    cli.write_json({"version": new.number, "path": new.location, **rollback}, args.json)
    return 0


def _label(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    from components.push import labels
    from pipeline import settings

    parser.description = "Sets, moves or removes a label. The version labelled canary is not in production."
    parser.add_argument("version", type=int, metavar="VERSION")
    parser.add_argument("name", metavar="NAME", help="such as canary")
    parser.add_argument("--remove", action="store_true", help="remove it")
    settings.add_location_arguments(parser)
    args = parser.parse_args(arguments)
    change = labels.change(settings.open_location(args).model, args.version, args.name, remove=args.remove)
    before, after = change["production"]
    moved = f", and no longer on version {change['before']}" if change["before"] not in (None, args.version) else ""
    cli.print_lines(
        args.json,
        f"{args.name} is removed from version {args.version}."
        if args.remove
        else f"{args.name} is on version {args.version}{moved}.",
        f"In production: version {after}" + (f" (before: {before})." if after != before else ", as before."),
    )
    cli.write_json(change, args.json)
    return 0


def _doctor(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    from pipeline.local import doctor

    parser.description = "Checks whether this machine can run the pipeline, and names the remedy for each problem."
    parser.add_argument("--output", default="output", metavar="DIR", help="folder of the runs; default: output/")
    parser.add_argument("--serving-dir", metavar="DIR|URL", help="where models are pushed to; default: OUTPUT/serving")
    parser.add_argument("--serving-name", default="mnist", metavar="NAME", help="name of the model's folder there")
    cli.add_json_argument(parser)
    args = parser.parse_args(arguments)
    return doctor.main(args.output, args.serving_dir, args.serving_name, args.json)


def _numbers(noun: str, numbers: Sequence[int]) -> str:
    listed = f" ({', '.join(map(str, numbers))})" if numbers else ""
    return f"{len(numbers)} {noun}{'' if len(numbers) == 1 else 's'}{listed}"
