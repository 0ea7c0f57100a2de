# SPDX-License-Identifier: Apache-2.0
"""The whole graph, top to bottom. One for every orchestrator: a runner decides where and with what, never what."""

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
from pipeline.settings import Config


@dataclasses.dataclass(frozen=True)
class RunInputs:
    """Where the data is and the models go, as the workers see it, and what the orchestrator knows of the run.

    A RuntimeParameter stands for what is settled when a run starts.

    Attributes:
        data_dir: folder with the IDX files, or with spans of them.
        dataset: name of the data set.
        data_sha256: what its SHA-256 must be; empty: any.
        span: number of the span; None: the newest.
        schema: file of the curated schema.
        hyperparameters: the fields of `Hyperparameters`: the model and how it is trained.
        allow: findings of the data gate that do not stop the run, with commas between them.
        serving_dir: the model's folder in the serving folder.
        serving_state: what is in production there (`components.push.versions.state`); empty where caching is off.
        checkpoints: folder in which a training that was killed finds its state again; empty for none.
        run: what goes into the provenance of a pushed model beside what the graph itself knows: JSON values.
    """

    data_dir: str | RuntimeParameter
    dataset: str
    data_sha256: str
    span: int | RuntimeParameter | None
    schema: str
    hyperparameters: Mapping[str, Any]
    allow: str | RuntimeParameter
    serving_dir: str | RuntimeParameter
    serving_state: str
    checkpoints: str
    run: Mapping[str, Any]


def build(config: Config, place: RunInputs) -> list[BaseNode]:
    """Builds the graph's nodes, each after those that it needs."""
    ingested = ingest(
        data_dir=place.data_dir,
        dataset_name=place.dataset,
        data_sha256=place.data_sha256,
        span=place.span,
        allow=place.allow,
    ).with_id("ingest")
    examples = ingested.outputs["examples"]

    production = baseline(serving_dir=place.serving_dir, state=place.serving_state)

    validation = validate(
        examples=examples,
        baseline=production.outputs["baseline"],
        schema_file=place.schema,
        pixel_limits=config.pixel_limits,
        label_limits=config.label_limits,
        allow=place.allow,
    )

    transformed = transform(examples=examples, schema=validation.schema).with_id("transform")

    tuned = []
    if config.tune:
        from components.train.component import tune  # KerasTuner, of which other graphs have no use

        tuned.append(
            tune(
                examples=examples,
                transform_graph=transformed.outputs["transform_graph"],
                schema=validation.schema,
                hyperparameters=place.hyperparameters,
                trials=config.tune,
                fixed=config.fixed,
                compute=config.compute,
                code_digest=code_digest.of_module("components.train.component"),
                checkpoints=place.checkpoints,
            ).with_id("tune")
        )

    trained = train(
        examples=examples,
        transform_graph=transformed.outputs["transform_graph"],
        schema=validation.schema,
        hyperparameters=place.hyperparameters,
        compute=config.compute,
        found=tuned[0].outputs["best_hyperparameters"] if tuned else None,
        code_digest=code_digest.of_module("components.train.component"),
        checkpoints=place.checkpoints,
    ).with_id("train")

    evaluated = evaluate(
        examples=examples,
        model=trained.outputs["model"],
        baseline=production.outputs["baseline"],
        best=production.outputs["best"],
        model_type=place.hyperparameters["model"],
        limits=config.model_limits,
    )

    tried = infra_check(
        examples=examples,
        model=trained.outputs["model"],
        transform_graph=transformed.outputs["transform_graph"],
        limits=config.infra_limits,
    )

    pushed = push(
        model=trained.outputs["model"],
        model_run=trained.outputs["model_run"],
        baseline=production.outputs["baseline"],
        examples=examples,
        statistics=validation.statistics,
        schema=validation.schema,
        data_checks=validation.checks,
        infra_checks=tried.outputs["checks"],
        model_checks=evaluated.outputs["checks"],
        serving_dir=place.serving_dir,
        run=json.dumps(place.run, sort_keys=True),
    )

    data_gate = gate("data-gate", checks=validation.checks, before=[*tuned, trained])
    # Transform runs beside the gate, not beside the checks: once a task has failed, Argo starts no other, so that a
    # Transform that failed on bad data would keep the checks from saying what is wrong with it.
    transformed.add_upstream_node(validation.data_check)
    return [
        ingested,
        production,
        *validation,
        data_gate,
        transformed,
        *tuned,
        trained,
        tried,
        evaluated,
        pushed,
    ]
