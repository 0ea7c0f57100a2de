# SPDX-License-Identifier: Apache-2.0
"""The model card: facts to know before using a pushed model, made from its provenance.

It is stored with the model, beside `provenance.json`: `model_card.json` for programs and `model_card.md` for people.
After M. Mitchell et al., Model Cards for Model Reporting, https://doi.org/10.1145/3287560.3287596.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components import features, intervals
from components.findings import excluded_words
from components.push import versions

SCHEMA_VERSION = 1
JSON_FILE, TEXT_FILE = "model_card.json", "model_card.md"

# Facts about the data sets whose names ingest reserves for those very files.
_DATA = {
    "mnist": {
        "licence": "CC BY-SA 3.0, Y. LeCun, C. Cortes, C. Burges",
        "about": "Digits written by employees of the US Census Bureau and by American high-school students.",
    },
    "digits": {
        "licence": "CC BY 4.0, E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning "
        "Repository, https://doi.org/10.24432/C50P49, as scikit-learn carries it",
        "about": "1,797 digits of 8x8 pixels, enlarged to 28x28: for trying things out.",
    },
}
_OWN_DATA = {
    "licence": "unknown: these are private files, ask their owner",
    "about": "Unknown: only the files are available.",
}


def beside(provenance: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns the files made from a provenance: name below the version -> content."""
    card = build_card(provenance)
    texts = {
        versions.PROVENANCE_FILE: json.dumps(provenance, indent=1),
        JSON_FILE: json.dumps(card, indent=1),
        TEXT_FILE: render_markdown(card),
    }
    return {f"{versions.EXTRA}/{name}": text.encode() for name, text in texts.items()}


def build_card(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the card as JSON values. Facts that the provenance lacks are null; nothing is guessed.

    Args:
        provenance: content of a version's provenance file.
    """
    config = provenance.get("config") or {}
    dataset = provenance.get("dataset") or {}
    metrics = provenance.get("metrics")
    model = provenance.get("model") or {}
    name = dataset.get("name")
    return {
        "schema_version": SCHEMA_VERSION,
        "name": config.get("serving_name"),
        "version": provenance.get("version"),
        "pushed_at": provenance.get("pushed_at"),
        "run_id": provenance.get("run_id"),
        "forced": provenance.get("forced"),
        "rollback": provenance.get("rollback"),
        "model": {
            "type": (config.get("training") or {}).get("model"),
            "parameters": model.get("parameters"),
            "steps": model.get("steps"),
            "sha256": model.get("sha256"),
        },
        "intended_use": _intended_use(),
        "limits": _limits(name, metrics),
        "data": {
            **{key: dataset.get(key) for key in ("name", "sha256", "span", "images", "splits", "excluded", "files")},
            "choice": provenance.get("dataset_choice"),
            **_DATA.get(str(name), _OWN_DATA),
        },
        "schema": provenance.get("schema"),
        "code": {"sha256": provenance.get("code_digest"), "git_commit": provenance.get("git_commit")},
        "dependencies": {"lock_sha256": provenance.get("lock_digest")},
        "config": config,
        "metrics": metrics,
        "intervals": _intervals(metrics),
        "baseline": provenance.get("baseline"),
        "best": provenance.get("best"),
        "gates": provenance.get("gates"),
        "findings": provenance.get("findings"),
    }


def _intended_use() -> list[str]:
    height, width = features.IMAGE_SHAPE
    return [
        f"Tells which of the classes {', '.join(features.CLASSES)} a grey image of {width}x{height} pixels shows: one "
        "object on a dark background, sized and centred as in the training data.",
        "Made to show, test and measure a production pipeline, and as the start for a classifier of one's own images.",
    ]


def _limits(dataset: object, metrics: Mapping[str, Any] | None) -> list[str]:
    images = f"{metrics['examples']:,} test images" if metrics and metrics.get("examples") else "test images"
    return [
        f"It predicts one of its {len(features.CLASSES)} classes for every image, even if that shows none of them.",
        f"Its figures come from {images} of the data set {dataset or 'it was trained on'}. Other pens, scanners and "
        "writers give other figures: measure on your own images first.",
        "Its probabilities are not calibrated for other images, and it does not resist images made to deceive it.",
        "Not for decisions about people, money or safety without somebody who checks.",
    ]


def _intervals(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the ends of 95 % intervals, from evaluation or else Wilson's; None without counts."""
    examples = (metrics or {}).get("examples")
    if not metrics or not examples or metrics.get("accuracy") is None:
        return None
    counts = [sum(row) for row in metrics.get("confusion") or ()]
    recall = metrics.get("recall") or {}
    return {
        "level": intervals.LEVEL,
        "accuracy": list(intervals.wilson(metrics["accuracy"] * examples, examples)),
        **(metrics.get("intervals") or {}),
        "recall": {
            name: list(intervals.wilson(recall[name] * count, count))
            for name, count in zip(features.CLASSES, counts, strict=False)
            if count and name in recall
        },
    }


_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&!$@])")
# GitHub makes links of bare addresses.
_ADDRESS = re.compile(r"(?i)(?<=http)(s?):(?=//)|(?<=www)\.")
_UNKNOWN = "unknown"


