# SPDX-License-Identifier: Apache-2.0
"""The model card: what one should know of a pushed model before using it, made from its provenance.

It travels with the model, beside `provenance.json`: `model_card.json` for programs and `model_card.md` for people.
After M. Mitchell et al., Model Cards for Model Reporting, https://doi.org/10.1145/3287560.3287596.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components import features, intervals
from components.push import card_text, versions

SCHEMA_VERSION = 1
JSON_FILE, TEXT_FILE = "model_card.json", "model_card.md"

# What is known of the data by its name, which ingest gives to those very files alone.
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
    "licence": "not known: these are somebody's own files, ask whoever gave them",
    "about": "Not known: nothing but the files was given.",
}


def beside(provenance: Mapping[str, Any]) -> dict[str, bytes]:
    """The files that go beside a SavedModel because of its provenance: name below the version -> content."""
    card = build(provenance)
    texts = {
        versions.PROVENANCE_FILE: json.dumps(provenance, indent=1),
        JSON_FILE: json.dumps(card, indent=1),
        TEXT_FILE: card_text.render(card),
    }
    return {f"{versions.EXTRA}/{name}": text.encode() for name, text in texts.items()}


def build(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The card as JSON values. What the provenance does not say is null; nothing is guessed.

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
        f"It answers one of its {len(features.CLASSES)} classes for every image, also for one that shows none of them.",
        f"Its figures come from {images} of the data set {dataset or 'it was trained on'}. Other pens, scanners and "
        "writers give other figures: measure on your own images first.",
        "Its probabilities are not calibrated for other images, and it does not resist images made to deceive it.",
        "Not for decisions about people, money or safety without somebody who checks.",
    ]


def _intervals(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The ends of 95 % intervals, those that evaluation measured and else Wilson's; None without counts."""
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
