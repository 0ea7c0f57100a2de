# SPDX-License-Identifier: Apache-2.0
"""The parameters of a run: the settings that users may change in the Kubeflow UI.

Every task's entrypoint and the command line import this, so it needs neither TensorFlow nor TFX.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from components.errors import BadInput
from components.table import value_type
from components.train.hyperparameters import MODELS, OWN_DEFAULT, Hyperparameters, defaults_of, model_fields
from pipeline import code_digest
from pipeline.settings import PROFILES, Setting, Settings, build, settings

# Prefix of the run's parameters among the inputs of push.
RUN_PREFIX = "run_"
INTEGER = "NUMBER_INTEGER"
KINDS: Mapping[type, str] = {str: "STRING", int: INTEGER, float: "NUMBER_DOUBLE"}
# In the UI it is the model's folder in the serving folder, as the baseline is read from it.
_SERVING_DIR = "serving_dir"
_PARAMETERS = [setting for setting in settings() if setting.flag.parameter]
# Push gets the serving folder from its inputs, and the hyperparameters from the training.
PROVENANCE_PARAMETERS = frozenset(
    setting.name for setting in _PARAMETERS if setting.model is Settings and setting.name != _SERVING_DIR
)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a run.

    Attributes:
        name: in the UI and for `run --param`.
        kind: str, int or float.
        default: its value in a run that does not set it.
        description: one line for the UI.
    """

    name: str
    kind: type
    default: str | int | float
    description: str


def declare(config: Settings, training: Mapping[str, Any]) -> list[Parameter]:
    """Returns the parameters, with the settings as defaults.

    Args:
        config: settings of the package.
        training: the hyperparameters that a flag, config file or profile sets, by field; others have the default of
            the model that a run uses.
    """
    values = {setting.name: getattr(config, setting.name, None) for setting in _PARAMETERS}
    values |= {"model": config.training.model, _SERVING_DIR: config.model_dir}
    return [
        _hyperparameter(setting, training.get(setting.name))
        if setting.model is Hyperparameters and setting.name != "model"
        else _parameter(setting, values[setting.name])
        for setting in _PARAMETERS
    ]


def _parameter(setting: Setting, value: Any) -> Parameter:
    annotation = setting.info.annotation
    kind: type = int if value_type(annotation) is int else str
    text = str(setting.info.description)
    if setting.name == _SERVING_DIR:
        text = "the served model's own folder: a path, s3:// or gs://"
    if get_origin(annotation) is Literal:
        text += f": {', '.join(get_args(annotation))}; its own limits hold"
    if isinstance(value, tuple):
        value, text = ",".join(value), f"{text}, with commas between them"
    if value is None:
        value = OWN_DEFAULT if kind is int else ""
    if setting.flag.unset and kind is int:
        text += f"; {OWN_DEFAULT}: {setting.flag.unset}"
    return Parameter(setting.name, kind, kind(value), _sentence(text))


def _hyperparameter(setting: Setting, value: Any) -> Parameter:
    kind, by_model = value_type(setting.info.annotation), defaults_of(setting.name)
    if value is None:
        value = next(iter(by_model.values())) if len(set(by_model.values())) == 1 else OWN_DEFAULT
    models = "" if len(by_model) == len(MODELS) else f" ({', '.join(by_model)})"
    text = f"{setting.info.description}{models}; {OWN_DEFAULT}: the model's own default"
    return Parameter(setting.name, kind, kind(value), _sentence(text))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def record(config: Settings) -> dict[str, Any]:
    """Returns the settings in a package: JSON values, without those of this machine.

    Raises:
        BadInput: the schema is not in the image.
    """
    values = config.to_config() | {"schema": _schema(config.schema_file)}
    return {name: value for name, value in values.items() if name not in ("output", "fresh", "beam_args")}


def _schema(path: pathlib.Path) -> str:
    """Returns the schema's path in the image, whose working directory holds the project."""
    if not path.is_relative_to(code_digest.ROOT):
        raise BadInput(
            f"the image holds the project's files only, so a profile's schema must be one of them; {path} is not below "
            f"{code_digest.ROOT}. Put profile and schema into pipeline/profiles/ and build the image with them."
        )
    return path.relative_to(code_digest.ROOT).as_posix()


def differences(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that differ from the profile and the defaults, which the image has.

    Args:
        config: see `record`.
    """
    reference = _reference(config["profile"])
    return {"profile": config["profile"], **_difference(config, reference)}


def complete(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings from their `differences`."""
    merged: dict[str, Any] = _merge(changes, _reference(changes["profile"]))
    return merged


def _reference(profile: str) -> dict[str, Any]:
    """Returns the settings of a built-in profile, or those of `mnist` for another one, which the image may lack."""
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


def _merge(changes: Any, reference: Any) -> Any:
    if not (isinstance(changes, dict) and isinstance(reference, dict)):
        return changes
    return reference | {name: _merge(inner, reference.get(name)) for name, inner in changes.items()}


def apply(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a run.

    Args:
        config: of the package (`record`).
        values: the run's parameters by name; numbers may be floats, as JSON has them.

    Returns:
        The settings with the parameters in them. Hyperparameters that are refused stay as the user set them.
    """
    changes = {
        setting.name: _read(setting, values[setting.name])
        for setting in _PARAMETERS
        if setting.model is Settings and setting.name in values
    }
    if _SERVING_DIR in values:
        changes[_SERVING_DIR], _, changes["serving_name"] = str(values[_SERVING_DIR]).rstrip("/").rpartition("/")
    return {**config, **changes, "training": _training(config["training"], values)}


def _read(setting: Setting, value: Any) -> Any:
    """Returns the value of a setting from that of its parameter."""
    kind = value_type(setting.info.annotation)
    if kind is int:
        return int(value) if value >= 0 else None
    if kind is tuple:
        return [name.strip() for name in value.split(",") if name.strip()]
    return value or None


def _training(compiled: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    model = values.get("model", compiled["model"])
    overrides = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name in Hyperparameters.model_fields
        if name != "model" and (value := values.get(name)) not in (None, OWN_DEFAULT)
    }
    if model not in MODELS:
        return {**compiled, "model": model, **overrides}
    fields = {name: value for name, value in overrides.items() if name in model_fields(model)}
    try:
        return Hyperparameters.of(model, **fields).to_config()
    except BadInput:
        return {**MODELS[model].to_config(), **fields}
