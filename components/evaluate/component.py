# SPDX-License-Identifier: Apache-2.0
"""The nodes of evaluate: TFMA on the test split with the model gate, and the check of the exported model."""

import json
import pathlib

import apache_beam as beam
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types.channel import BaseChannel
from tfx.types.standard_artifacts import Examples, Model, ModelBlessing, ModelEvaluation, TransformGraph

from components import features, findings
from components.artifacts import Checks
from components.evaluate.limits import InfraLimits, ModelLimits

METRICS_FILE, PREDICTIONS_FILE = "metrics.json", "predictions.npz"


@component(use_beam=True)
def Evaluate(
    examples: InputArtifact[Examples],
    model: InputArtifact[Model],
    baseline: InputArtifact[Model],
    best: InputArtifact[Model],
    evaluation: OutputArtifact[ModelEvaluation],
    blessing: OutputArtifact[ModelBlessing],
    checks: OutputArtifact[Checks],
    model_type: Parameter[str],
    limits: Parameter[str],
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Measures the candidate, the baseline and the best version on the test split and judges the candidate.

    Inputs: `examples`, of which only the split test is read; `model`; `baseline` and `best`, dropped where their custom
    property `resolved` is 0. Outputs: `evaluation` in TFMA's format; `blessing` as TFX's Evaluator writes it; `checks`
    with the gates' results, `metrics.json`, the metrics of each model, and `predictions.npz`, each model's
    probabilities for each test image. Parameters: `model_type`, the key of the floors; `limits`,
    the fields of `ModelLimits` as JSON.
    """
    from components.evaluate import eval_config, gates, metrics, predictions
    from components.evaluate.eval_config import BASELINE, BEST, CANDIDATE

    model_limits = ModelLimits(**json.loads(limits))
    models = {CANDIDATE: pathlib.Path(model.uri) / "Format-Serving"}
    versions = {}
    for name, artifact in ((BASELINE, baseline), (BEST, best)):
        if artifact.get_int_custom_property("resolved"):
            versions[name] = artifact.get_int_custom_property("version")
            models[name] = pathlib.Path(artifact.uri) / "Format-Serving"
    same = versions.get(BASELINE) == versions.get(BEST)
    if same:  # one model is evaluated once
        models.pop(BEST, None)

    blocks = list(predictions.predict(f"{examples.uri}/Split-{features.TEST}", models))
    predictions.save(pathlib.Path(checks.uri) / PREDICTIONS_FILE, blocks)
    configs = eval_config.build_eval_configs(list(models), model_limits, model_type)
    with beam_pipeline as pipeline:
        metrics.measure(pipeline, blocks, configs, evaluation.uri)
    figures = {name: metrics.load_metrics(evaluation.uri, name if len(models) > 1 else None) for name in models}
    if same and BASELINE in figures:
        figures[BEST] = dict(figures[BASELINE])
    for name, version in versions.items():
        figures[name]["version"] = version

    judged = list(
        gates.judge(
            figures[CANDIDATE],
            figures.get(BASELINE),
            figures.get(BEST),
            model_limits,
            model_type,
        )
    )
    if all(result.passed for result in judged) and not metrics.is_approved(evaluation.uri):
        reason = (
            "TFMA's own validation must agree with the model gate, but it rejects the candidate: see the evaluation's "
            "validations"
        )
        judged.append(findings.GateResult("tfma-validation", None, None, False, reason))
    findings.write(checks.uri, gates=judged)
    (pathlib.Path(checks.uri) / METRICS_FILE).write_text(json.dumps(figures, indent=1), encoding="utf-8")
    blessed = all(result.passed for result in judged)
    blessing.set_int_custom_property("blessed", int(blessed))
    (pathlib.Path(blessing.uri) / ("BLESSED" if blessed else "NOT_BLESSED")).touch()


@component
def InfraCheck(
    examples: InputArtifact[Examples],
    model: InputArtifact[Model],
    transform_graph: InputArtifact[TransformGraph],
    checks: OutputArtifact[Checks],
    limits: Parameter[str],
) -> None:
    """Runs the exported model as a server would.

    Inputs: `examples`, of which some images of the split test are read and no label; `model`; `transform_graph`, with
    which it was trained. Output: `checks` with the gates' results. Parameter: `limits`, the fields of `InfraLimits`
    as JSON.
    """
    from components.evaluate import infra

    gates = infra.check(
        pathlib.Path(model.uri),
        transform_graph.uri,
        f"{examples.uri}/Split-{features.TEST}",
        InfraLimits(**json.loads(limits)),
    )
    findings.write(checks.uri, gates=gates)


def infra_check(
    *, examples: BaseChannel, model: BaseChannel, transform_graph: BaseChannel, limits: InfraLimits
) -> BaseComponent:
    """Builds the node that checks the exported model; the arguments are the inputs of `InfraCheck`."""
    return InfraCheck(
        examples=examples,
        model=model,
        transform_graph=transform_graph,
        limits=json.dumps(limits.to_config(), sort_keys=True),
    ).with_id("infra-check")


def evaluate(
    *,
    examples: BaseChannel,
    model: BaseChannel,
    baseline: BaseChannel,
    best: BaseChannel,
    model_type: str | RuntimeParameter,
    limits: ModelLimits,
) -> BaseComponent:
    """Builds the stage.

    Args:
        examples: Examples of the data.
        model: the candidate.
        baseline: the model in production.
        best: the best version ever pushed.
        model_type: key of the accuracy floor, known at the latest when the run starts.
        limits: of the model gate, with the floors of all models.
    """
    return Evaluate(
        examples=examples,
        model=model,
        baseline=baseline,
        best=best,
        model_type=model_type,
        limits=json.dumps(limits.to_config(), sort_keys=True),
    ).with_id("evaluate")
