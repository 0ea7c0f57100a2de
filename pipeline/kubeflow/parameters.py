# SPDX-License-Identifier: Apache-2.0
"""The parameters of a run: what a person may change in the Kubeflow UI, with what they are in a run that changes none.

No TensorFlow and no TFX: every task's entrypoint and the command line need this.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from components.errors import BadInput
from components.train.hyperparameters import MODELS, OWN_DEFAULT, Hyperparameters
from pipeline import code_digest
from pipeline.settings import PROFILES, Config, build

DATA_DIR, SPAN, MODEL, SERVING_DIR, ALLOW, FORCE_PUSH = (
    "data_dir", "span", "model", "serving_dir", "allow", "force_push",
)  # fmt: skip
NEWEST_SPAN = -1
# Before the names of the run's parameters that push is told beside its own inputs, and those: it knows the serving
# folder, and from the training its hyperparameters.
OF_THE_RUN = "run_"
OF_THE_PROVENANCE = frozenset({DATA_DIR, SPAN, ALLOW, FORCE_PUSH})
WHOLE = "NUMBER_INTEGER"
KINDS: Mapping[type, str] = {str: "STRING", int: WHOLE, float: "NUMBER_DOUBLE"}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a run.

    Attributes:
        name: how the UI and `run --param` call it.
        kind: str, int or float.
        default: its value in a run that does not set it.
        description: one line for the UI.
    """

    name: str
    kind: type
    default: str | int | float
    description: str


def of(config: Config, training: Mapping[str, Any]) -> list[Parameter]:
    """The parameters, with the configuration as defaults.

    Args:
        config: what the package is compiled with.
        training: the hyperparameters that a person or a profile gave, by field; any other has the default of whichever
            model a run takes.
    """
    return [
        Parameter(DATA_DIR, str, str(config.data_dir), "Folder or URL with the four IDX files, or with spans of them."),
        Parameter(SPAN, int, NEWEST_SPAN if config.span is None else config.span, "Which span; -1: the newest."),
        Parameter(MODEL, str, config.hyperparameters.model, f"One of {', '.join(MODELS)}; its own limits hold."),
        *(_hyperparameter(name, hint, training.get(name)) for name, hint in _hints().items()),
        Parameter(SERVING_DIR, str, str(config.serving_dir), "The served model's folder or URL: where it is pushed."),
        Parameter(ALLOW, str, ",".join(config.allow), "Findings that do not stop the run, with commas between them."),
        Parameter(FORCE_PUSH, str, config.force_push or "", "Why to push whatever the model gate says; empty: not."),
    ]


def record(config: Config) -> dict[str, Any]:
    """The configuration as a package carries it: JSON values, without what is only true of this machine.

    Raises:
        BadInput: the schema is not in the image.
    """
    values = config.to_record() | {"schema": _schema(config.schema)}
    for name in ("output", "fresh", "beam_args"):
        values.pop(name)
    record: dict[str, Any] = json.loads(json.dumps(values))
    return record


def _schema(path: pathlib.Path) -> str:
    """The schema's place in the image, whose working directory holds the project."""
    if not path.is_relative_to(code_digest.ROOT):
        raise BadInput(
            f"the image holds the project's files only, so a profile's schema must be one of them; {path} is not below "
            f"{code_digest.ROOT}. Put profile and schema into pipeline/profiles/ and build the image with them."
        )
    return path.relative_to(code_digest.ROOT).as_posix()


def differences(config: Mapping[str, Any]) -> dict[str, Any]:
    """Takes from a configuration what its profile alone would give, as the image has profiles and defaults.

    Args:
        config: see `record`.
    """
    reference = _reference(config["profile"])
    return {"profile": config["profile"], **_difference(config, reference)}


def complete(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Gives the configuration of which `differences` are left."""
    merged: dict[str, Any] = _merged(changes, _reference(changes["profile"]))
    return merged


def _reference(profile: str) -> dict[str, Any]:
    """The record of a built-in profile; for another one, which the image need not hold, that of `mnist`."""
    file = PROFILES / f"{profile}.toml"
    return record(build({}, {}, file if file.is_file() else PROFILES / "mnist.toml"))


def _difference(value: Any, reference: Any) -> Any:
    if not (isinstance(value, dict) and isinstance(reference, dict)):
        return value
    return {
        name: _difference(inner, reference.get(name))
        for name, inner in value.items()
        if name not in reference or inner != reference[name]
    }


def _merged(changes: Any, reference: Any) -> Any:
    if not (isinstance(changes, dict) and isinstance(reference, dict)):
        return changes
    return reference | {name: _merged(inner, reference.get(name)) for name, inner in changes.items()}


def effective(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a run really had.

    Args:
        config: of the package (`record`).
        values: the run's parameters by name; numbers may be floats, as JSON has them.

    Returns:
        The same with the parameters in their places. Hyperparameters that are refused are there as they were given.
    """
    changed = dict(config)
    if DATA_DIR in values:
        changed["data_dir"] = values[DATA_DIR]
    if SPAN in values:
        changed["span"] = int(values[SPAN]) if values[SPAN] >= 0 else None
    if SERVING_DIR in values:
        changed["serving_root"], _, changed["serving_name"] = str(values[SERVING_DIR]).rstrip("/").rpartition("/")
    if ALLOW in values:
        changed["allow"] = [name.strip() for name in values[ALLOW].split(",") if name.strip()]
    if FORCE_PUSH in values:
        changed["force_push"] = values[FORCE_PUSH] or None
    changed["training"] = _training(config["training"], values)
    return changed


def _training(compiled: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    model = values.get(MODEL, compiled["model"])
    given = {
        name: _whole(values[name]) for name in _hints() if name in values and values[name] not in (None, OWN_DEFAULT)
    }
    if model not in MODELS:
        return {**compiled, MODEL: model, **given}
    known = {name: value for name, value in given.items() if getattr(MODELS[model], name) is not None}
    try:
        return Hyperparameters.of(model, **known).to_config()
    except BadInput:
        return {**MODELS[model].to_config(), **known}


def _hints() -> dict[str, type]:
    """Every hyperparameter but the model, with its type."""
    return {
        name: next((kind for kind in get_args(hint) if kind is not type(None)), hint)
        for name, hint in get_type_hints(Hyperparameters).items()
        if name != MODEL
    }


def _hyperparameter(name: str, kind: type, told: Any) -> Parameter:
    having = {model: value for model in MODELS if (value := getattr(MODELS[model], name)) is not None}
    shared = next(iter(having.values())) if len(set(having.values())) == 1 else OWN_DEFAULT
    of_models = "" if len(having) == len(MODELS) else f" of {', '.join(having)}"
    description = f"Hyperparameter{of_models}; {OWN_DEFAULT}: the model's own default."
    return Parameter(name, kind, kind(shared if told is None else told), description)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
