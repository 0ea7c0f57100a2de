# SPDX-License-Identifier: Apache-2.0
"""What the command lines of both runners share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NoReturn

from components.errors import BadInput
from components.train.devices import ACCELERATORS, PRECISIONS
from components.train.hyperparameters import MODELS

HYPERPARAMETERS: Mapping[str, type] = {
    "ksize1": int, "ksize2": int, "nfil1": int, "nfil2": int, "dropout": float, "learning-rate": float,
    "batch-size": int, "train-steps": int, "seed": int, "patience": int,
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """One line on stderr and exit code 2 for wrong usage."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see --help")


def add_training(parser: argparse.ArgumentParser) -> None:
    """Adds the model, its hyperparameters, and how it is trained with them."""
    training = parser.add_argument_group("training")
    training.add_argument("--model", choices=tuple(MODELS), help="default: cnn")
    for name, kind in HYPERPARAMETERS.items():
        defaults = {getattr(model, name.replace("-", "_")) for model in MODELS.values()} - {None}
        training.add_argument(f"--{name}", type=kind, metavar=kind.__name__.upper(), help=_default_of(defaults))
    training.add_argument(
        "--precision", choices=PRECISIONS, help="default: auto, bfloat16 on GPUs that have it, else float32"
    )
    training.add_argument(
        "--tune", type=int, metavar="N", help="try N sets of what no flag says, and train with the best (0: do not)"
    )


def add_compute(parser: argparse.ArgumentParser) -> None:
    """Adds what the training runs on; a cluster's is said when it is compiled."""
    compute = parser.add_argument_group("devices")
    compute.add_argument(
        "--accelerator", choices=ACCELERATORS, help="default: auto, a GPU where there is one, else the CPU"
    )
    compute.add_argument("--gpus", type=int, metavar="N", help="how many of this machine's GPUs train; default: 1")


def _default_of(defaults: set[Any]) -> str:
    return (
        f"default: {defaults.pop()}" if len(defaults) == 1 else f"default: by model, {min(defaults)} to {max(defaults)}"
    )
