# SPDX-License-Identifier: Apache-2.0
"""Lists the runs of an output folder, writes the report of a run again, or compares two runs.

python -m pipeline.report                    the runs, each with its verdict and accuracy
python -m pipeline.report RUN                writes that run's report again
python -m pipeline.report --compare A B      one page with two runs side by side
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from components import environment, paths, stdio
from components.errors import BadInput, exit_code
from pipeline import cli, run_record
from pipeline.run_record import RunRecord, Verdict

_DESCRIPTION = "Lists the runs of an output folder, writes the report of a run again, or compares two runs."


@dataclasses.dataclass(frozen=True)
class _Row:
    """One run in the list and in the result of `--json`; accuracies are 0 to 1."""

    run_id: str
    verdict: Verdict
    accuracy: float | None
    baseline_accuracy: float | None
    dataset: str | None
    model: str | None
    version: int | None
    forced: str | None
    report: str | None

    @classmethod
    def of(cls, record: RunRecord) -> _Row:
        """Takes the row's values from a record."""
        return cls(
            run_id=record.run_id,
            verdict=record.verdict,
            accuracy=record.metrics.accuracy if record.metrics else None,
            baseline_accuracy=record.baseline.metrics.accuracy if record.baseline else None,
            dataset=record.dataset.name if record.dataset else None,
            model=record.model.type if record.model else None,
            version=record.model.version if record.model else None,
            forced=record.forced,
            report=record.report,
        )

    def __str__(self) -> str:
        accuracy = "–" if self.accuracy is None else f"{self.accuracy:.2%}"
        cells = [self.run_id, f"{self.verdict:<11}", f"{accuracy:>7}", f"{self.dataset or '–':<8}", self.model or ""]
        cells.append(f"version {self.version}" if self.version else "")
        cells.append(f"forced: {' '.join(self.forced.split())}" if self.forced else "")
        return "  ".join(cells).rstrip()


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 done, 2 wrong usage or no such run, 1 anything else."""
    return exit_code(lambda: _run(_parse(arguments)))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.Parser(prog="python -m pipeline.report", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("run", nargs="?", metavar="RUN", help="id of a run, or a part of it that no other has")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two runs")
    parser.add_argument("--output", default="output", metavar="DIR", help="output folder of the runs; default: output")
    cli.add_json_argument(parser)
    args = parser.parse_args(arguments)
    if args.run and args.compare:
        parser.error("either RUN or --compare A B, not both")
    return args


def _run(args: argparse.Namespace) -> None:
    output = paths.absolute(args.output, "--output")
    paths.refuse_patterns(output, "--output")
    if args.run or args.compare:
        try:
            path, result = _write_comparison(output, args.compare) if args.compare else _write_report(output, args.run)
        except OSError as error:
            raise BadInput(f"the page must be written below {output}, but: {error}") from None
        lines = [str(path)]
    else:
        rows = [_Row.of(record) for record in run_record.all_runs(output)]
        lines = [str(row) for row in rows] or [f"No runs in {output}."]
        result = [dataclasses.asdict(row) for row in rows]
    if args.json != cli.STDOUT:
        cli.print_lines(args.json, *lines)
    cli.write_json(result, args.json)


def _write_report(output: pathlib.Path, name: str) -> tuple[pathlib.Path, object]:
    """Writes the report of a run again; returns its path and the result of `--json`."""
    from pipeline.report import page

    record = run_record.find_run(output, name)
    path = page.write(record, run_record.run_folder(output, record.run_id))
    return path, dataclasses.asdict(_Row.of(record)) | {"report": str(path)}


def _write_comparison(output: pathlib.Path, names: Sequence[str]) -> tuple[pathlib.Path, object]:
    """Writes the page that compares two runs; returns its path and the result of `--json`."""
    from pipeline.report import page

    run_a, run_b = (run_record.find_run(output, name) for name in names)
    path = output / "runs" / f"compare-{run_a.run_id}-{run_b.run_id}.html"
    page.write_comparison(run_a, run_b, path)
    rows = [dataclasses.asdict(_Row.of(run)) for run in (run_a, run_b)]
    return path, {"compared": rows, "report": str(path)}


if __name__ == "__main__":
    environment.prepare()
    stdio.run(lambda: main(sys.argv[1:]))
