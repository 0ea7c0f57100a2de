# SPDX-License-Identifier: Apache-2.0
"""The commands of runner_local.py beside the run itself. Each imports what it needs when it is called.

`doctor` must start where nothing is installed, so this imports, and what it imports, the standard library alone.
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
  prune --keep N            remove what old runs left; never what is in production
  rollback [VERSION]        put an older model back in production
  label VERSION NAME        set, move or remove a label, such as canary
  doctor                    say whether this machine can run it, and what to do if not
Each has its own --help. Where a model came from: python -m pipeline.lineage
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

    parser.description = "Removes what old runs left and versions that nobody needs, and tells what that freed."
    parser.add_argument("--keep", type=int, required=True, metavar="N", help="how many runs and versions stay")
    settings.add_location_arguments(parser)
    args = parser.parse_args(arguments)
    result = housekeeping.prune(settings.open_location(args), args.keep)
    removed, freed = result["removed"], result["freed"]
    kept = ", ".join(f"{number} ({why})" for number, why in result["kept"]["versions"].items()) or "none"
    cli.print_lines(
        args.json,
        f"Freed {freed['total'] / 1e6:,.1f} MB: {_numbers('version', removed['versions'])}, "
        f"{_numbers('run', removed['runs'])}, {removed['artifacts']} artifacts, {removed['checkpoints']} checkpoints.",
        f"Kept: versions {kept}; {len(result['kept']['runs'])} runs with their artifacts.",
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
    parser.add_argument("--reason", metavar="TEXT", help="why, for the record")
    settings.add_location_arguments(parser)
    args = parser.parse_args(arguments)
    where = settings.open_location(args)
    before = versions.production_version(where.model)
    new, notes = housekeeping.roll_back(where, args.version, args.reason)
    told = new.provenance["rollback"]
    cli.print_lines(
        args.json,
        f"In production now: version {new.number}, which is version {told['of']} again, in {new.location}",
        f"It replaces version {before.number if before else '–'}, whose model no run pushes again by itself.",
        *notes,
    )
    cli.write_json({"version": new.number, "path": new.location, **told}, args.json)
    return 0


def _label(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    from components.push import labels
    from pipeline import settings

    parser.description = "Sets, moves or removes a label. The version labelled canary is not in production."
    parser.add_argument("version", type=int, metavar="VERSION")
    parser.add_argument("name", metavar="NAME", help="such as canary")
    parser.add_argument("--remove", action="store_true", help="take it off")
    settings.add_location_arguments(parser)
    args = parser.parse_args(arguments)
    done = labels.change(settings.open_location(args).model, args.version, args.name, remove=args.remove)
    before, after = done["production"]
    moved = f", and no longer on version {done['before']}" if done["before"] not in (None, args.version) else ""
    cli.print_lines(
        args.json,
        f"{args.name} is taken off version {args.version}."
        if args.remove
        else f"{args.name} is on version {args.version}{moved}.",
        f"In production: version {after}" + (f" (before: {before})." if after != before else ", as before."),
    )
    cli.write_json(done, args.json)
    return 0


def _doctor(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    from pipeline.local import doctor

    parser.description = (
        "Says whether this machine can run the pipeline, and what to do about each thing that is wrong."
    )
    parser.add_argument("--output", default="output", metavar="DIR", help="what runs write; default: output/")
    parser.add_argument("--serving-dir", metavar="DIR|URL", help="where models are pushed to; default: OUTPUT/serving")
    parser.add_argument("--serving-name", default="mnist", metavar="NAME", help="name of the model's folder there")
    cli.add_json_argument(parser)
    args = parser.parse_args(arguments)
    return doctor.main(args.output, args.serving_dir, args.serving_name, args.json)


def _numbers(what: str, numbers: Sequence[int]) -> str:
    listed = f" ({', '.join(map(str, numbers))})" if numbers else ""
    return f"{len(numbers)} {what}{'' if len(numbers) == 1 else 's'}{listed}"
