# SPDX-License-Identifier: Apache-2.0
"""Every model on the real MNIST: the accuracy it must have, every gate open, no finding.

With its default flags; but `best`, which trains for minutes, is given a tenth of its steps.
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
        ("cnn", (), 0.992),
        ("keras_cnn", (), 0.99),
        ("fast", (), 0.99),
        ("best", ("--train-steps", "1720"), 0.99),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_is_as_good_as_it_is_said_to_be(
    run: Any,
    mnist_dir: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
    model: str,
    flags: tuple[str, ...],
    accuracy: float,
) -> None:
    output = (
        tmp_path_factory.getbasetemp() / "mnist"
    )  # one for all, so that what does not depend on the model is reused
    # Each has a serving folder of its own, so that none is judged against another network.
    ended = run("--data-dir", mnist_dir, "--model", model, "--serving-name", model, "--output", output, *flags)
    assert ended.code == 0, ended.stdout + ended.stderr
    assert ended.record["verdict"] == "pushed"
    assert ended.record["dataset"]["name"] == "mnist"
    assert ended.record["dataset"]["images"] == 70_000
    assert ended.record["metrics"]["examples"] == 10_000
    assert ended.record["metrics"]["accuracy"] >= accuracy
    assert ended.record["findings"] == []
    assert all(gate["passed"] for gate in ended.record["gates"])
