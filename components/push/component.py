# SPDX-License-Identifier: Apache-2.0
"""The nodes of push: `Baseline` reads the models in the serving folder, `Push` adds a version to it."""

import datetime
import hashlib
import json
import pathlib
from typing import Any

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types.channel import BaseChannel
from tfx.types.standard_artifacts import Examples, ExampleStatistics, Model, ModelRun, PushedModel, Schema
from tfx.utils import io_utils

from components import features, findings
from components.artifacts import Checks
from components.errors import GateStopped, NotBlessed
from components.gate import failed_checks, summary
from components.push import versions
from components.push.serving_dir import open_destination


@component
def Baseline(
    baseline: OutputArtifact[Model], best: OutputArtifact[Model], serving_dir: Parameter[str], state: Parameter[str]
) -> None:
    """Copies the model in production, and the best ever pushed, out of the serving folder.

    An ordinary component and no Resolver: Kubeflow has none, and the candidate must beat the model that is served,
    not the latest one in ML Metadata.

    Outputs: `baseline` and `best`, Models with the custom properties `resolved` (0 without a model: the folder is empty
    then), `version`, `dataset` and `state`. Parameters: `serving_dir`; `state`, its
    `versions.serving_state`, so that a cached result is not used when another model is in production.

    Raises:
        BadInput: serving_dir cannot be written to, or is in an object store that creates an object twice.
    """
    destination = open_destination(serving_dir)
    # A folder that cannot be pushed to is refused before hours of training, not after.
    destination.probe()
    # First, so that a push between these lines makes this candidate stale.
    serving_state = versions.serving_state(destination)
    production = versions.production_version(destination)
    leader = versions.best_version(destination, production.dataset) if production else None
    for artifact, version in ((baseline, production), (best, leader)):
        artifact.set_int_custom_property("resolved", int(version is not None))
        artifact.set_string_custom_property("state", serving_state)
        if version is not None:
            artifact.set_int_custom_property("version", version.number)
            artifact.set_string_custom_property("dataset", version.dataset)
            destination.fetch(version.number, pathlib.Path(artifact.uri) / "Format-Serving")


