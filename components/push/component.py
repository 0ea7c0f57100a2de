# SPDX-License-Identifier: Apache-2.0
"""The graph's side of the serving folder: `Baseline` reads what is in production, `Push` puts a model there."""

import datetime
import json
import pathlib
import shutil

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.types.channel import BaseChannel
from tfx.types.standard_artifacts import Examples, ExampleStatistics, Model, ModelRun, PushedModel, Schema
from tfx.utils import io_utils

from components import features, findings
from components.artifacts import Checks
from components.errors import GateStopped
from components.push import versions


@component
def Baseline(
    baseline: OutputArtifact[Model], best: OutputArtifact[Model], serving_dir: Parameter[str], state: Parameter[str]
) -> None:
    """Copies the model in production, and the best ever pushed, out of the serving folder.

    An ordinary component and no Resolver: Kubeflow has none, and the model that is served is the one to beat, whatever
    the metadata remember.

    Outputs: `baseline` and `best`, Models with the custom properties `resolved` (0 without a model: the folder is empty
    then), `version`, `dataset` and `state`. Parameters: `serving_dir`; `state`, what `versions.state` says of it, so
    that a cached answer is not used when something else is in production.
    """
    folder = pathlib.Path(serving_dir)
    production = versions.production(folder)
    leader = versions.best(folder, production.dataset) if production else None
    for artifact, version in ((baseline, production), (best, leader)):
        artifact.set_int_custom_property("resolved", int(version is not None))
        artifact.set_string_custom_property("state", versions.state(folder))
        if version is not None:
            artifact.set_int_custom_property("version", version.number)
            artifact.set_string_custom_property("dataset", version.dataset)
            shutil.copytree(version.path, pathlib.Path(artifact.uri) / "Format-Serving", dirs_exist_ok=True)


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
    """Puts a candidate that every gate let through into the serving folder, unless it is in production already.

    Inputs: the candidate and all that its provenance is made of. Output: `pushed_model`, with the custom properties
    `pushed` (0: its content was in production already), `version` and `path`. Parameters: `serving_dir`; `run`, a JSON
    object with what the orchestrator knows of the run (`run_id`, `config`, `forced`, …), put into the provenance.

    Raises:
        GateStopped: production is no longer the baseline that the candidate was judged against.
    """
    from components.push import content, publish

    folder = pathlib.Path(serving_dir)
    saved_model = pathlib.Path(model.uri) / "Format-Serving"
    judged_against = baseline.get_string_custom_property("state")
    now = versions.state(folder)
    if now != judged_against:
        raise GateStopped(
            f"A candidate is pushed only while the baseline it was judged against is in production: that was version "
            f"{judged_against.partition(':')[0] or 'none'}, now it is {now.partition(':')[0] or 'none'}. Run again."
        )
    digest = content.model_digest(saved_model)
    production = versions.production(folder)
    unchanged = production is not None and production.provenance.get("model", {}).get("sha256") == digest
    if unchanged and production is not None:
        version = production
    else:
        version = publish.publish(
            saved_model,
            folder,
            extra={
                versions.TRAIN_STATS_FILE: pathlib.Path(statistics.uri) / f"Split-{features.TRAIN}" / "FeatureStats.pb",
                versions.SCHEMA_FILE: pathlib.Path(io_utils.get_only_uri_in_dir(schema.uri)),
                "model.keras": pathlib.Path(model.uri) / "keras" / "model.keras",
            },
            provenance=lambda number: {
                "schema_version": 1,
                "version": number,
                "pushed_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                **json.loads(run),
                "dataset": {
                    "name": examples.get_string_custom_property("dataset"),
                    "sha256": examples.get_string_custom_property("dataset_sha256"),
                    "images": examples.get_int_custom_property("images"),
                    "span": examples.get_int_custom_property("span") if examples.has_custom_property("span") else None,
                },
                **_judgement(digest, model_run.uri, data_checks.uri, infra_checks.uri, model_checks.uri),
            },
        )
    pushed_model.set_int_custom_property("pushed", int(not unchanged))
    pushed_model.set_int_custom_property("version", version.number)
    pushed_model.set_string_custom_property("path", str(version.path))


def _judgement(
    digest: str, model_run: str, data_checks: str, infra_checks: str, model_checks: str
) -> dict[str, object]:
    """What is known of the candidate: the part of the provenance that comes from other stages' artifacts."""
    training = json.loads((pathlib.Path(model_run) / "training.json").read_text(encoding="utf-8"))
    figures = json.loads((pathlib.Path(model_checks) / "metrics.json").read_text(encoding="utf-8"))
    gates = [result for folder in (infra_checks, model_checks) for result in findings.read(folder)[1]]
    found, _ = findings.read(data_checks)
    baseline = figures.get("baseline")
    return {
        "model": {"sha256": digest, "parameters": training["parameters"], "steps": training["steps"]},
        "metrics": figures["candidate"],
        "baseline": baseline and {"version": baseline["version"], "metrics": baseline},
        "gates": [vars(result) for result in gates],
        "findings": [vars(finding) for finding in found],
    }


def baseline(*, serving_dir: str, state: str) -> BaseComponent:
    """Builds the node that reads the serving folder.

    Args:
        serving_dir: the model's folder in the serving folder, as the worker sees it.
        state: `versions.state` of it where the orchestrator knows it, empty where caching is off.
    """
    return Baseline(serving_dir=serving_dir, state=state).with_id("baseline")


def push(*, serving_dir: str, run: str, **inputs: BaseChannel) -> BaseComponent:
    """Builds the node that changes the serving folder.

    Args:
        serving_dir: as for `baseline`.
        run: JSON object with what the orchestrator knows of the run.
        **inputs: the inputs of `Push`.
    """
    return Push(serving_dir=serving_dir, run=run, **inputs).with_id("push")
