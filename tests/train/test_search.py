# SPDX-License-Identifier: Apache-2.0
"""The search: what is tried, what wins, and how it goes on. The trainings are stood in for by a formula."""

from __future__ import annotations

import logging
import pathlib

import pytest

from components import progress
from components.errors import BadInput, GateStopped, ProjectError
from components.train import search
from components.train.hyperparameters import MODELS, Hyperparameters
from components.train.loop import Training

# KerasTuner asks for the thread's name in the way of Python 2.
pytestmark = pytest.mark.filterwarnings("ignore:(currentThread|getName).. is deprecated:DeprecationWarning")

CNN = MODELS["cnn"]
HIGH = 0.01  # learning rate from which a training diverges here


class Trainings:
    """Trains by a formula: the best is a learning rate of 0.002."""

    def __init__(self):
        self.told: list[Hyperparameters] = []
        self.interrupt_at = 0
        self.error: Exception | None = None

    def __call__(self, told: Hyperparameters, log_folder: str) -> Training:
        self.told.append(told)
        pathlib.Path(log_folder).mkdir(parents=True)  # fails where another trial's logs are
        if len(self.told) == self.interrupt_at:
            raise KeyboardInterrupt
        if self.error:
            raise self.error
        if told.learning_rate > HIGH:
            raise GateStopped("its loss must be a number;\nlower the learning rate")
        accuracy = 1 - abs(told.learning_rate - 0.002)
        rows = [{"val_accuracy": accuracy, "val_loss": 0.5}, {"val_accuracy": 0.1, "val_loss": 2.0}]
        return Training(
            devices=["CPU:0"], precision="float32", batch_size=told.batch_size, steps=told.train_steps, epochs=rows,
            best_epoch=1, stopped_early=False, seconds=2.5, parameters=1,
        )  # fmt: skip


def searched(folder: pathlib.Path, train: Trainings, trials: int = 8, fixed=(), base: Hyperparameters = CNN):
    tuner = search.Search(base, fixed, trials, train, str(folder))
    tuner.search()
    return tuner


def test_a_state_that_was_cut_short_is_said_with_the_way_out(tmp_path):
    searched(tmp_path, Trainings(), trials=2)
    oracle = tmp_path / "search" / "oracle.json"
    oracle.write_text(oracle.read_text()[:40])
    with pytest.raises(ProjectError, match=r"the state of the search in .* remove it, and the search begins anew"):
        searched(tmp_path, Trainings(), trials=2)


def test_the_first_trial_has_the_values_in_force_and_the_best_wins(tmp_path):
    train = Trainings()
    tuner = searched(tmp_path, train, fixed=["dropout"])
    results = tuner.results()
    rows = results["trials"]
    assert [row["number"] for row in rows] == list(range(1, 9))
    assert rows[0]["values"] == {name: getattr(CNN, name) for name in results["space"]}
    assert "dropout" not in results["space"]
    assert len({str(row["values"]) for row in rows}) == 8
    for row, told in zip(rows, train.told, strict=True):
        assert {name: getattr(told, name) for name in row["values"]} == row["values"]
        assert told.dropout == CNN.dropout
        assert told.train_steps * told.batch_size == pytest.approx(CNN.train_steps * 128 / 4, rel=0.01)
        diverged = told.learning_rate > HIGH
        assert row["state"] == ("diverged" if diverged else "done")
        assert (row["val_loss"], row["seconds"], row["steps"]) == (
            (None, None, None) if diverged else (0.5, 2.5, told.train_steps)
        )
        assert row["reason"] == ("its loss must be a number; lower the learning rate" if diverged else None)
    assert {row["state"] for row in rows} == {"done", "diverged"}
    best = max((row for row in rows if row["val_accuracy"]), key=lambda row: row["val_accuracy"])
    assert results["winner"] == best["number"] > 1
    chosen = tuner.get_best_hyperparameters()[0].values
    steps = round(CNN.train_steps * 128 / best["values"]["batch_size"])
    assert chosen == best["values"] | {"train_steps": steps}


def test_a_seed_gives_its_trials_and_a_longer_search_begins_with_them(tmp_path):
    def values(name, **told):
        trials = told.pop("trials", 6)
        return [row["values"] for row in searched(tmp_path / name, Trainings(), trials, **told).rows()]

    first = values("a")
    assert values("b") == first
    assert values("c", trials=9)[:6] == first
    others = values("d", base=Hyperparameters.of("cnn", seed=0))
    assert others[0] == first[0]
    assert others[1:] != first[1:]
    assert values("e", base=Hyperparameters.of("cnn", seed=0)) == others


def test_equal_accuracies_are_told_apart_by_the_loss_and_then_by_the_order(tmp_path):
    def at(number):
        return lambda told, folder: Training(
            ["CPU:0"], "float32", 1, 1, [{"val_accuracy": 0.9, "val_loss": losses.pop(0)}], 1, False, 1.0, 1
        )

    losses = [0.5, 0.2, 0.4, 0.2]
    assert searched(tmp_path / "a", at(1), 4).results()["winner"] == 2
    losses = [0.5, 0.5, 0.5, 0.5]
    assert searched(tmp_path / "b", at(1), 4).results()["winner"] == 1
    losses = [float("nan"), 0.7, 0.6, float("inf")]
    assert searched(tmp_path / "c", at(1), 4).results()["winner"] == 3


@pytest.mark.parametrize("at", [1, 4])
def test_an_interrupted_search_goes_on_to_the_same_end(tmp_path, at):
    train = Trainings()
    whole = searched(tmp_path / "whole", train)
    again = Trainings()
    again.interrupt_at = at
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "again", again)
    ended = searched(tmp_path / "again", again)
    assert ended.results() == whole.results()
    assert again.told[: at - 1] + again.told[at:] == train.told  # nothing was done twice but the trial in between


def test_a_search_without_a_winner_is_stopped(tmp_path):
    with pytest.raises(
        GateStopped, match="all 5 diverged; of the first: its loss must be a number; lower the learning"
    ):
        searched(tmp_path, Trainings(), 5, base=Hyperparameters.of("cnn", learning_rate=1.0))


def test_another_error_ends_the_search(tmp_path):
    train = Trainings()
    train.error = OSError("no space left")
    with pytest.raises(Exception, match="no space left") as caught:
        searched(tmp_path, train)
    assert caught.value.__cause__ is train.error
    assert len(train.told) == 1


def test_a_small_space_ends_the_search_early(tmp_path):
    tuner = searched(tmp_path, Trainings(), 10, fixed=["learning_rate"], base=MODELS["linear"])
    assert sorted(row["values"]["batch_size"] for row in tuner.rows()) == [64, 128, 256]


def test_nothing_to_search_is_refused(tmp_path):
    with pytest.raises(BadInput, match="needs a hyperparameter"):
        searched(tmp_path, Trainings(), 3, fixed=["learning_rate", "batch_size"], base=MODELS["linear"])


def test_progress_says_trial_values_accuracy_and_the_best_so_far(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "progress"):
        rows = searched(tmp_path, Trainings(), 3, fixed=["train_steps"], base=MODELS["linear"]).rows()
        progress.report(progress.Message("exporting"))
    rates = [f"learning_rate {row['values']['learning_rate']:.3g}" for row in rows]
    assert caplog.messages[:3] == [
        f"trial 1/3, {rates[0]}",
        f"trial 1/3: {rates[0]}: 99.20 % on val, 2 s (best so far 99.20 %, trial 1)",
        f"trial 2/3 (best so far 99.20 %, trial 1), {rates[1]}",
    ]
    assert caplog.messages[-1] == "exporting"  # without the scope of a trial
