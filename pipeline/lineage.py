# SPDX-License-Identifier: Apache-2.0
"""The origin of a pushed model, and the differences of two models: the command `python -m pipeline.lineage`.

Facts come from ML Metadata. If the metadata cannot be read, or lack the version, they come from the model's
`provenance.json`, and the output says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from components import environment, stdio
from components.errors import BadInput, exit_code
from components.push import model_card, versions
from components.push.serving_dir import ServingDir, open_destination
from pipeline import cli, metadata, run_record, settings, tables
from pipeline.cli import Parser

METADATA, PROVENANCE = "ML Metadata", "provenance.json"
# Fields of the card that are not compared: they always differ, or follow from others.
_NOT_COMPARED = frozenset(
    {"name", "version", "run_id", "pushed_at", "intended_use", "limits", "intervals", "schema_version"}
)
_NOT_COMPARED_IN = {
    "config": {"output", "schema", "data_dir"},  # paths, whose content is compared by its digest
    "metrics": {"confusion", "slices", "intervals", "calibration"},
    "baseline": {"metrics"},
    "best": {"metrics"},
}


@dataclasses.dataclass(frozen=True)
class Lineage:
    """One version of a model and its origin.

    Attributes:
        card: the model card, see `model_card.build_card`.
        location: path or URL of the version; None if it was removed.
        production: whether the version is in production.
        labels: of the version.
        source: of the facts, METADATA or PROVENANCE.
        note: the reason why the source is not ML Metadata, or None.
        steps: the stages that led to the version, in the order of time; empty without ML Metadata.
    """

    card: Mapping[str, Any]
    location: str | None
    production: bool
    labels: tuple[str, ...]
    source: str
    note: str | None
    steps: tuple[metadata.Step, ...]

    @property
    def version(self) -> int:
        """The number of the version."""
        return int(self.card["version"])

    def to_json(self) -> dict[str, Any]:
        """Returns the fields of the card and the others as JSON values."""
        values = dataclasses.asdict(self)
        return {**values.pop("card"), **values}


@dataclasses.dataclass(frozen=True)
class Difference:
    """A field of the card in which two versions differ, such as `config.training.seed`, and its values."""

    name: str
    a: Any
    b: Any


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The comparison of two versions; `same` and `different` are parts of the card, such as `data` and `config`."""

    same: tuple[str, ...]
    different: tuple[str, ...]
    differences: tuple[Difference, ...]


def model_lineage(model_dir: ServingDir, database: pathlib.Path, number: int | None) -> Lineage:
    """Returns the lineage of one version.

    Args:
        model_dir: the model's folder.
        database: the metadata of the output folder.
        number: the version; None: the one in production.

    Raises:
        BadInput: there is no such version.
    """
    folder = open_destination(model_dir)
    present = {version.number: version for version in versions.all_versions(folder)}
    production = versions.production_version(folder)
    note, pushes, store = None, [], None
    try:
        store = metadata.connect(database)
        with metadata.translate_errors(database):
            pushes = metadata.read_pushes(store)
    except metadata.MetadataError as error:
        note = str(error)
    if number is None:
        if production is None:
            raise BadInput(f"without a VERSION, the one in production is described; {folder.url} has none")
        number = production.number
    version = present.get(number)
    push = metadata.find_push(pushes, number, folder.location(number), version.provenance if version else {})
    provenance, steps = (push.provenance if push else {}), []
    try:
        if store and push:
            with metadata.translate_errors(database):
                steps = metadata.read_steps(store, push.artifact_id, database.parent)
    except metadata.MetadataError as error:
        note = str(error)
    if push is None and version is None:
        numbers = {push.version for push in pushes}
        removed = {n for n in numbers if metadata.find_push(pushes, n, folder.location(n), {})}
        listing = ", ".join(map(str, sorted({*present, *removed}))) or "none"
        raise BadInput(f"VERSION takes one that was pushed to {folder.url}, not {number}; pushed versions: {listing}")
    if not provenance and version is not None:
        note = note or f"The metadata in {database} do not have this version."
        provenance = version.provenance
    provenance = run_record.rebase(provenance, database.parent)
    return Lineage(
        card=model_card.build_card({**provenance, "version": number}),
        location=version.location if version else None,
        production=production is not None and production.number == number,
        labels=tuple(sorted(label for label, bearer in versions.read_labels(folder).items() if bearer == number)),
        source=PROVENANCE if note else METADATA,
        note=note and f"{note} The facts are from {PROVENANCE} instead.",
        steps=tuple(steps),
    )


