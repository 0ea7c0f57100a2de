# SPDX-License-Identifier: Apache-2.0
"""Lists the runs of an output folder, writes the report of one again, or compares two.

python -m pipeline.report                    the runs, each with its verdict and accuracy
python -m pipeline.report RUN                writes that run's report again
python -m pipeline.report --compare A B      one page with two runs side by side
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from components import environment, paths, stdio
from components.errors import BadInput, exit_code
from pipeline import run_record
from pipeline.run_record import RunRecord

_DESCRIPTION = "Lists the runs of an output folder, writes the report of one again, or compares two."


class _Parser(argparse.ArgumentParser):
    """One line on stderr and exit code 2 for wrong usage."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see --help")


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 done, 2 wrong usage or no such run, 1 anything else."""

    def work() -> None:
        args = _parse(arguments)
        result, lines = _do(args)
        text = json.dumps(result, indent=1)
        sys.stdout.write((text if args.json == "-" else "\n".join(lines)) + "\n")
        if args.json not in (None, "-"):
            _save(pathlib.Path(args.json), text)

    return exit_code(work)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="python -m pipeline.report", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("run", nargs="?", metavar="RUN", help="id of a run, or a part of it that no other has")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two runs")
    parser.add_argument("--output", default="output", metavar="DIR", help="where the runs lie; default: output/")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="the result there, or on stdout")
    args = parser.parse_args(arguments)
    if args.json not in (None, "-"):
        paths.refuse_unwritable_file(args.json, "--json")
    if args.run and args.compare:
        parser.error("either RUN or --compare A B, not both")
    return args


def _do(args: argparse.Namespace) -> tuple[Any, list[str]]:
    """What was asked for: the result as JSON values, and the lines for a person."""
    output = paths.absolute(args.output, "--output")
    paths.refuse_patterns(output, "--output")
    if not (args.run or args.compare):
        listed = [_row(record) for record in run_record.all_runs(output)]
        return listed, [_line(row) for row in listed] or [f"No runs in {output}."]
    from pipeline.report import page

    try:
        if args.run:
            record = run_record.find_run(output, args.run)
            path = page.write(record, run_record.run_folder(output, record.run_id))
            return _row(record) | {"report": str(path)}, [str(path)]
        one, other = (run_record.find_run(output, name) for name in args.compare)
        path = output / "runs" / f"compare-{one.run_id}-{other.run_id}.html"
        page.write_comparison(one, other, path)
    except OSError as error:
        raise BadInput(f"the page must be written below {output}, but: {error}") from None
    return {"compared": [_row(one), _row(other)], "report": str(path)}, [str(path)]


def _row(record: RunRecord) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "verdict": record.verdict,
        "accuracy": record.metrics and record.metrics.accuracy,
        "baseline_accuracy": record.baseline and record.baseline.metrics.accuracy,
        "dataset": record.dataset and record.dataset.name,
        "model": record.model and record.model.type,
        "version": record.model and record.model.version,
        "forced": record.forced,
        "report": record.report,
    }


def _line(row: Mapping[str, Any]) -> str:
    accuracy = "–" if row["accuracy"] is None else f"{row['accuracy']:.2%}"
    version = f"version {row['version']}" if row["version"] else ""
    told = [row["run_id"], f"{row['verdict']:<11}", f"{accuracy:>7}", f"{row['dataset'] or '–':<8}", row["model"] or ""]
    forced = f"forced: {' '.join(row['forced'].split())}" if row["forced"] else ""
    return "  ".join([*told, version, forced]).rstrip()


def _save(path: pathlib.Path, text: str) -> None:
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--json names a file that can be written, but {path}: {error.strerror}") from None


if __name__ == "__main__":
    environment.prepare()
    stdio.run(lambda: main(sys.argv[1:]))
