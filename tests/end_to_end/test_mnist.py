# SPDX-License-Identifier: Apache-2.0
"""Every model on the real MNIST: the accuracy it must have, every gate open, no finding.

With its default flags; but the convolutional networks that train for minutes get two epochs or less, with bounds below
those of docs/models.md that no dense network reaches.
"""

import pathlib
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("model", "flags", "accuracy"),
    [
        ("linear", (), 0.92),
        ("mlp", (), 0.975),
        ("dnn", (), 0.975),
        ("dnn_dropout", (), 0.975),
        ("cnn", ("--train-steps", "860"), 0.986),
        ("keras_cnn", ("--train-steps", "645"), 0.983),
        ("fast", (), 0.99),
        ("best", ("--train-steps", "860"), 0.99),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_has_its_accuracy(
    run: Any,
    mnist_dir: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
    model: str,
    flags: tuple[str, ...],
    accuracy: float,
) -> None:
    output = tmp_path_factory.getbasetemp() / "mnist"  # one for all models, so that the data stages run once
    # Each has a serving folder of its own, so that none is judged against another network.
    result = run("--data-dir", mnist_dir, "--model", model, "--serving-name", model, "--output", output, *flags)
    assert result.code == 0, result.stdout + result.stderr
    assert result.record["verdict"] == "pushed"
    assert result.record["dataset"]["name"] == "mnist"
    assert result.record["dataset"]["images"] == 70_000
    assert result.record["metrics"]["examples"] == 10_000
    assert result.record["metrics"]["accuracy"] >= accuracy
    assert result.record["findings"] == []
    assert all(gate["passed"] for gate in result.record["gates"])