def compare(lineage_a: Lineage, lineage_b: Lineage) -> Comparison:
    """Compares the model cards of two versions."""
    a, b = _flatten(lineage_a.card), _flatten(lineage_b.card)
    names = [name for name in dict.fromkeys([*a, *b]) if (a.get(name), b.get(name)) != (None, None)]
    differences = tuple(Difference(name, a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name))
    parts = dict.fromkeys(name.partition(".")[0] for name in names)
    different = {difference.name.partition(".")[0] for difference in differences}
    return Comparison(
        same=tuple(part for part in parts if part not in different),
        different=tuple(part for part in parts if part in different),
        differences=differences,
    )


def _flatten(card: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"config": {"training": {"seed": 1}}} -> {"config.training.seed": 1}; gates and findings by their names."""
    flat: dict[str, Any] = {}
    for key, value in card.items():
        if not prefix and key in _NOT_COMPARED:
            continue
        part = f"{prefix}{key}"
        if prefix and key in _NOT_COMPARED_IN.get(prefix[:-1], ()):
            continue
        if part == "gates":
            flat |= {
                f"gates.{gate['name']}.{field}": gate[field]
                for gate in value or ()
                for field in ("measured", "limit", "passed")
            }
        elif part == "findings":
            for finding in value or ():
                flat[f"findings.{finding['name']}"] = flat.get(f"findings.{finding['name']}", 0) + 1
        elif isinstance(value, Mapping):
            flat |= _flatten(value, f"{part}.")
        else:
            flat[part] = value
    return flat


_UNKNOWN = "unknown"


class _Table(NamedTuple):
    """A section with more columns than a name and a value."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def print_lineage(lineage: Lineage, terminal: Console) -> None:
    """Prints the lineage of a version."""
    state = "in production" if lineage.production else "removed" if lineage.location is None else "not in production"
    labels = "".join(f", {label}" for label in lineage.labels)
    title = f"{lineage.card['name'] or 'model'}, version {lineage.version} ({state}{labels})"
    tables.line(terminal, title, "bold")
    tables.line(terminal, lineage.note or f"From {lineage.source}.", "yellow" if lineage.note else "dim")
    for title, section in _sections(lineage):
        terminal.print()
        tables.line(terminal, title, "bold")
        _print_section(section, terminal)


def print_comparison(lineage_a: Lineage, lineage_b: Lineage, comparison: Comparison, terminal: Console) -> None:
    """Prints the comparison of two versions."""
    for lineage in (lineage_a, lineage_b):
        if lineage.note:
            tables.line(terminal, f"Version {lineage.version}: {lineage.note}", "yellow")
    tables.line(terminal, f"Same: {', '.join(comparison.same) or 'nothing'}.", "green")
    tables.line(terminal, f"Different: {', '.join(comparison.different) or 'nothing'}.", "bold")
    if comparison.differences:
        header = ("", f"version {lineage_a.version}", f"version {lineage_b.version}")
        rows = [(row.name, _short_text(row.a), _short_text(row.b)) for row in comparison.differences]
        tables.show(terminal, rows, header, gap=4, indent=2)


