# SPDX-License-Identifier: Apache-2.0
"""The graph, the same for every orchestrator; runners choose its inputs and resources."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tfx.dsl.components.base.base_node import BaseNode
from tfx.orchestration.data_types import RuntimeParameter

from components.evaluate.component import evaluate, infra_check
from components.gate import gate
from components.ingest.component import ingest
from components.push.component import baseline, push
from components.train.component import train
from components.transform.component import transform
from components.validate.component import validate
from pipeline import code_digest
from pipeline.settings import Settings


@dataclasses.dataclass(frozen=True)
class RunInputs:
    """The inputs of a run as the workers see them, and the facts that only the orchestrator knows.

    A RuntimeParameter gets its value when a run starts.

    Attributes:
        data_dir: folder with the IDX files, or with spans of them.
        dataset: name of the data set.
        data_sha256: its expected SHA-256; empty: any.
        span: number of the span; None: the newest.
        schema: file of the curated schema.
        hyperparameters: the fields of `Hyperparameters`.
        allow: findings of the data gate that do not stop the run, with commas between them.
        model_dir: the model's folder, in the serving folder.
        serving_state: state of that folder (`components.push.versions.serving_state`); empty where caching is off.
        checkpoints: folder from which a killed training resumes; empty for none.
        run: facts of the run for the provenance of a pushed model: JSON values.
    """

    data_dir: str | RuntimeParameter
    dataset: str
    data_sha256: str
    span: int | RuntimeParameter | None
    schema: str
    hyperparameters: Mapping[str, Any]
    allow: str | RuntimeParameter
    model_dir: str | RuntimeParameter
    serving_state: str
    checkpoints: str
    run: Mapping[str, Any]


def build(settings: Settings, inputs: RunInputs) -> list[BaseNode]:
    """Builds the nodes of the graph in topological order."""
    ingested = ingest(
        data_dir=inputs.data_dir,
        dataset_name=inputs.dataset,
        data_sha256=inputs.data_sha256,
        span=inputs.span,
        allow=inputs.allow,
    ).with_id("ingest")
    examples = ingested.outputs["examples"]

    production = baseline(serving_dir=inputs.model_dir, state=inputs.serving_state)

    validation = validate(
        examples=examples,
        baseline=production.outputs["baseline"],
        schema_file=inputs.schema,
        pixel_limits=settings.pixels,
        label_limits=settings.labels,
        allow=inputs.allow,
    )

    transformed = transform(examples=examples, schema=validation.schema).with_id("transform")

    tuned = []
    if settings.tune:
        from components.train.component import tune  # imports KerasTuner, which other graphs do not need

        tuned.append(
            tune(
                examples=examples,
                transform_graph=transformed.outputs["transform_graph"],
                schema=validation.schema,
                hyperparameters=inputs.hyperparameters,
                trials=settings.tune,
                fixed=settings.fixed,
                compute=settings.compute,
                code_digest=code_digest.of_module("components.train.component"),
                checkpoints=inputs.checkpoints,
            ).with_id("tune")
        )

    trained = train(
        examples=examples,
        transform_graph=transformed.outputs["transform_graph"],
        schema=validation.schema,
        hyperparameters=inputs.hyperparameters,
        compute=settings.compute,
        best_hyperparameters=tuned[0].outputs["best_hyperparameters"] if tuned else None,
        code_digest=code_digest.of_module("components.train.component"),
        checkpoints=inputs.checkpoints,
    ).with_id("train")

    evaluated = evaluate(
        examples=examples,
        model=trained.outputs["model"],
        baseline=production.outputs["baseline"],
        best=production.outputs["best"],
        model_type=inputs.hyperparameters["model"],
        limits=settings.model_gate,
    )

    infra_checked = infra_check(
        examples=examples,
        model=trained.outputs["model"],
        transform_graph=transformed.outputs["transform_graph"],
        limits=settings.infra_gate,
    )

    pushed = push(
        model=trained.outputs["model"],
        model_run=trained.outputs["model_run"],
        baseline=production.outputs["baseline"],
        examples=examples,
        statistics=validation.statistics,
        schema=validation.schema,
        data_checks=validation.checks,
        infra_checks=infra_checked.outputs["checks"],
        model_checks=evaluated.outputs["checks"],
        serving_dir=inputs.model_dir,
        run=json.dumps(inputs.run, sort_keys=True),
    )

    data_gate = gate("data-gate", checks=validation.checks, before=[*tuned, trained])
    # Transform waits for the checks, but not for the gate: after a failed task Argo starts no other, so if Transform
    # failed on bad data beside the checks, they could not report it.
    transformed.add_upstream_node(validation.data_check)
    return [
        ingested,
        production,
        *validation,
        data_gate,
        transformed,
        *tuned,
        trained,
        infra_checked,
        evaluated,
        pushed,
    ]