def render_markdown(card: Mapping[str, Any]) -> str:
    """The card as text: GitHub's Markdown, one line for each paragraph.

    Args:
        card: from `build_card`.
    """
    model, data, code = card["model"], card["data"], card["code"]
    title = f"{_text(card['name'] or 'Model')}, version {_text(card['version'])}"
    facts = [
        ("pushed at", card["pushed_at"]),
        ("network", model["type"]),
        ("parameters", model["parameters"]),
        ("training steps", model["steps"]),
        ("SHA-256 of the model", model["sha256"]),
        ("run", card["run_id"]),
        ("code", f"commit {code['git_commit'] or _UNKNOWN}, SHA-256 {code['sha256'] or _UNKNOWN}"),
        ("SHA-256 of the locked dependencies", card["dependencies"]["lock_sha256"]),
    ]
    about_data = [
        ("data set", data["name"]),
        ("choice", data["choice"]),
        ("about", data["about"]),
        ("licence of the data", data["licence"]),
        ("span", data["span"]),
        ("images", data["images"]),
        ("splits", _counts(data["splits"])),
        *([("left out, as their label is no class", excluded_words(data["excluded"]))] if data["excluded"] else []),
        ("SHA-256 of the data set", data["sha256"]),
        *((f"SHA-256 of {name}", digest) for name, digest in (data["files"] or {}).items()),
        ("SHA-256 of the schema", (card["schema"] or {}).get("sha256")),
    ]
    parts = [
        f"# Model card: {title}",
        *_notices(card),
        _table(("", ""), facts),
        "## Intended use",
        _list(card["intended_use"]),
        "## Limits",
        _list(card["limits"]),
        "## Data",
        _table(("", ""), about_data),
        "## Figures on the test images",
        *_figures(card),
        "## Compared with",
        _compared(card),
        "## Gates",
        _table(
            ("gate", "measured", "limit", "passed", "reason"),
            [
                (gate["name"], *map(_figure, (gate["measured"], gate["limit"])), _yes(gate["passed"]), gate["reason"])
                for gate in card["gates"] or ()
            ],
        ),
        "## Findings in the data",
        _list(
            f"{finding['name']}{' (allowed)' if finding.get('allowed') else ''}: {finding['sentence']}"
            for finding in card["findings"] or ()
        ),
        "## Configuration",
        _table(("setting", "value"), _flat(card["config"])),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _notices(card: Mapping[str, Any]) -> list[str]:
    notices = []
    if back := card["rollback"]:
        reason = f", because: {back['reason']}" if back.get("reason") else ""
        notices.append(
            f"A rollback: this is version {back['of']} again, republished by {back['by']} at {back['at']} in place of "
            f"version {back['replaced']['version']}{reason}."
        )
    if card["forced"]:
        notices.append(f"Pushed past the model gate by force, because: {card['forced']}")
    return [f"> {_text(notice)}" for notice in notices]


def _figures(card: Mapping[str, Any]) -> list[str]:
    metrics, interval = card["metrics"], card["intervals"]
    if not metrics:
        return [f"{_UNKNOWN.capitalize()}."]
    share = ("figure", "value", "95 % interval")
    rows = [
        ("accuracy", _percent(metrics.get("accuracy")), _interval(interval and interval["accuracy"])),
        ("loss (nats)", metrics.get("loss"), _ends(interval and interval.get("loss"))),
        ("test images", metrics.get("examples"), ""),
    ]
    rows += [
        (f"recall of class {name}", _percent(value), _interval((interval or {"recall": {}})["recall"].get(name)))
        for name, value in (metrics.get("recall") or {}).items()
    ]
    return [_table(share, rows)]


def _compared(card: Mapping[str, Any]) -> str:
    sentences = []
    for role, other in (("in production then", card["baseline"]), ("the best ever pushed then", card["best"])):
        if other:
            accuracy = _percent((other.get("metrics") or {}).get("accuracy"))
            sentences.append(f"Version {other['version']}, {role}: accuracy {accuracy}.")
    return _list(sentences) if sentences else "Nothing: there was no model in production."


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)))
    return rows


def _counts(splits: Mapping[str, int] | None) -> str | None:
    return ", ".join(f"{count:,} {name}" for name, count in splits.items()) if splits else None


def _figure(value: float | None) -> float | str:
    return "–" if value is None else value


def _yes(passed: bool) -> str:
    return "yes" if passed else "NO"


def _percent(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.2%}"


def _interval(value: Sequence[float] | None) -> str:
    return f"{value[0]:.2%} to {value[1]:.2%}" if value else ""


def _ends(value: Sequence[float] | None) -> str:
    return f"{value[0]:.4f} to {value[1]:.4f}" if value else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [" | ".join(_text(_UNKNOWN if cell is None else cell) for cell in row) for row in rows]
    if not lines:
        return "None."
    return "\n".join(f"| {line} |" for line in [" | ".join(header), " | ".join("---" for _ in header), *lines])


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {_text(item)}" for item in items) or "None."


def _text(value: Any) -> str:
    """Any value as one line in which no character is markup."""
    shown = f"{value:,}" if type(value) is int else f"{value:.6g}" if isinstance(value, float) else str(value)
    line = " ".join("".join(char if char.isprintable() else " " for char in shown).split())
    escaped = _SPECIAL.sub(r"\\\1", line)
    return _ADDRESS.sub(lambda match: rf"{match[1]}\:" if match[0].endswith(":") else r"\.", escaped)
