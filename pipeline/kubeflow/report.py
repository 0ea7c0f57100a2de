# SPDX-License-Identifier: Apache-2.0
"""The exit handler's task: the record of the run, its report, and what the Kubeflow UI shows of it.

    python -m pipeline.kubeflow.report --task report --stages NODE,NODE,… --input JSON [--retries N]

It runs however the run went, and knows of it what the tasks have noted (`pipeline.kubeflow.notes`). Its parameters are
those of the run, and `config`, the configuration that the package was compiled with. Its outputs: `html`, one file;
`metrics` and `classification_metrics`, whose metadata the viewers draw; `record`, the record as a local run writes it,
which also lies at ROOT/PIPELINE/RUN/record.json. Its exit code is 0 whatever the verdict: that is the record's.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any

from components import environment, findings, retries, stdio
from components.errors import exit_code
from pipeline import outcome, record
from pipeline.kubeflow import adapt, entrypoint, notes, parameters, stages, viewers

HTML, METRICS, CLASSIFICATION, RECORD = "html", "metrics", "classification_metrics", "record"


def main(arguments: Sequence[str]) -> int:
    """Makes the report and returns the exit code."""
    parser = argparse.ArgumentParser(prog="pipeline.kubeflow.report", description=__doc__, allow_abbrev=False)
    for name in ("task", "stages", "input"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--retries", type=int, default=0)
    told = parser.parse_args(arguments)
    attempts = retries.retrying(told.retries)
    return exit_code(lambda: attempts(_report, json.loads(told.input), told.task, told.stages.split(",")))


def _report(executor_input: dict[str, Any], task: str, names: Sequence[str]) -> None:
    prefix = notes.prefix(executor_input, task)
    outputs = {key: entry["artifacts"][0] for key, entry in executor_input["outputs"]["artifacts"].items()}
    values = dict(executor_input["inputs"]["parameterValues"])
    config = parameters.effective(parameters.complete(json.loads(values.pop("config"))), values)

    with tempfile.TemporaryDirectory() as scratch:
        found = stages.of_run(notes.read(prefix), names, pathlib.Path(scratch))
        row = _record(prefix, config, found)
        _write_page(row, found, outputs[HTML]["uri"], pathlib.Path(scratch))
        text = json.dumps(row, indent=1) + "\n"
        notes.put(f"{prefix}/{notes.RECORD_FILE}", text.encode())
        outputs[METRICS]["metadata"] = viewers.metrics(row)
        outputs[CLASSIFICATION]["metadata"] = _classification(found)

    _local(outputs[RECORD]["uri"]).write_text(text, encoding="utf-8")
    answer = {"artifacts": {key: {"artifacts": [outputs[key]]} for key in (HTML, METRICS, CLASSIFICATION, RECORD)}}
    output_file = pathlib.Path(executor_input["outputs"]["outputFile"])
    output_file.parent.mkdir(parents=True, exist_ok=True)
    output_file.write_text(json.dumps(answer), encoding="utf-8")
    if excluded := (row["dataset"] or {}).get("excluded"):
        sys.stdout.write(f"Left out, as their label is no class: {findings.excluded_words(excluded)}\n")
    sys.stdout.write(f"{row['sentence']}\n")


def _record(prefix: str, config: dict[str, Any], found: Sequence[stages.Stage]) -> dict[str, Any]:
    row = record.new(prefix.rpartition("/")[2], config=config, forced=config["force_push"] or None)
    ingest = next((stage for stage in found if stage.name == "ingest" and stage.outputs), None)
    if ingest is not None:
        row["dataset"] = {
            "name": ingest.property("examples", "dataset"),
            "images": ingest.property("examples", "images"),
            "sha256": ingest.property("examples", "dataset_sha256"),
            "choice": f"read from {config['data_dir']}",
        }
    outcome.fill(row, found)
    outcome.judge(row, found, stages.failure(found))
    row["sentence"] = record.sentence(row)
    return row


def _write_page(row: dict[str, Any], found: Sequence[stages.Stage], uri: str, scratch: pathlib.Path) -> None:
    """Writes the report; the verdict stands even where that fails."""
    from components.report import page

    row["report"] = uri
    try:
        here = {f"{stage.name}.{key}": stage.uri(key) for stage in found for key in stage.outputs if stage.is_read(key)}
        shutil.copyfile(page.write(row, scratch, here), _local(uri))
    except Exception:
        traceback.print_exc()
        row["report"] = None


def _classification(found: Sequence[stages.Stage]) -> dict[str, Any]:
    """Nothing where the run did not get to the evaluation."""
    from components import features
    from components.report import figures

    evaluate = next((stage for stage in found if stage.name == "evaluate" and stage.outputs), None)
    if evaluate is None:
        return {}
    _, models = figures.load(evaluate.uri("checks") / "predictions.npz")
    answers = models["candidate"]
    return viewers.classification(features.CLASSES, figures.confusion(answers), answers.labels, answers.probabilities)


def _local(uri: str) -> pathlib.Path:
    path = pathlib.Path(adapt.local_path(uri))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    environment.prepare()
    os.umask(entrypoint.UMASK)
    stdio.run(lambda: main(sys.argv[1:]))