def _sections(lineage: Lineage) -> Iterator[tuple[str, list[tuple[str, Any]] | _Table]]:
    card = lineage.card
    data, metrics, intervals = card["data"], card["metrics"] or {}, card["intervals"] or {}
    if rollback := card["rollback"]:
        yield (
            "Rollback",
            [
                ("the model of version", rollback["of"]),
                ("in place of version", (rollback.get("replaced") or {}).get("version")),
                ("by", rollback["by"]),
                ("at", rollback["at"]),
                ("reason", rollback["reason"]),
            ],
        )
    yield (
        "Origin",
        [
            ("pushed at", card["pushed_at"]),
            ("pushed to", lineage.location or "removed since"),
            ("run", card["run_id"]),
            ("forced", card["forced"] or "no"),
            ("git commit", card["code"]["git_commit"]),
            ("code, SHA-256", card["code"]["sha256"]),
            ("locked dependencies, SHA-256", card["dependencies"]["lock_sha256"]),
            ("schema, SHA-256", (card["schema"] or {}).get("sha256")),
            ("model, SHA-256", card["model"]["sha256"]),
        ],
    )
    splits = ", ".join(f"{count:,} {name}" for name, count in (data["splits"] or {}).items())
    yield (
        "Data",
        [
            ("name", data["name"]),
            ("choice", data["choice"]),
            ("images", f"{data['images'] or 0:,}: {splits or _UNKNOWN}"),
            ("span", data["span"]),
            ("licence", data["licence"]),
            ("SHA-256", data["sha256"]),
            *((f"SHA-256 of {name}", digest) for name, digest in (data["files"] or {}).items()),
        ],
    )
    low, high = intervals.get("accuracy") or (None, None)
    interval = f" (95 % interval {low:.2%} to {high:.2%})" if low is not None else ""
    recall = metrics.get("recall") or {}
    yield (
        "Metrics on the test images",
        [
            ("accuracy", f"{metrics['accuracy']:.2%}{interval}" if metrics else None),
            ("loss", metrics.get("loss")),
            (
                "lowest recall",
                min(((value, f"{value:.2%}, class {name}") for name, value in recall.items()), default=(0, None))[1],
            ),
            ("baseline", _reference(card["baseline"])),
            ("best ever pushed", _reference(card["best"])),
        ],
    )
    gates = card["gates"] or []
    if gates:
        rows = [(gate["name"], "passed" if gate["passed"] else "failed", gate["reason"]) for gate in gates]
        yield "Gates", _Table(("gate", "result", "reason"), rows)
    findings = card["findings"] or []
    if findings:
        rows = [
            (finding["name"], "allowed" if finding.get("allowed") else "", finding["sentence"]) for finding in findings
        ]
        yield "Findings in the data", _Table(("finding", "", "description"), rows)
    yield "Configuration", [(name, _text(value)) for name, value in _config_items(card["config"])]
    if lineage.steps:
        steps = [(step.stage, step.started_at, f"{step.seconds:.1f} s", step.run_id) for step in lineage.steps]
        yield "Stages that led to it", _Table(("stage", "started at", "time", "run"), steps)


def _reference(version: Mapping[str, Any] | None) -> str:
    if not version:
        return "none at that time"
    return f"version {version['version']}, accuracy {version['metrics']['accuracy']:.2%}"


def _config_items(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _config_items(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def _short_text(value: Any) -> str:
    """Returns a value as text, a digest shortened to its beginning."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = _text(value)
    return f"{text[:12]}…" if re.fullmatch(r"[0-9a-f]{40,}", text) else text


def _print_section(section: list[tuple[str, Any]] | _Table, terminal: Console) -> None:
    if isinstance(section, _Table):
        tables.show(terminal, section.rows, section.header, gap=4, indent=2)
    else:
        rows = [(Text(name, "dim"), _UNKNOWN if value is None else str(value)) for name, value in section]
        tables.show(terminal, rows, gap=2, indent=2)


_DESCRIPTION = "Shows the origin of a pushed model, or compares two of them."
_FILE_WIDTH = 160  # columns without a terminal, enough for digests


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 done, 2 wrong usage or no such version, 1 anything else."""
    return exit_code(lambda: _run(_parse(arguments)))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m pipeline.lineage", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("version", nargs="?", type=int, metavar="VERSION", help="default: the one in production")
    parser.add_argument("--compare", nargs=2, type=int, metavar=("A", "B"), help="two versions")
    settings.add_location_arguments(parser)
    args = parser.parse_args(arguments)
    if args.version is not None and args.compare:
        parser.error("either VERSION or --compare A B, not both")
    return args


def _run(args: argparse.Namespace) -> None:
    location = settings.open_location(args)
    terminal = Console(highlight=False, quiet=args.json == cli.STDOUT)
    if not terminal.is_terminal:
        terminal.width = _FILE_WIDTH
    if not args.compare:
        lineage = model_lineage(location.model, location.database, args.version)
        print_lineage(lineage, terminal)
        cli.write_json(lineage.to_json(), args.json)
        return
    a, b = (model_lineage(location.model, location.database, number) for number in args.compare)
    comparison = compare(a, b)
    print_comparison(a, b, comparison, terminal)
    cli.write_json({"compared": args.compare, **dataclasses.asdict(comparison)}, args.json)


if __name__ == "__main__":
    environment.prepare()
    stdio.run(lambda: main(sys.argv[1:]))
