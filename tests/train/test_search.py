# SPDX-License-Identifier: Apache-2.0
"""The search, with a formula in place of trainings."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable

import pytest

from components import progress
from components.errors import BadInput, GateStopped, ProjectError
from components.train import search
from components.train.callbacks import TrainingResult
from components.train.hyperparameters import MODELS, Hyperparameters

# KerasTuner uses deprecated names of Python's threading.
pytestmark = pytest.mark.filterwarnings("ignore:(currentThread|getName).. is deprecated:DeprecationWarning")

CNN = MODELS["cnn"]
MAX_RATE = 0.01  # trainings with a higher learning rate diverge


class FakeTraining:
    """Computes the accuracy by a formula whose maximum is at a learning rate of 0.002."""

    def __init__(self):
        self.trials: list[Hyperparameters] = []
        self.interrupt_at = 0
        self.error: Exception | None = None

    def __call__(self, trial: Hyperparameters, log_folder: str) -> TrainingResult:
        self.trials.append(trial)
        pathlib.Path(log_folder).mkdir(parents=True)  # fails if it exists, for another trial's logs
        if len(self.trials) == self.interrupt_at:
            raise KeyboardInterrupt
        if self.error:
            raise self.error
        if trial.learning_rate > MAX_RATE:
            raise GateStopped("its loss must be a number;\nlower the learning rate")
        accuracy = 1 - abs(trial.learning_rate - 0.002)
        rows = [{"val_accuracy": accuracy, "val_loss": 0.5}, {"val_accuracy": 0.1, "val_loss": 2.0}]
        return TrainingResult(
            devices=["CPU:0"], precision="float32", batch_size=trial.batch_size, steps=trial.train_steps, epochs=rows,
            best_epoch=1, stopped_early=False, seconds=2.5, parameters=1,
        )  # fmt: skip


def run_search(
    folder: pathlib.Path,
    train: Callable[[Hyperparameters, str], TrainingResult],
    trials: int = 8,
    fixed=(),
    base: Hyperparameters = CNN,
):
    tuner = search.Search(base, fixed, trials, train, str(folder))
    tuner.search()
    return tuner


def test_a_damaged_state_is_an_error(tmp_path):
    run_search(tmp_path, FakeTraining(), trials=2)
    oracle = tmp_path / "search" / "oracle.json"
    oracle.write_text(oracle.read_text()[:40])
    with pytest.raises(
        ProjectError, match=r"the state of the search in .* remove it to start the search from the beginning"
    ):
        run_search(tmp_path, FakeTraining(), trials=2)


def test_the_first_trial_is_the_base_and_the_best_wins(tmp_path):
    train = FakeTraining()
    tuner = run_search(tmp_path, train, fixed=["dropout"])
    results = tuner.results()
    rows = results["trials"]
    assert [row["number"] for row in rows] == list(range(1, 9))
    assert rows[0]["values"] == {name: getattr(CNN, name) for name in results["space"]}
    assert "dropout" not in results["space"]
    assert len({str(row["values"]) for row in rows}) == 8
    for row, trial in zip(rows, train.trials, strict=True):
        assert {name: getattr(trial, name) for name in row["values"]} == row["values"]
        assert trial.dropout == CNN.dropout
        assert trial.train_steps * trial.batch_size == pytest.approx(CNN.train_steps * 128 / 4, rel=0.01)
        diverged = trial.learning_rate > MAX_RATE
        assert row["state"] == ("diverged" if diverged else "done")
        assert (row["val_loss"], row["seconds"], row["steps"]) == (
            (None, None, None) if diverged else (0.5, 2.5, trial.train_steps)
        )
        assert row["reason"] == ("its loss must be a number; lower the learning rate" if diverged else None)
    assert {row["state"] for row in rows} == {"done", "diverged"}
    best = max((row for row in rows if row["val_accuracy"]), key=lambda row: row["val_accuracy"])
    assert results["winner"] == best["number"] > 1
    winner = tuner.get_best_hyperparameters()[0].values
    steps = round(CNN.train_steps * 128 / best["values"]["batch_size"])
    assert winner == best["values"] | {"train_steps": steps}


def test_trials_depend_on_the_seed_and_not_on_their_number(tmp_path):
    def values(name, trials=6, **options):
        return [row["values"] for row in run_search(tmp_path / name, FakeTraining(), trials, **options).rows()]

    first = values("a")
    assert values("b") == first
    assert values("c", trials=9)[:6] == first
    reseeded = values("d", base=Hyperparameters.of("cnn", seed=0))
    assert reseeded[0] == first[0]
    assert reseeded[1:] != first[1:]
    assert values("e", base=Hyperparameters.of("cnn", seed=0)) == reseeded


@pytest.mark.parametrize(
    ("losses", "winner"),
    [([0.5, 0.2, 0.4, 0.2], 2), ([0.5, 0.5, 0.5, 0.5], 1), ([float("nan"), 0.7, 0.6, float("inf")], 3)],
    ids=["lowest loss", "first", "not finite"],
)
def test_the_loss_and_then_the_order_decide_between_equal_accuracies(tmp_path, losses, winner):
    remaining = iter(losses)

    def train(trial, log_folder):
        epochs = [{"val_accuracy": 0.9, "val_loss": next(remaining)}]
        return TrainingResult(["CPU:0"], "float32", 1, 1, epochs, 1, False, 1.0, 1)

    assert run_search(tmp_path, train, 4).results()["winner"] == winner


@pytest.mark.parametrize("trial", [1, 4])
def test_an_interrupted_search_resumes_to_the_same_result(tmp_path, trial):
    uninterrupted = FakeTraining()
    expected = run_search(tmp_path / "uninterrupted", uninterrupted)
    resumed = FakeTraining()
    resumed.interrupt_at = trial
    with pytest.raises(KeyboardInterrupt):
        run_search(tmp_path / "resumed", resumed)
    assert run_search(tmp_path / "resumed", resumed).results() == expected.results()
    # Only the interrupted trial is trained twice.
    assert resumed.trials[: trial - 1] + resumed.trials[trial:] == uninterrupted.trials


def test_a_search_without_a_winner_is_stopped(tmp_path):
    with pytest.raises(GateStopped, match="all 5 diverged; the first: its loss must be a number; lower the learning"):
        run_search(tmp_path, FakeTraining(), 5, base=Hyperparameters.of("cnn", learning_rate=1.0))


def test_another_error_ends_the_search(tmp_path):
    train = FakeTraining()
    train.error = OSError("no space left")
    with pytest.raises(Exception, match="no space left") as error:
        run_search(tmp_path, train)
    assert error.value.__cause__ is train.error
    assert len(train.trials) == 1


def test_a_small_space_ends_the_search_early(tmp_path):
    tuner = run_search(tmp_path, FakeTraining(), 10, fixed=["learning_rate"], base=MODELS["linear"])
    assert sorted(row["values"]["batch_size"] for row in tuner.rows()) == [64, 128, 256]


def test_a_search_with_every_hyperparameter_fixed_is_refused(tmp_path):
    with pytest.raises(BadInput, match="needs a hyperparameter"):
        run_search(tmp_path, FakeTraining(), 3, fixed=["learning_rate", "batch_size"], base=MODELS["linear"])


def test_progress_has_trial_values_accuracy_and_the_best_so_far(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "progress"):
        rows = run_search(tmp_path, FakeTraining(), 3, fixed=["train_steps"], base=MODELS["linear"]).rows()
        progress.report(progress.Message("exporting"))
    rates = [f"learning_rate {row['values']['learning_rate']:.3g}" for row in rows]
    assert caplog.messages[:3] == [
        f"trial 1/3, {rates[0]}",
        f"trial 1/3: {rates[0]}: 99.20 % on val, 2 s (best so far 99.20 %, trial 1)",
        f"trial 2/3 (best so far 99.20 %, trial 1), {rates[1]}",
    ]
    assert caplog.messages[-1] == "exporting"  # without a prefix after the search
