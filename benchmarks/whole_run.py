# SPDX-License-Identifier: Apache-2.0
"""Whole runs, process start to pushed model, against a plain Keras script that does the same work.

Both read the same files, train the same network for the same steps, evaluate on the test images and export. The
pipeline also checks the data, measures with TFMA, tries the export in a fresh process, passes the gates, pushes and
reports. In each round the two take turns, then come a run with nothing changed and one with another network.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from benchmarks.measurement import Measurement, Options
from benchmarks.processes import ROOT, Timed, timed
from components.errors import ProjectError

_BATCH_SIZE = "128"
_LAYER = 'layers.Dense(300, activation="relu")'


def measure(options: Options, say: Callable[[str], None]) -> list[Measurement]:
    """Runs all four once for each round."""
    rows: list[dict[str, float]] = []
    for number in range(1, options.rounds + 1):
        rows.append(_round(options, options.scratch / f"whole-{number}"))
        told = ", ".join(f"{name} {value:.1f}" for name, value in rows[-1].items())
        say(f"  round {number} of {options.rounds}, seconds: {told}")
    by_name = {name: [row[name] for row in rows] for name in rows[0]}
    return [
        Measurement("whole run / plain Keras script", "s", by_name["run"], by_name["plain"], at_most=1.6),
        Measurement("the same, CPU time", "CPU s", by_name["run CPU"], by_name["plain CPU"]),
        Measurement("run with nothing changed", "s", by_name["unchanged"], at_most=2.0),
        Measurement(
            "run with another network / start-up, train, evaluate, gates and push of the full run",
            "s", by_name["network"], by_name["its part"], at_most=1.25,
        ),
        Measurement("stage evaluate / `model.evaluate`", "s", by_name["evaluate"], by_name["model.evaluate"]),
    ]  # fmt: skip


def _round(options: Options, folder: pathlib.Path) -> dict[str, float]:
    folder.mkdir()
    plain_script = [sys.executable, ROOT / "benchmarks/plain_keras.py", options.data_dir, "--steps", str(options.steps)]
    plain = timed([*plain_script, "--batch-size", _BATCH_SIZE, "--export", folder / "plain"])
    laps = json.loads(plain.stdout.splitlines()[-1])["seconds"]
    checkout = _checkout(folder / "checkout")
    full, record = _run(options, checkout, {"pushed"})
    unchanged, _ = _run(options, checkout, {"unchanged"})
    _change_network(checkout)
    # Whether it is better is not the question.
    network, _ = _run(options, checkout, {"pushed", "not_blessed"})
    seconds = {stage["name"]: stage["seconds"] for stage in record["stages"]}
    shutil.rmtree(folder)
    return {
        "plain": plain.seconds,
        "run": full.seconds,
        "plain CPU": plain.cpu_seconds,
        "run CPU": full.cpu_seconds,
        "unchanged": unchanged.seconds,
        "network": network.seconds,
        "its part": full.seconds - _data_seconds(seconds),
        "evaluate": seconds["evaluate"],
        "model.evaluate": laps["evaluate"],
    }


def _data_seconds(seconds: Mapping[str, float]) -> float:
    """What the stages took that need not run again when only the network changed.

    All else is start-up, train, evaluate, gates and push. image-check runs beside statistics.
    """
    beside = max(seconds["statistics"], seconds["image-check"])
    return seconds["ingest"] + beside + seconds["data-check"] + seconds["transform"]


def _run(options: Options, checkout: pathlib.Path, verdicts: Collection[str]) -> tuple[Timed, dict[str, Any]]:
    file = checkout / "record.json"
    file.unlink(missing_ok=True)
    ended = timed(
        [
            sys.executable, "runner_local.py", "--data-dir", options.data_dir, "--train-steps", str(options.steps),
            "--batch-size", _BATCH_SIZE, "--output", checkout / "output", "--json", file,
        ],
        checkout,
        good=(0, 3),
    )  # fmt: skip
    record = json.loads(file.read_text(encoding="utf-8"))
    if record["verdict"] not in verdicts:
        raise ProjectError(f"the verdict must be {' or '.join(sorted(verdicts))}; the run said: {record['sentence']}")
    return ended, record


def _checkout(copy: pathlib.Path) -> pathlib.Path:
    """A copy of what a run needs of this project, to be edited; compiled, as an installation is."""
    for name in ("components", "pipeline"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("runner_local.py", "requirements.lock"):
        shutil.copy2(ROOT / name, copy / name)
    return copy


def _change_network(checkout: pathlib.Path) -> None:
    networks = checkout / "components/train/models.py"
    text = networks.read_text(encoding="utf-8")
    if text.count(_LAYER) != 1:
        raise ProjectError(f"{_LAYER} must be in components/train/models.py once, to change it; name another layer")
    networks.write_text(text.replace(_LAYER, _LAYER.replace("300", "301")), encoding="utf-8")