@component
def Push(
    model: InputArtifact[Model],
    model_run: InputArtifact[ModelRun],
    baseline: InputArtifact[Model],
    examples: InputArtifact[Examples],
    statistics: InputArtifact[ExampleStatistics],
    schema: InputArtifact[Schema],
    data_checks: InputArtifact[Checks],
    infra_checks: InputArtifact[Checks],
    model_checks: InputArtifact[Checks],
    pushed_model: OutputArtifact[PushedModel],
    serving_dir: Parameter[str],
    run: Parameter[str],
) -> None:
    """Puts a candidate that passed its checks into the serving folder, unless it is in production already.

    Unlike TFX's Pusher it raises where a check failed: the task fails, and what depends on a push never starts. The
    verdicts come first, so that a refused model is refused even if it is in production already, and those of the
    infrastructure before those of the model. A forced run skips the model's checks
    only.

    Inputs: the candidate and all that its provenance is made of. Output: `pushed_model`, with the custom properties
    `pushed` (0: its content was in production already), `version`, `path` and `provenance` (as JSON). Parameters:
    `serving_dir`; `run`, a JSON object with the orchestrator's facts of the run (`run_id`, `config`, `forced`, …) for
    the provenance.

    Raises:
        NotBlessed: a check of the model failed.
        GateStopped: a check of the infrastructure failed, production is no longer the baseline that the candidate was
            judged against, or a rollback took this very model out of production.
    """
    from components.push import model_digest, publish, rollback

    run_facts = json.loads(run)
    if failures := failed_checks(infra_checks.uri):
        raise GateStopped(summary(failures))
    if not run_facts.get("forced") and (failures := failed_checks(model_checks.uri)):
        raise NotBlessed(summary(failures))

    destination = open_destination(serving_dir)
    saved_model = pathlib.Path(model.uri) / "Format-Serving"
    schema_file = pathlib.Path(io_utils.get_only_uri_in_dir(schema.uri))
    judged_against = baseline.get_string_custom_property("state")
    training = json.loads((pathlib.Path(model_run.uri) / "training.json").read_text(encoding="utf-8"))
    if "config" in run_facts:  # with the hyperparameters in use, configured or from a search
        run_facts["config"] |= {"training": training["hyperparameters"]}
    digest = model_digest.model_digest(saved_model)
    destination.recover()
    production = versions.production_version(destination)
    # First of all, so that a retry of a push that succeeded is no failure.
    is_pushed = production is not None and production.provenance.get("model", {}).get("sha256") == digest
    if is_pushed and production is not None:
        version = production
    else:
        publish.check_baseline(destination, judged_against)
        if not run_facts.get("forced"):
            rollback.refuse_withdrawn(destination, digest)
        version = publish.publish(
            saved_model,
            destination,
            extra={
                versions.TRAIN_STATS_FILE: pathlib.Path(statistics.uri)
                / f"Split-{features.TRAIN}"
                / features.STATISTICS_FILE,
                versions.SCHEMA_FILE: schema_file,
                "model.keras": pathlib.Path(model.uri) / "keras" / "model.keras",
            },
            provenance=lambda number: {
                "schema_version": 1,
                "version": number,
                "pushed_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                **run_facts,
                "dataset": {
                    "name": examples.get_string_custom_property("dataset"),
                    "sha256": examples.get_string_custom_property("dataset_sha256"),
                    "images": examples.get_int_custom_property("images"),
                    "span": examples.get_int_custom_property("span") if examples.has_custom_property("span") else None,
                    **json.loads((pathlib.Path(examples.uri) / features.SOURCE_FILE).read_text(encoding="utf-8")),
                    "excluded": {
                        split: row["labels"]
                        for split, row in json.loads(examples.get_string_custom_property("excluded") or "{}").items()
                    },
                },
                "schema": {"sha256": hashlib.sha256(schema_file.read_bytes()).hexdigest()},
                **_judgement(digest, training, data_checks.uri, infra_checks.uri, model_checks.uri),
            },
            judged_against=judged_against,
        )
    by_this_run = not is_pushed or version.provenance.get("run_id") == run_facts["run_id"]
    pushed_model.set_int_custom_property("pushed", int(by_this_run))
    pushed_model.set_int_custom_property("version", version.number)
    pushed_model.set_string_custom_property("path", version.location)
    pushed_model.set_string_custom_property("provenance", json.dumps(version.provenance))


def _judgement(
    digest: str, training: dict[str, Any], data_checks: str, infra_checks: str, model_checks: str
) -> dict[str, object]:
    """Returns the part of the provenance that comes from other stages' artifacts."""
    figures = json.loads((pathlib.Path(model_checks) / "metrics.json").read_text(encoding="utf-8"))
    gates = [result for folder in (infra_checks, model_checks) for result in findings.read(folder)[1]]
    data_findings, _ = findings.read(data_checks)
    compared = {
        name: (other := figures.get(name)) and {"version": other["version"], "metrics": other}
        for name in ("baseline", "best")
    }
    return {
        "model": {"sha256": digest, "parameters": training["parameters"], "steps": training["steps"]},
        "metrics": figures["candidate"],
        **compared,
        "gates": [vars(result) for result in gates],
        "findings": [vars(finding) for finding in data_findings],
    }


def baseline(*, serving_dir: str | RuntimeParameter, state: str) -> BaseComponent:
    """Builds the node that reads the serving folder.

    Args:
        serving_dir: the model's folder in the serving folder: a path as the worker sees it, or an s3:// or gs:// URL.
        state: its `versions.serving_state` if the orchestrator knows it, empty if caching is off.
    """
    return Baseline(serving_dir=serving_dir, state=state).with_id("baseline")


def push(*, serving_dir: str | RuntimeParameter, run: str, **inputs: BaseChannel) -> BaseComponent:
    """Builds the node that changes the serving folder.

    Args:
        serving_dir: as for `baseline`.
        run: JSON object with the orchestrator's facts of the run.
        **inputs: the inputs of `Push`.
    """
    return Push(serving_dir=serving_dir, run=run, **inputs).with_id("push")
