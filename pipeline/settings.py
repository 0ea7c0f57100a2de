# SPDX-License-Identifier: Apache-2.0
"""The settings of a run: declared once, with type, default, bounds and help, and read from four layers.

Flags override the `--config` file, which overrides the data set's profile, which overrides the defaults. Flags are
generated from the fields; a profile and a config file are TOML with the same keys and tables. This module does not
import TensorFlow, so a wrong flag is refused at once.
"""

from __future__ import annotations

import argparse
import pathlib
import tomllib
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from components import findings, paths, storage
from components.errors import BadInput, did_you_mean
from components.evaluate.limits import InfraLimits, ModelLimits
from components.push.destination import Destination
from components.push.serving_dir import open_destination
from components.table import Flag, Table, flag, refuse_unknown, value_type
from components.train import hyperparameters
from components.train.devices import Compute
from components.train.hyperparameters import Hyperparameters
from components.validate.limits import LabelLimits, PixelLimits
from pipeline import cli

PROFILES = pathlib.Path(__file__).parent / "profiles"
Layer = Mapping[str, Any]  # as TOML has it


class Settings(Table):
    """The settings of one run. Every path is absolute."""

    dataset: Annotated[Literal["auto", "mnist", "digits"], Flag("data")] = Field(
        default="auto", description="name of the data set; auto: MNIST if it can be downloaded, else digits"
    )
    data_dir: Annotated[pathlib.Path | str | None, Flag("data", "DIR|URL", parameter=True)] = Field(
        default=None,
        description="folder with the four IDX files, or with span-N folders of them; a path, s3://, gs:// or https://",
    )
    span: Annotated[int | None, Flag("data", unset="the newest", parameter=True)] = Field(
        default=None, ge=0, description="number of the span"
    )
    profile: Annotated[str, Flag("data", "NAME|FILE", unset="by data set")] = Field(
        description="limits and schema of the data: mnist, digits or a TOML file"
    )
    schema_file: pathlib.Path = Field(serialization_alias="schema", description="curated schema of the data")
    allow: Annotated[tuple[str, ...], Flag("data", "FINDING", parameter=True)] = Field(
        default=(), description="findings of the data gate that must not stop the run"
    )
    training: Hyperparameters
    tune: Annotated[int, Flag("training")] = Field(
        default=0, ge=0, le=10_000, description="sets of hyperparameters to try before training with the best; 0: none"
    )
    fixed: tuple[str, ...] = Field(
        default=(), description="hyperparameters that the user set and a search leaves alone"
    )
    compute: Compute
    pixels: PixelLimits
    labels: LabelLimits
    model_gate: ModelLimits
    infra_gate: InfraLimits
    output: Annotated[pathlib.Path, Flag("run", "DIR")] = Field(
        default=pathlib.Path("output"), validate_default=True, description="folder of everything that runs write"
    )
    serving_dir: Annotated[
        pathlib.Path | str | None, Flag("run", "DIR|URL", unset="OUTPUT/serving", parameter=True)
    ] = Field(default=None, description="folder of the served models: a path, s3:// or gs://")
    serving_name: Annotated[str, Flag("run", "NAME")] = Field(
        default="mnist", description="name of the model's folder in the serving folder"
    )
    fresh: Annotated[bool, Flag("run")] = Field(default=False, description="run every stage again")
    force_push: Annotated[str | None, Flag("run", "REASON", parameter=True)] = Field(
        default=None, description="reason for pushing whatever the model gate decides"
    )
    beam_args: Annotated[tuple[str, ...], Flag("run", "ARG", key="beam-arg")] = Field(
        default=(), description="option for Beam, such as --beam-arg=--runner=FlinkRunner"
    )

    @property
    def model_dir(self) -> pathlib.Path | str:
        """The model's folder or its URL, which holds its numbered versions; TF Serving's `model_base_path`."""
        if isinstance(self.serving_dir, str):
            return f"{self.serving_dir}/{self.serving_name}"
        return (self.serving_dir or self.output / "serving") / self.serving_name

    @field_validator("data_dir", "output", "serving_dir", mode="before")
    @classmethod
    def _locate(cls, value: Any, info: ValidationInfo) -> pathlib.Path | str | None:
        key = str(info.field_name).replace("_", "-")
        if value is None:
            return None
        if not isinstance(value, str | pathlib.Path) or not str(value):
            raise BadInput(f"{key} takes a path, not {value!r}")
        if key != "output" and storage.is_url(value):
            return storage.check(str(value), key, *storage.OBJECT_STORES, *(storage.WEB if key == "data-dir" else ()))
        path = paths.absolute(value, key)
        if key == "serving-dir":
            paths.refuse_patterns(path, key)
        return path

    @field_validator("serving_name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not value.replace("-", "").replace("_", "").isalnum():
            raise BadInput(f"serving-name must be of letters, digits, '-' and '_', not {value!r}")
        return value

    @field_validator("allow", "beam_args", mode="before")
    @classmethod
    def _to_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("allow")
    @classmethod
    def _check_findings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in findings.NAMES:
                suggestion = did_you_mean(name, findings.NAMES)
                raise BadInput(f"allow must be one of {', '.join(findings.NAMES)}, not {name!r}{suggestion}")
        return tuple(sorted(set(value)))


class Setting(NamedTuple):
    """A field that users set.

    Attributes:
        model: `Settings`, or the table of it that has the field.
        name: the field's.
        key: its flag without hyphens before it, and its TOML key.
        info: type, default, bounds and help.
        flag: marks it.
    """

    model: type[Table]
    name: str
    key: str
    info: FieldInfo
    flag: Flag


def settings(model: type[Table] = Settings) -> Iterator[Setting]:
    """Yields every field that users set; those of `Hyperparameters` are in the table [training] of TOML files."""
    for key, name in model.keys().items():
        info = model.model_fields[name]
        if info.annotation in (Hyperparameters, Compute):
            yield from settings(info.annotation)
        elif mark := flag(info):
            yield Setting(model, name, key, info, mark)


TABLES = {
    name.replace("_", "-"): kind
    for name, kind in Settings.types().items()
    if issubclass(kind, Table) and kind is not Compute
}
FLAGS = {setting.key: setting for setting in settings()}
CONFIG_KEYS = (*(key for key, setting in FLAGS.items() if setting.model is not Hyperparameters), *TABLES)
# A profile describes data, and a config file a run.
PROFILE_KEYS = ("name", "schema", *TABLES)
_DEST = "settings"


def add_flags(
    parser: argparse.ArgumentParser, keys: Collection[str] | None = None, **descriptions: str
) -> dict[str, argparse._ArgumentGroup]:
    """Adds the flags of settings.

    Args:
        parser: gets them, in groups.
        keys: those of `FLAGS` to add; None: all.
        **descriptions: help of a setting, by the field's name, where the field's own does not fit.

    Returns:
        The groups by their titles.
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    for key, setting in FLAGS.items():
        model, name, _, info, mark = setting
        if keys is not None and key not in keys:
            continue
        if mark.group not in groups:
            groups[mark.group] = parser.add_argument_group(mark.group)
        kind = value_type(info.annotation)
        options: dict[str, Any] = {"dest": f"{_DEST}.{'training.' if model is Hyperparameters else ''}{key}"}
        if get_origin(info.annotation) is Literal:
            options |= {"choices": get_args(info.annotation)}
        elif kind is bool:
            options |= {"action": "store_true", "default": None}
        else:
            options |= {"metavar": mark.metavar or {int: "N", float: "X"}[kind]}
            options |= {"action": "append"} if kind is tuple else {"type": kind if kind in (int, float) else str}
        text = descriptions.get(name) or f"{info.description}{_default(setting)}"
        groups[mark.group].add_argument(f"--{key}", help=text, **options)
    return groups


def _default(setting: Setting) -> str:
    default: Any = setting.info.default
    if setting.flag.unset:
        default = setting.flag.unset
    elif setting.model is Hyperparameters and setting.name != "model":
        defaults = sorted(set(hyperparameters.defaults_of(setting.name).values()))
        default = f"by model, {defaults[0]} to {defaults[-1]}" if len(defaults) > 1 else defaults[0]
    return "" if default is None or default is False or default == () else f"; default: {default}"


def read_flags(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the flags that `add_flags` added and the user set, as a layer."""
    layer: dict[str, Any] = {}
    for dest, value in vars(args).items():
        if dest.startswith(f"{_DEST}.") and value is not None:
            *tables, key = dest.split(".")[1:]
            table = layer
            for name in tables:
                table = table.setdefault(name, {})
            table[key] = value
    return layer


def read_config(file: str | None) -> dict[str, Any]:
    """Reads the `--config` file; empty if `file` is None.

    Raises:
        BadInput: it cannot be read, is not TOML, or has an unknown key.
    """
    return read_toml(pathlib.Path(file), CONFIG_KEYS, "config file") if file else {}


def read_toml(path: pathlib.Path, keys: Collection[str], kind: str) -> dict[str, Any]:
    """Reads a profile or a config file.

    Raises:
        BadInput: it cannot be read, is not TOML, or has a top-level key or table that is not in `keys`.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # no UTF-8, no TOML, or a name that no file can have
        raise BadInput(f"{kind} {path} must be a readable TOML file: {error}") from None
    refuse_unknown(content, keys, f"{kind} {path}")
    return content


def find_profile(name: str) -> pathlib.Path:
    """Returns the file of a profile: the built-in one of that name, or the file itself.

    Raises:
        BadInput: neither exists.
    """
    if not isinstance(name, str):
        raise BadInput(f"profile must be a string, not {name!r}")
    built_in = PROFILES / f"{name}.toml"
    path = built_in if built_in.is_file() else paths.absolute(name, "profile")
    if not path.is_file():
        names = sorted(file.stem for file in PROFILES.glob("*.toml"))
        suggestion = did_you_mean(name, names)
        raise BadInput(f"a profile is one of {', '.join(names)} or a TOML file; {name!r} is neither{suggestion}")
    return path


def build(flags: Layer, config_layer: Layer, profile_path: pathlib.Path) -> Settings:
    """Merges the layers.

    Args:
        flags: see `read_flags`.
        config_layer: contents of the config file, empty without one.
        profile_path: file of the profile in force.

    Raises:
        BadInput: for an unknown key, or a value that is out of bounds or of another type.
    """
    profile = _read_profile(profile_path)
    # The key "profile" of the other layers only selects the profile.
    values = {**_merge(profile, config_layer, flags), "profile": profile["name"]}
    names = Settings.keys()
    fields = {names[key]: value for key, value in values.items() if key in names}
    fields["schema_file"] = profile["schema"]
    for key, model in TABLES.items():
        fields[names[key]] = _named(values.get(key, {}), model, f"[{key}]")
    training = _training(fields["training"], flags.get("training", {}))
    by_user = {*config_layer.get("training", {}), *flags.get("training", {})} - {"model"}
    fields |= {"training": training, "compute": Compute.of(**{name: values.get(name) for name in Compute.model_fields})}
    config = Settings.parse(fields)
    if not config.tune:
        return config
    fixed = tuple(sorted(Hyperparameters.keys()[key] for key in by_user))
    hyperparameters.search_space(training, fixed)  # refuses a search of nothing
    return config.model_copy(update={"fixed": fixed})


def training_overrides(flags: Layer, config_layer: Layer, profile_path: pathlib.Path) -> dict[str, Any]:
    """Returns the hyperparameters that a layer sets, by field, whichever model has them; arguments as of `build`."""
    table = _merge(_read_profile(profile_path), config_layer, flags).get("training", {})
    return _named(table, Hyperparameters, "[training]")


def _read_profile(path: pathlib.Path) -> dict[str, Any]:
    profile = read_toml(path, PROFILE_KEYS, "profile")
    schema = (path.parent / str(profile.get("schema", ""))).absolute()
    if not schema.is_file():
        raise BadInput(f'profile {path} must name its schema file (schema = "FILE.pbtxt"); {schema} does not exist')
    return {"name": path.stem, **profile, "schema": schema}


def _training(values: Mapping[str, Any], flags: Mapping[str, Any]) -> Hyperparameters:
    """Returns the hyperparameters; the fields that the model lacks are ignored unless they are flags.

    A file sets fields for all models.
    """
    model = str(values.get("model", Hyperparameters.model_fields["model"].default))
    fields = hyperparameters.model_fields(model) if model in hyperparameters.MODELS else []
    overrides = {name: value for name, value in values.items() if name in fields or name.replace("_", "-") in flags}
    return Hyperparameters.of(**overrides | {"model": model})


def _named(table: Any, model: type[Table], source: str) -> dict[str, Any]:
    """Returns the values of a TOML table by field."""
    if not isinstance(table, Mapping):
        raise BadInput(f"{source} must be a table, not {table!r}")
    names = model.keys()
    refuse_unknown(table, names, source)
    return {names[key]: value for key, value in table.items()}


def _merge(*layers: Layer) -> dict[str, Any]:
    """Merges tables; the values of later ones win."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both_tables = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = _merge(result[key], value) if both_tables else value
    return result


class ModelLocation(NamedTuple):
    """The output folder of runs on this machine, and the folder of the model that they push to."""

    output: pathlib.Path
    model: Destination

    @property
    def database(self) -> pathlib.Path:
        return self.output / "metadata.db"


def add_location_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --output, --serving-dir, --serving-name, --config and --json."""
    add_flags(parser, ("output", "serving-dir", "serving-name"))
    parser.add_argument("--config", metavar="FILE", help="TOML file of the runs; flags override it")
    cli.add_json_argument(parser)


def open_location(args: argparse.Namespace) -> ModelLocation:
    """Opens the folders that the arguments name, as a run does.

    Raises:
        BadInput: a flag or the config file is wrong.
    """
    config_layer = read_config(args.config)
    config = build(read_flags(args), config_layer, find_profile(config_layer.get("profile", "mnist")))
    paths.refuse_patterns(config.output, "output")
    return ModelLocation(config.output, open_destination(config.model_dir))
