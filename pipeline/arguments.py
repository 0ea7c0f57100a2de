# SPDX-License-Identifier: Apache-2.0
"""What the command lines of both runners share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NoReturn

from components.errors import BadInput
from components.train.hyperparameters import MODELS

HYPERPARAMETERS: Mapping[str, type] = {
    "ksize1": int, "ksize2": int, "nfil1": int, "nfil2": int, "dropout": float, "learning-rate": float,
    "batch-size": int, "train-steps": int, "seed": int,
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """One line on stderr and exit code 2 for wrong usage."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see --help")


def add_training(parser: argparse.ArgumentParser) -> None:
    """Adds the model and its hyperparameters."""
    training = parser.add_argument_group("training")
    training.add_argument("--model", choices=tuple(MODELS), help="default: cnn")
    for name, kind in HYPERPARAMETERS.items():
        defaults = {getattr(model, name.replace("-", "_")) for model in MODELS.values()} - {None}
        training.add_argument(f"--{name}", type=kind, metavar=kind.__name__.upper(), help=_default_of(defaults))


def _default_of(defaults: set[Any]) -> str:
    return (
        f"default: {defaults.pop()}" if len(defaults) == 1 else f"default: by model, {min(defaults)} to {max(defaults)}"
    )
